"""Two ways of doing the same, measured by turns: their times, and what comes of each turn as a ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.gpu.measure import summary

# Seconds between two calls. Threads of the one (PyTorch's, of libgomp) go on spinning for milliseconds on the cores
# that the other needs: the small model's guider took 13 ms after a call of PyTorch's, and 6 ms after a pause.
QUIET = 0.02


def pair_figures(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Seconds of both, turn by turn -> `measure.summary` of ours, of theirs, and of theirs / ours turn by turn.

    A machine that is slow for a while is slow for both of a turn, so the ratios' spread is less than that of the times.
    Raises ValueError unless there are as many of both.
    """
    ratios = [other / own for own, other in zip(ours, theirs, strict=True)]
    return {"ours": summary(ours), "theirs": summary(theirs), "ratio": summary(ratios)}
