"""One torch module for each engine, with the inputs and outputs that `vexpress_rt.bundle.engine_spec` declares."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from export.networks.denoising_unet import Conditions, reference_keys_values
from export.networks.layers import cast
from vexpress_rt.bundle.engine_spec import EngineSpec

TORCH_DTYPES = {
    "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "uint8": torch.uint8,
}  # fmt: skip

# The networks that an engine consists of. Engines of the same networks can share a weights file.
ENGINE_NETWORKS: dict[str, tuple[str, ...]] = {
    "vae_encoder": ("vae_encoder",),
    "reference_net": ("reference_net", "denoising_unet"),
    "audio_encoder": ("audio_encoder",),
    "audio_projection": ("audio_projection",),
    "pose_guider": ("v_kps_guider",),
    "depth_guider": ("depth_guider",),
    "denoiser": ("denoising_unet",),
    "denoiser_cond": ("denoising_unet",),
    "vae_decoder": ("vae_decoder",),
}


class Engine(nn.Module):
    """Base class of the engines. Inputs and outputs are positional, in the order of the specification.

    uint8 inputs are cast first, and outputs become uint8 last, because TensorRT supports that dtype nowhere else.

    Attributes:
        spec: The specification.
        activation: Dtype of the activations.
    """

    def __init__(self, spec: EngineSpec, networks: Mapping[str, nn.Module], activation: torch.dtype):
        """Wrap networks.

        Args:
            spec: Specification of the engine.
            networks: Networks by name, those of `ENGINE_NETWORKS`; their matrices are in `activation`.
            activation: Dtype of the activations.
        """
        super().__init__()
        self.spec, self.activation = spec, activation
        for name in ENGINE_NETWORKS[spec.name]:
            self.add_module(name, networks[name])


class VaeEncoderEngine(Engine):
    """Image (H, W, 3) uint8 -> latent (1, c, h, w) float32."""

    def forward(self, image: Tensor) -> Tensor:
        """Encode the image."""
        picture = image.to(torch.float32).permute(2, 0, 1)[None] / 127.5 - 1
        return self.vae_encoder(cast(picture, self.activation))


class ReferenceNetEngine(Engine):
    """Latent (1, c, h, w) -> keys, then values of all reference attentions, projected by the denoiser's weights."""

    def forward(self, latent: Tensor) -> tuple[Tensor, ...]:
        """Compute keys and values of all reference attentions."""
        features = self.reference_net(cast(latent, self.activation), torch.zeros(1))
        pairs = reference_keys_values(self.denoising_unet, features)
        return *(k for k, _ in pairs.values()), *(v for _, v in pairs.values())


class AudioEncoderEngine(Engine):
    """Normalized samples (1, N) float32 -> features (1, T, A) float32."""

    def forward(self, samples: Tensor) -> Tensor:
        """Compute the audio features."""
        return self.audio_encoder(samples, return_dict=True).last_hidden_state


class AudioProjectionEngine(Engine):
    """Feature windows (F, R, A) -> tokens (F, Q, D)."""

    def forward(self, feature_rows: Tensor) -> Tensor:
        """Compute the audio tokens."""
        return self.audio_projection(cast(feature_rows, self.activation))


class PoseGuiderEngine(Engine):
    """Keypoint maps (F, H, W, 3) uint8 -> features (F, K, h, w)."""

    def forward(self, drawings: Tensor) -> Tensor:
        """Compute the keypoint features."""
        pictures = drawings.to(torch.float32).permute(0, 3, 1, 2) / 255
        return self.v_kps_guider(cast(pictures, self.activation))


class DepthGuiderEngine(Engine):
    """Depth maps (F, H, W) float32 in [0, 1] -> features (F, K, h, w)."""

    def forward(self, depth: Tensor) -> Tensor:
        """Compute the depth features; all three channels of the guider's input are the depth."""
        picture = depth[:, None]
        return self.depth_guider(cast(torch.cat([picture, picture, picture], dim=1), self.activation))


class DenoiserEngine(Engine):
    """Both halves of guidance in one batch -> the unconditional prediction, then the conditional one."""

    halves = 2

    def forward(
        self, latents: Tensor, timestep: Tensor, reference_weight: Tensor, audio_weight: Tensor, pose_feature: Tensor,
        audio_tokens: Tensor, *keys_values: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Predict v.

        `timestep` is (1,), or its sinusoid (1, K), as the specification says. `keys_values` are the keys, then the
        values of all reference attentions.
        """
        frames, sites = latents.shape[0], len(keys_values) // 2
        names = [t.name.partition("/")[2] for t in self.spec.inputs if t.name.startswith("reference_key/")]
        pairs = zip(keys_values[:sites], keys_values[sites:], strict=True)
        conditions = Conditions(
            frames=frames,
            halves=self.halves,
            reference=dict(zip(names, pairs, strict=True)),
            tokens=audio_tokens,
            reference_weight=reference_weight,
            audio_weight=audio_weight,
        )
        prediction = self.denoising_unet(cast(latents, self.activation), timestep, pose_feature, conditions)
        prediction = cast(prediction, torch.float32)
        return tuple(prediction[i * frames : (i + 1) * frames] for i in range(self.halves))


class ConditionalDenoiserEngine(DenoiserEngine):
    """Only the conditional half."""

    halves = 1


class VaeDecoderEngine(Engine):
    """Latent (1, c, h, w) -> frame (H, W, 3) uint8: x / 2 + 0.5, clamped to [0, 1], times 255, truncated."""

    def forward(self, latent: Tensor) -> Tensor:
        """Decode the latent."""
        picture = cast(self.vae_decoder(latent), torch.float32)
        picture = (picture / 2 + 0.5).clamp(0, 1) * 255
        return picture[0].permute(1, 2, 0).to(torch.uint8)


ENGINE_CLASSES: dict[str, type[Engine]] = {
    "vae_encoder": VaeEncoderEngine,
    "reference_net": ReferenceNetEngine,
    "audio_encoder": AudioEncoderEngine,
    "audio_projection": AudioProjectionEngine,
    "pose_guider": PoseGuiderEngine,
    "depth_guider": DepthGuiderEngine,
    "denoiser": DenoiserEngine,
    "denoiser_cond": ConditionalDenoiserEngine,
    "vae_decoder": VaeDecoderEngine,
}


def make_engine(spec: EngineSpec, networks: Mapping[str, nn.Module], activation: torch.dtype) -> Engine:
    """Make the module of an engine.

    Args:
        spec: Specification of the engine.
        networks: Networks by name, those of `ENGINE_NETWORKS`; their matrices are in `activation`.
        activation: Dtype of the activations.

    Returns:
        The module, in evaluation mode.
    """
    return ENGINE_CLASSES[spec.name](spec, networks, activation).eval()
