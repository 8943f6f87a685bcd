"""Compare implementations by alternating calls: their times, and the ratios of calls of one turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    ratios = _ratios(theirs, ours)
    return {"ours": summary(ours), "theirs": summary(theirs), "ratio": summary(ratios)}


def sides_figures(samples: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return the times of each side, and its speed-up over every side before it.

    Args:
        samples: Seconds of each side's calls, by its name; calls of one turn have one index.

    Returns:
        `sides`: {name: {"seconds": `measure.summary`}}. `speedups`: {name: {earlier name: `measure.summary` of the
        ratios of each turn, the earlier side's seconds / the side's}}.

    Raises:
        ValueError: The numbers of calls differ.
    """
    names = list(samples)
    return {
        "sides": {name: {"seconds": summary(seconds)} for name, seconds in samples.items()},
        "speedups": {
            name: {earlier: summary(_ratios(samples[earlier], samples[name])) for earlier in names[:place]}
            for place, name in enumerate(names)
        },
    }


def _ratios(seconds: Sequence[float], less: Sequence[float]) -> list[float]:
    return [other / own for own, other in zip(less, seconds, strict=True)]
