"""Whether numbers can be what they should be, before they become a picture: a decoder makes black of NaN, and says
nothing.

Looking costs two passes over a window's finished latents, 0.1 ms for the released model. What went wrong is looked for
only once something did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vexpress_rt.backends import Tensor
from vexpress_rt.errors import BackendError
from vexpress_rt.noise import LARGEST
from vexpress_rt.records import Float32

# Latents of a trained VAE stay within about 10. Beyond this a decoder in float16 overflows, whatever the latents mean:
# it begins by dividing them by a scale of about 0.18, and float16 ends at 65504.
LATENT_LIMIT = 1e4

_MAKERS = {"audio_tokens": "audio_projection", "pose_feature": "pose_guider"}  # the other inputs are reference_net's
REMEDY = (
    "its weights are damaged, or too large for the bundle's precision: build the bundle again, with --precision fp32 "
    "if it is fp16"
)


def is_within(values: Any, limit: float = np.inf) -> bool:
    """Whether all of an array's numbers are finite and of at most `limit`; an empty one's are."""
    if not values.size:
        return True
    with np.errstate(invalid="ignore"):
        least, most = float(values.min()), float(values.max())
    return -limit <= least and most <= limit and bool(np.isfinite([least, most]).all())


def check_outputs(engine: str, outputs: Mapping[str, Tensor]) -> None:
    """Raise BackendError naming the engine if an array that it gave is not finite. What is on a device is passed over.

    A Resident is looked at when latents that depend on it went wrong.
    """
    for name, tensor in outputs.items():
        if isinstance(tensor, np.ndarray) and not is_within(tensor):
            raise BackendError(f"engine {engine} gave {name} with {_worst(tensor)}; expected finite numbers: {REMEDY}")


def check_latents(
    latents: Float32, first: int, inputs: Mapping[str, Tensor], noise: Callable[[int], Float32], begun: range
) -> None:
    """Raise BackendError if denoised latents (n, c, h, w) of frames `first` and following are none.

    The cause is looked for in `inputs`, the denoiser's others, and in `noise`, the initial latent of a frame, of the
    frames `begun`, which these latents may depend on.
    """
    if is_within(latents, LATENT_LIMIT):
        return
    wrong = next(index for index, latent in enumerate(latents) if not is_within(latent, LATENT_LIMIT))
    found = f"the latents of frame {first + wrong} hold {_worst(latents[wrong])}; expected at most {LATENT_LIMIT:g}"
    raise BackendError(f"{found}: {_cause(inputs, noise, begun)}")


def _cause(inputs: Mapping[str, Tensor], noise: Callable[[int], Float32], begun: range) -> str:
    """Which noise or which engine is to blame, and what to do."""
    for frame in begun:
        if not is_within(start := noise(frame), LARGEST):
            return f"the noise of frame {frame} holds {_worst(start)}; give standard normal noise, or None"
    for name, tensor in inputs.items():
        if str(tensor.dtype) not in ("float16", "float32"):  # NumPy has no bfloat16
            continue
        array = tensor if isinstance(tensor, np.ndarray) else tensor.host()
        if not is_within(array):
            return f"engine {_MAKERS.get(name, 'reference_net')} gave {name} with {_worst(array)}; {REMEDY}"
    return f"the denoiser was given finite numbers and made these of them; {REMEDY}"


def _worst(array: Any) -> str:
    """What is wrong with an array, for people."""
    if count := int(np.isnan(array).sum()):
        return f"NaN ({count} of {array.size} values)"
    return f"values up to {float(np.abs(array).max()):.3g}"
