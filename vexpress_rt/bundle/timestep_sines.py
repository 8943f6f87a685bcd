"""The sinusoidal timestep embedding, for denoisers that take it as an input (`timestep_sines`).

Graphs with the input `timestep` compute it themselves, in float32. An engine of lower precision would round the angles,
which reach 999, before it computes their sines, so the runtime computes the embedding here.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_LONGEST_PERIOD = 10000.0  # in units of 2 pi timesteps


def timestep_frequencies(size: int) -> NDArray[np.float64]:
    """Return the frequencies of the embedding, in radians per timestep: from 1 down, in equal ratios.

    Args:
        size: Length of the embedding, which is even: twice the number of frequencies.

    Returns:
        (size / 2,) float64.
    """
    half = size // 2
    frequencies: NDArray[np.float64] = np.exp(np.arange(half) * (-math.log(_LONGEST_PERIOD) / half))
    return frequencies


def timestep_sines(timestep: float, size: int) -> NDArray[np.float32]:
    """Compute the embedding of a timestep: the cosines of all frequencies, then the sines.

    This is `Timesteps` of diffusers with `flip_sin_to_cos=True` and `downscale_freq_shift=0`, computed in float64.

    Args:
        timestep: The timestep, 0 to the number of training timesteps - 1.
        size: Length of the embedding, which is even: the channels of the U-Net's first level.

    Returns:
        (1, size) float32.
    """
    angles = timestep * timestep_frequencies(size)
    return np.concatenate([np.cos(angles), np.sin(angles)])[None].astype(np.float32)
