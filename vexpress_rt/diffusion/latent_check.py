"""Range checks of latents before they are decoded, because a decoder turns NaN into a black picture without an error.

A check takes two passes over a window's denoised latents, 0.1 ms for the released model. Only after a failed check is
the cause searched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vexpress_rt.backends.base import Tensor
from vexpress_rt.bundle.engine_spec import GUIDERS
from vexpress_rt.diffusion.noise import NOISE_LIMIT
from vexpress_rt.errors import BackendError
from vexpress_rt.types import Float32
from vexpress_rt.utils.project_links import EXPORTER

# Latents of a trained VAE stay within about 10. Beyond this limit a float16 decoder overflows: it divides latents by
# the VAE's scaling factor of about 0.18, and the largest float16 is 65504.
LATENT_LIMIT = 1e4

# The engines of the denoiser's inputs; all others come from reference_net.
_SOURCES = {"audio_tokens": "audio_projection", "pose_feature": " or ".join(GUIDERS.values())}
REMEDY = (
    "its weights are damaged, or too large for the bundle's precision: build the bundle again, with --precision fp32 "
    f"if it is fp16 {EXPORTER}"
)


def is_within(values: Any, limit: float = np.inf) -> bool:
    """Return whether all values of an array are finite and of magnitude at most `limit`; True for an empty array.

    Args:
        values: An array of floats, any shape.
        limit: The largest magnitude allowed.
    """
    if not values.size:
        return True
    with np.errstate(invalid="ignore"):
        least, most = float(values.min()), float(values.max())
    return -limit <= least and most <= limit and bool(np.isfinite([least, most]).all())


def check_outputs(engine: str, outputs: Mapping[str, Tensor]) -> None:
    """Check that an engine's outputs on the host are finite.

    Outputs on a device are not copied to the host for this; `check_latents` examines them if it finds bad latents.

    Args:
        engine: The engine's name.
        outputs: Its outputs by name.

    Raises:
        BackendError: An output holds NaN or infinity. The message names the engine.
    """
    for name, tensor in outputs.items():
        if isinstance(tensor, np.ndarray) and not is_within(tensor):
            raise BackendError(
                f"engine {engine} returned {name} with {_worst(tensor)}; expected finite values: {REMEDY}"
            )


def check_latents(
    latents: Float32, first: int, inputs: Mapping[str, Tensor], noise: Callable[[int], Float32], begun: range
) -> None:
    """Check that denoised latents are finite and at most LATENT_LIMIT.

    Args:
        latents: (n, c, h, w) float32 of consecutive frames.
        first: The first of these frames.
        inputs: The denoiser's other inputs by name; a failed check looks for the cause in them.
        noise: Maps a frame to its initial latent (c, h, w); a failed check looks for the cause in it.
        begun: The latents may depend on the noise of these frames.

    Raises:
        BackendError: The latents are out of range. The message names the frame and the cause.
    """
    if is_within(latents, LATENT_LIMIT):
        return
    wrong = next(index for index, latent in enumerate(latents) if not is_within(latent, LATENT_LIMIT))
    found = f"the latents of frame {first + wrong} hold {_worst(latents[wrong])}; expected at most {LATENT_LIMIT:g}"
    raise BackendError(f"{found}: {_cause(inputs, noise, begun)}")


def _cause(inputs: Mapping[str, Tensor], noise: Callable[[int], Float32], begun: range) -> str:
    """Find the noise or the engine that caused bad latents; describe it, with a remedy."""
    for frame in begun:
        if not is_within(start := noise(frame), NOISE_LIMIT):
            return f"the noise of frame {frame} holds {_worst(start)}; pass standard normal noise, or None"
    for name, tensor in inputs.items():
        if str(tensor.dtype) not in ("float16", "float32"):  # NumPy has no bfloat16
            continue
        array = tensor if isinstance(tensor, np.ndarray) else tensor.numpy()
        if not is_within(array):
            return f"engine {_SOURCES.get(name, 'reference_net')} returned {name} with {_worst(array)}; {REMEDY}"
    return f"all inputs of the denoiser are finite, so it computed these values; {REMEDY}"


def _worst(array: Any) -> str:
    """Describe the worst values of an array."""
    if count := int(np.isnan(array).sum()):
        return f"NaN ({count} of {array.size} values)"
    return f"values up to {float(np.abs(array).max()):.3g}"
