"""The plain PyTorch pipeline from photo and speech to frames: the exporter's modules, eager, in upstream's order.

1. VAE encoder and ReferenceNet on the photo; wav2vec2 on the whole clip; audio projection and guider on all frames.
2. Every step over all windows, with both passes of guidance (see `benchmarks.cpu.upstream`).
3. VAE decoder frame by frame, the 3x3x3 median in PyTorch, and conversion to bytes.

Windows, noise and sampler are the runtime's, so the frames are equal up to rounding. `autocast` runs the same under
`torch.autocast("cpu", torch.bfloat16)`, as a user of the public code can switch it on by one line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.cpu.upstream import UpstreamConditions, UpstreamDenoiser
from benchmarks.gpu.scene import Scene
from benchmarks.gpu.torch_engines import TorchEngines
from benchmarks.gpu.torch_video import ConditionsOf, TorchVideo
from export.checkpoint.reader import Checkpoint
from export.networks.denoising_unet import DenoisingUNet
from vexpress_rt.bundle.engine_spec import VideoShape
from vexpress_rt.config import Settings
from vexpress_rt.diffusion.context_windows import Window
from vexpress_rt.face.keypoint_map import draw_keypoint_map
from vexpress_rt.media.recording import Recording
from vexpress_rt.stages.audio_features import feature_windows
from vexpress_rt.types import UInt8

FEATURE = "feature/"  # prefix of the names of ReferenceNet's features; the rest is the attention site
TAPS = 3  # size of the median's window along time, rows and columns


class UpstreamReferenceNet:
    """ReferenceNet as an engine: from a latent (1, c, h, w) to features (1, S, C) by attention site, not projected."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, Any], *, keep_on_device: bool = False) -> dict[str, torch.Tensor]:
        """Return features by name as tensors, whatever `keep_on_device` is."""
        del keep_on_device
        features = self._network(torch.as_tensor(inputs["latent"]), torch.zeros(1))
        return {FEATURE + name: feature for name, feature in features.items()}


class UpstreamDenoisers:
    """`UpstreamDenoiser` as an engine.

    Args:
        denoiser: The module.
        both: Whether to return both predictions, or only the conditional one.
    """

    def __init__(self, denoiser: UpstreamDenoiser, *, both: bool) -> None:
        self._denoiser, self._both = denoiser, both

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, Any], *, keep_on_device: bool = False) -> dict[str, torch.Tensor]:
        """Return the predictions of a window as tensors, whatever `keep_on_device` is.

        Args:
            inputs: Inputs of the denoiser engine, with features instead of keys and values.
            keep_on_device: Ignored.
        """
        del keep_on_device
        given = {name: torch.as_tensor(value) for name, value in inputs.items()}
        features = {name.removeprefix(FEATURE): t for name, t in given.items() if name.startswith(FEATURE)}
        weights = given["reference_attention_weight"], given["audio_attention_weight"]
        latents, timestep = given["latents"], given["timestep"]
        pose, tokens = given["pose_feature"], given["audio_tokens"]
        if self._both:
            halves = self._denoiser(latents, timestep, *weights, pose, tokens, features)
            return dict(zip(("unconditional", "conditional"), halves, strict=True))
        conditions = UpstreamConditions(len(latents), features, tokens, *weights)
        return {"conditional": self._denoiser.unet(latents, timestep, pose, conditions)}


class UpstreamEngines(TorchEngines):
    """All engines in float32 on the CPU; ReferenceNet and denoisers compute in upstream's order.

    Their weights require gradients, as those of the public code do, because autocast keeps its bfloat16 copies between
    two calls of such weights alone. In inference mode no gradient is computed.
    """

    def __init__(self, checkpoint: Checkpoint, shape: VideoShape) -> None:
        super().__init__(checkpoint, shape, "fp32", "cpu")
        self._own: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        """Return an engine, loaded at its first use."""
        if name not in ("reference_net", "denoiser", "denoiser_cond"):
            return super().get(name)
        if name not in self._own:
            self._own[name] = self._make(name)
        return self._own[name]

    def network(self, name: str) -> nn.Module:
        """Return a network of the checkpoint; engines share it."""
        with torch.inference_mode(False):  # wherever it is loaded: tensors of inference mode cannot require gradients
            return super().network(name).requires_grad_(True)

    def _make(self, name: str) -> UpstreamReferenceNet | UpstreamDenoisers:
        if name == "reference_net":
            return UpstreamReferenceNet(self.network(name))
        network = self.network("denoising_unet")
        assert isinstance(network, DenoisingUNet)
        return UpstreamDenoisers(UpstreamDenoiser(network), both=name == "denoiser")


class UpstreamVideo(TorchVideo):
    """A maker of videos with the plain pipeline."""

    def __init__(self, engines: UpstreamEngines) -> None:
        super().__init__(engines, lambda: None)

    def _conditions(self, scene: Scene, recording: Recording, length: int) -> ConditionsOf:
        """Compute tokens and keypoint features of all frames at once; return those of a window."""
        model, shape, get = self._engines.model, self._engines.shape, self._engines.get
        surplus = max(0, shape.frames - length)
        rows = _extended(feature_windows(self._hear(recording), length, model.audio_rows, 0, length), surplus)
        drawings = np.stack([draw_keypoint_map(points, shape.height, shape.width) for points in scene.keypoints])
        tokens = get("audio_projection").run({"feature_rows": rows}, keep_on_device=True)
        features = get("pose_guider").run({"drawings": _extended(drawings, surplus)}, keep_on_device=True)
        whole = {**tokens, **features}

        def of(window: Window) -> dict[str, torch.Tensor]:
            return {name: tensor[window.start : window.stop] for name, tensor in whole.items()}

        return of

    @torch.inference_mode()
    def _decode(self, latents: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Decode latents (L, c, h, w) to (L, 3, H, W) float32 in [0, 1]; the conversion to bytes follows the median.

        As in the public code, frames become float32 here, whatever the decoder computes in.
        """
        decoder = self._engines.get("vae_decoder").module.vae_decoder
        return torch.cat([(decoder(latent[None]) / 2 + 0.5).clamp(0, 1).float() for latent in latents])

    @torch.inference_mode()
    def _filter(self, frames: torch.Tensor, config: Settings) -> UInt8:  # type: ignore[override]
        filtered = torch_median(frames) if config.median_filter else frames
        return (filtered * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def autocast() -> torch.autocast:
    """Return a context in which PyTorch computes products, convolutions and attention in bfloat16."""
    return torch.autocast("cpu", torch.bfloat16)


@contextmanager
def kept_casts() -> Iterator[None]:
    """Keep autocast's bfloat16 copies of the weights until the end, for single calls that stand for a whole video.

    Otherwise they are dropped at the end of each outermost `autocast`; in a video they serve all of its steps.
    """
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()


def torch_median(frames: torch.Tensor) -> torch.Tensor:
    """Return the 3x3x3 median of frames (L, 3, H, W), with mirrored borders and ends.

    L, H and W must be at least 2, because PyTorch cannot mirror a single value.
    """
    clip = nn.functional.pad(frames.transpose(0, 1), (1,) * 6, mode="reflect")  # (3, L + 2, H + 2, W + 2)
    return torch.stack([_middle(clip[:, i : i + TAPS]) for i in range(len(frames))])


def _middle(frames: torch.Tensor) -> torch.Tensor:
    """Return the median (3, H, W) of padded frames (3, TAPS, H + 2, W + 2)."""
    around = frames.unfold(2, TAPS, 1).unfold(3, TAPS, 1)  # (3, time, H, W, rows, columns)
    return around.permute(0, 2, 3, 1, 4, 5).flatten(3).median(dim=-1).values


def _extended(frames: np.ndarray, surplus: int) -> np.ndarray:
    """Repeat the last frame `surplus` times, for a video that is shorter than a window."""
    return np.concatenate([frames, np.repeat(frames[-1:], surplus, axis=0)]) if surplus else frames
