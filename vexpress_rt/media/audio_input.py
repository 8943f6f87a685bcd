"""Checks of speech that a caller passes: a path, or an array of samples with its rate."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.config import brief, plain_number
from vexpress_rt.errors import AudioError
from vexpress_rt.media.ffmpeg import LOUDEST, MAX_CHANNELS, MAX_RATE, MAX_SECONDS, MIN_RATE
from vexpress_rt.types import Float32
from vexpress_rt.utils.cancellation import check_cancelled
from vexpress_rt.utils.memory_budget import Need, check_memory, free_memory
from vexpress_rt.utils.paths import as_path

AudioSource = str | os.PathLike[str] | tuple[NDArray[Any], int]
_BLOCK = 1 << 22  # samples that are checked at a time, so that the check takes little memory
_LARGE = 1 << 26  # bytes; the free memory is checked before larger copies


def check_source(source: AudioSource) -> Path | tuple[Float32, int]:
    """Check speech that a caller passes, without opening a file.

    Args:
        source: A path; or (samples, rate in Hz), as in `known_duration` and `to_float32`.

    Returns:
        The path; or (samples, rate in Hz) with the shape of the given samples, as float32 of full scale 1. Float32
        samples are not copied.

    Raises:
        AudioError: `source` is neither, or its samples or rate are invalid.
    """
    if isinstance(source, (str, os.PathLike)):
        return as_path(source, "the audio", AudioError)
    known_duration(source)
    return to_float32(source[0]), check_rate(source[1])


def known_duration(source: object) -> Fraction | None:
    """Return the duration in seconds of samples in memory; None for a path, whose file is not read.

    Args:
        source: A path; or (samples, rate in Hz) with samples (N,) or (channels, N), N >= 1.

    Raises:
        AudioError: `source` is neither, or its shape or rate is invalid.
    """
    if isinstance(source, (str, os.PathLike)):
        return None
    if not isinstance(source, tuple) or len(source) != 2:
        raise AudioError(f"audio given as {type(source).__name__}; expected a path, or a tuple (samples, rate in Hz)")
    samples, rate = source[0], check_rate(source[1])
    if not isinstance(samples, np.ndarray) or samples.ndim not in (1, 2):
        found = f"shape {samples.shape}" if isinstance(samples, np.ndarray) else type(samples).__name__
        raise AudioError(f"audio samples of {found}; expected a NumPy array (N,) or (channels, N)")
    if samples.size == 0:
        raise AudioError(f"audio samples of shape {samples.shape}; expected at least one channel and one sample")
    if samples.ndim == 2 and len(samples) > min(MAX_CHANNELS, samples.shape[1]):
        raise AudioError(
            f"audio samples of shape {samples.shape}; expected (channels, N) with at most {MAX_CHANNELS} channels, "
            "and no more channels than samples: transpose them"
        )
    if samples.shape[-1] > MAX_SECONDS * rate:
        raise AudioError(
            f"{samples.shape[-1]} audio samples at {rate} Hz; expected at most {MAX_SECONDS / 3600:g} hours: cut them"
        )
    return Fraction(samples.shape[-1], rate)


def check_rate(rate: Any) -> int:
    """Return a sample rate as an int.

    Args:
        rate: Hz, a whole number of any type in `MIN_RATE` to `MAX_RATE`.

    Raises:
        AudioError: `rate` is not such a number.
    """
    number = plain_number(rate)
    if number is None or not MIN_RATE <= number <= MAX_RATE or number != int(number):
        raise AudioError(
            f"a sample rate of {brief(rate)}; expected whole Hz between {MIN_RATE} and {MAX_RATE}, such as 16000"
        )
    return int(number)


def to_float32(samples: NDArray[Any]) -> Float32:
    """Convert samples to float32 of full scale 1; float32 samples are not copied.

    Args:
        samples: (..., N), int16, or floating point of full scale 1. All values of a masked array count, because a value
            may be masked for being NaN.

    Returns:
        (..., N) float32.

    Raises:
        AudioError: Another dtype; a value that is NaN, infinite or beyond `LOUDEST`; or too little memory for the copy.
    """
    samples = np.asarray(samples)
    if samples.dtype != np.float32 and 4 * samples.size > _LARGE:
        remedy = "pass float32, which is not copied, or the name of a file"
        needs = [Need(4 * samples.size, "their copy in float32", remedy)]
        check_memory(
            f"converting {samples.size} audio samples of dtype {samples.dtype}", needs, free_memory(), AudioError
        )
    if samples.dtype.newbyteorder("=") == np.int16:
        return samples.astype(np.float32) / np.float32(2**15)
    if not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(
            f"audio samples of dtype {samples.dtype}; expected float32 in [-1, 1] or int16: "
            "divide them by the dtype's full scale"
        )
    with np.errstate(over="ignore"):  # an overflow becomes infinite and is refused below
        values = samples.astype(np.float32, copy=False)
    peak, bad, first = 0.0, 0, 0
    pieces = np.atleast_2d(values)
    for start in range(0, pieces.shape[-1], _BLOCK // len(pieces)):
        check_cancelled()
        piece = pieces[:, start : start + _BLOCK // len(pieces)]
        found = np.flatnonzero(~np.isfinite(piece).all(axis=0))
        if found.size and not bad:
            first = start + int(found[0])
        bad += found.size
        if not found.size:
            peak = max(peak, float(np.abs(piece).max(initial=0)))
    if bad:
        raise AudioError(f"{bad} audio samples are NaN or infinite, the first at {first}: clean them before")
    if peak > LOUDEST:
        raise AudioError(f"audio samples of up to {peak:g}; expected full scale 1: divide them by their full scale")
    return values
