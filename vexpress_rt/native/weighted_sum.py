"""Weighted sums of features: the reference implementation of the CUDA kernel.

Source: docs/model/specification.md, stage 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def weighted_sum_numpy(features: Sequence[NDArray[Any]], weights: Sequence[float]) -> NDArray[Any]:
    """Return the sum of arrays, each times its weight, computed in float32 from left to right and rounded once.

    Args:
        features: At least one, all of one shape and of one dtype, float32 or float16.
        weights: A weight for each.

    Returns:
        An array of that shape and dtype.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # the check of latents reports infinity and NaN
        total = np.float32(weights[0]) * features[0].astype(np.float32)
        for feature, weight in zip(features[1:], weights[1:], strict=True):
            total = total + np.float32(weight) * feature.astype(np.float32)
        return np.asarray(total.astype(features[0].dtype))
