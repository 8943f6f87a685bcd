"""Compare two implementations by alternating calls: their times, and the ratio of each pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.gpu.measure import summary

# Seconds between two calls. PyTorch's libgomp threads go on spinning for milliseconds on the cores that the next call
# needs: the small model's guider took 13 ms directly after a PyTorch call, and 6 ms after a pause.
QUIET = 0.02


def pair_figures(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Return `measure.summary` of ours, of theirs, and of the ratios theirs / ours of each pair.

    A machine that is slow for a while slows both calls of a pair, so the ratios spread less than the times.

    Args:
        ours: Seconds of our calls.
        theirs: Seconds of the other calls, in the same order.

    Raises:
        ValueError: The numbers of calls differ.
    """
    ratios = [other / own for own, other in zip(ours, theirs, strict=True)]
    return {"ours": summary(ours), "theirs": summary(theirs), "ratio": summary(ratios)}
