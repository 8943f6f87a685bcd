"""Noise: the initial latents.

`frame_noise` is the default: the noise of a frame depends on the seed and the frame alone, not on the length of the
video or its windows. `torch_randn` returns the values of torch's CPU generator, for parity with the public
implementation. Both are computed from raw words of NumPy's bit generators, which NumPy keeps fixed; its normal
distributions may change between releases.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.config import brief, check_choice
from vexpress_rt.errors import ConfigError, InputError
from vexpress_rt.types import Float32

# Larger values are refused: standard normal noise stays below 7, and noise scaled for a sampler below about 100. Far
# larger values decode to a black picture.
NOISE_LIMIT = 1e3
_CHUNK = 1 << 20  # elements generated at a time, a multiple of torch's block of 16; each takes 8 bytes of memory


def frame_noise(seed: int, frame: int, shape: tuple[int, ...]) -> Float32:
    """Return the standard normal noise of one frame.

    Counter-based: Philox 4x64-10 (Salmon et al., SC 2011) under the key `seed`, with the frame in the second word of
    its counter and the block in the first. Elements in C order are pairs of a Box-Muller transform: with words w_2i
    and w_2i+1, u = ((w_2i >> 11) + 1) / 2**53 and theta = 2 pi (w_2i+1 >> 11) / 2**53, elements 2i and 2i + 1 are
    sqrt(-2 ln u) cos(theta) and sqrt(-2 ln u) sin(theta), in float64. So element i depends on seed, frame and i alone.

    Args:
        seed: 0 to 2**64 - 1.
        frame: Number of the frame, 0 to 2**64 - 1.
        shape: Shape of a frame's latent, usually (c, h, w).

    Returns:
        Array of `shape`, float32.

    Raises:
        ConfigError: `seed` or `frame` is out of range.
    """
    seed, frame = _word("seed", seed), _word("frame", frame)
    size = math.prod(shape)
    words = np.random.Philox(key=seed, counter=frame << 64).random_raw(size + size % 2)
    uniforms = (words >> np.uint64(11)).reshape(-1, 2)
    radius = np.sqrt(-2 * np.log((uniforms[:, 0] + np.uint64(1)) * 2.0**-53))
    theta = 2 * np.pi * (uniforms[:, 1] * 2.0**-53)
    pairs = np.stack([radius * np.cos(theta), radius * np.sin(theta)], axis=1)
    return pairs.reshape(-1)[:size].reshape(shape).astype(np.float32)


def torch_randn(seed: int, shape: tuple[int, ...], skip: int = 0) -> Float32:
    """Return the values of `torch.randn(shape)` on the CPU after `torch.manual_seed(seed)`.

    They are equal to torch's within 1e-6: torch's vectorised logarithm and sine differ from NumPy's in the last bits.

    Args:
        seed: 0 to 2**64 - 1, of which torch uses the low 32 bits.
        shape: Any shape.
        skip: 32-bit words taken from the generator beforehand, at least 0. The public implementation's audio encoder
            takes one for each of its layers (docs/model/specification.md, stage 11). So the initial latents of the
            public implementation are `torch_randn(42, (1, c, L, h, w), skip=layers)`.

    Returns:
        Array of `shape`, float32.

    Raises:
        ConfigError: `seed` or `skip` is out of range.
    """
    if index(skip) < 0:
        raise ConfigError(f"skip is {skip}; expected a number of generator words of at least 0")
    size = math.prod(shape)
    generator = _mersenne_twister(_word("seed", seed) & 0xFFFFFFFF)
    generator.random_raw(skip, output=False)
    flat = _few_normals(generator, size) if size < 16 else _many_normals(generator, size)
    return flat.reshape(shape)


def choose_noise(
    choice: object, seed: int, length: int, denoised: int, shape: tuple[int, int, int], skip: int
) -> Callable[[int], Float32]:
    """Return a function from a frame to its initial latent, (c, h, w) float32.

    Args:
        choice: None for `frame_noise` of the seed; "upstream" for `torch_randn` with `skip` words taken beforehand; or
            the initial latents, (1, c, length, h, w) float32, standard normal, of magnitude at most NOISE_LIMIT.
        seed: Seed of the noise.
        length: Frames of the video.
        denoised: Frames that are denoised, more than `length` if the video is shorter than a window. Frames beyond
            given latents get `frame_noise`.
        shape: Shape of a frame's latent, (c, h, w).
        skip: Generator words for "upstream".

    Raises:
        ConfigError: `choice` is another string.
        InputError: `choice` is an array of another shape or dtype, or its values are not finite or out of range.
    """
    if choice is None:
        return lambda frame: frame_noise(seed, frame, shape)
    if isinstance(choice, str):
        check_choice("noise", choice, ("upstream",))
        latents = torch_randn(seed, (1, shape[0], max(length, denoised), *shape[1:]), skip)
    else:
        latents = _check_latent(choice, (1, shape[0], length, *shape[1:]))
    known = latents.shape[2]
    return lambda frame: latents[0, :, frame] if frame < known else frame_noise(seed, frame, shape)


def _check_latent(value: object, expected: tuple[int, ...]) -> Float32:
    try:
        array = np.asarray(value)
    except Exception as error:  # ragged lists; user-defined types
        raise InputError(f"noise is not an array ({brief(str(error))}); expected {expected} float32") from error
    if array.shape != expected or array.dtype != np.float32:
        raise InputError(
            f"noise has shape {array.shape} and dtype {array.dtype}; expected {expected} float32: "
            "(1, latent channels, frames, height, width) of the latent, or None, or 'upstream'"
        )
    if not all(np.isfinite(array[:, :, frame]).all() for frame in range(expected[2])):  # frame by frame: without a copy
        raise InputError("noise holds NaN or infinite values; expected finite ones, standard normal")
    if (most := float(np.abs(array).max(initial=0))) > NOISE_LIMIT:
        raise InputError(
            f"noise holds values up to {most:.3g}; expected standard normal ones (below 7), at most {NOISE_LIMIT:g}: "
            "scale it to a standard deviation of 1"
        )
    return array


def _word(name: str, value: int) -> int:
    if not 0 <= index(value) < 1 << 64:
        raise ConfigError(f"{name} is {value}; expected a whole number from 0 to 2**64 - 1")
    return index(value)


def _mersenne_twister(seed: int) -> np.random.MT19937:
    """Return MT19937 seeded with its authors' init_genrand, which only NumPy's frozen legacy generator offers."""
    generator = np.random.MT19937(0)
    state: Any = np.random.RandomState(seed).get_state(legacy=False)
    generator.state = state
    return generator


def _many_normals(generator: np.random.MT19937, size: int) -> Float32:
    """Return torch's values for at least 16 elements, in blocks of 16; a remainder redraws the last 16."""
    out = np.empty(size, np.float32)
    whole = size - size % 16
    for start in range(0, whole, _CHUNK):
        stop = min(start + _CHUNK, whole)
        out[start:stop] = _blocks_of_16(generator.random_raw(stop - start))
    if size % 16:
        generator.random_raw(size % 16, output=False)  # torch fills these, then draws the last block again
        out[-16:] = _blocks_of_16(generator.random_raw(16))
    return out


def _blocks_of_16(words: NDArray[np.uint64]) -> Float32:
    """Transform words in float32 by Box-Muller within blocks of 16, in which element j pairs with j + 8."""
    uniforms = (words & np.uint64(0xFFFFFF)).astype(np.float32).reshape(-1, 2, 8) * np.float32(2**-24)
    radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - uniforms[:, 0]))
    theta = np.float32(2 * np.pi) * uniforms[:, 1]
    return np.stack([radius * np.cos(theta), radius * np.sin(theta)], axis=1).reshape(-1)


def _few_normals(generator: np.random.MT19937, size: int) -> Float32:
    """Return torch's values for fewer than 16 elements: Box-Muller on 53-bit doubles, the angle drawn first."""
    words = generator.random_raw(4 * ((size + 1) // 2)).reshape(-1, 2, 2)  # (pair, uniform, high and low word)
    bits = (words[:, :, 0] << np.uint64(32) | words[:, :, 1]) & np.uint64((1 << 53) - 1)
    uniforms = bits * 2.0**-53
    radius = np.sqrt(-2 * np.log1p(-uniforms[:, 1]))
    theta = 2 * np.pi * uniforms[:, 0]
    return np.stack([radius * np.cos(theta), radius * np.sin(theta)], axis=1).reshape(-1)[:size].astype(np.float32)
