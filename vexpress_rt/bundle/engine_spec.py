"""The inputs and outputs of each engine: names, named dims and dtypes.

The exporter, the engines, the test doubles, the manifest and the documentation derive from this module.

Dims: H and W, pixels of the picture; h and w, the same in latents; F, frames of a context window; c, latent channels;
K, channels of the U-Net's first level; Q, audio tokens per frame, each of D values; R, rows of audio features per
frame, each of A values; N samples and T feature rows of a clip (any number); B, attention heads; S tokens and E
channels per head of the attention block that the tensor is named after.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from vexpress_rt.config import brief
from vexpress_rt.errors import ConfigError
from vexpress_rt.types import MAX_BUNDLE_SIDE

PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
# ONNX Runtime has no bfloat16 convolutions on the CPU, and NumPy has no bfloat16: such tensors stay on the GPU.
ONLY_TENSORRT = "bf16"
# The denoiser's input for the noise level, one of the two: the timestep or its sinusoidal embedding.
TIMESTEP, TIMESTEP_SINES = "timestep", "timestep_sines"
# The spatial signals that a model can have a guider for, and the engine of each. docs/model/specification.md, stage 4.
GUIDERS = {"keypoints": "pose_guider", "depth": "depth_guider"}
AUDIO_SECONDS = 60  # longest speech of one run of the audio encoder, whose self-attention is quadratic


@dataclass(frozen=True)
class AttentionSite:
    """A transformer block of the U-Nets, in which the denoiser attends to reference features.

    Attributes:
        name: The block's name in the state dict, such as `down_blocks.0.attentions.1`.
        level: Number of times that the latent was halved before the block.
        channels: Channels of the hidden states in the block.
    """

    name: str
    level: int
    channels: int


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The configuration of a model that the runtime needs. `export` reads it from the checkpoint into the manifest."""

    latent_channels: int
    vae_factor: int  # pixels per latent along each side
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    down_attention: tuple[bool, ...]  # whether each level has attention, top to bottom
    up_attention: tuple[bool, ...]  # bottom to top
    attention_heads: int
    cross_attention_dim: int
    audio_tokens: int
    audio_rows: int
    audio_hidden_size: int
    audio_layers: int
    audio_minimum_samples: int
    audio_normalize: bool
    sample_rate: int
    max_frames: int
    train_timesteps: int
    beta_start: float
    beta_end: float
    audio_stride: int = 320  # samples from one feature to the next; missing in older bundles
    guiders: tuple[str, ...] = ("keypoints",)  # the signals that it has a guider for; missing in older bundles

    def __post_init__(self) -> None:
        levels, heads = len(self.block_out_channels), self.attention_heads
        if not 1 <= levels <= 16 or {len(self.down_attention), len(self.up_attention)} != {levels}:
            raise ConfigError(
                f"the model configuration has {levels} levels, {len(self.down_attention)} of down_attention and "
                f"{len(self.up_attention)} of up_attention; expected 1 to 16, and as many of each"
            )
        sizes = {f.name: getattr(self, f.name) for f in fields(self) if f.type == "int"}
        sizes |= {f"block_out_channels[{i}]": channels for i, channels in enumerate(self.block_out_channels)}
        for name, size in sizes.items():
            limit = 64 if name == "layers_per_block" else 1 << 20
            if not 1 <= size <= limit:
                raise ConfigError(f"the model configuration has {name} = {size}; expected 1 to {limit}")
        if wrong := sorted({site.channels for site in self.attention_sites() if site.channels % heads}):
            raise ConfigError(f"the model configuration has {heads} heads for {wrong} channels; expected a divisor")
        if set(self.guiders) - GUIDERS.keys() or len(set(self.guiders)) != len(self.guiders):
            raise ConfigError(
                f"the model configuration has guiders for {brief(self.guiders)}; expected some of "
                f"{', '.join(GUIDERS)}, each once"
            )
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ConfigError(
                f"the model configuration has betas from {self.beta_start} to {self.beta_end}; "
                "expected 0 < beta_start <= beta_end < 1"
            )

    def attention_sites(self) -> Iterator[AttentionSite]:
        """Yield the blocks that attend to reference features, in the order of the denoiser."""
        levels = len(self.block_out_channels)
        for level, attends in enumerate(self.down_attention):
            for layer in range(self.layers_per_block if attends else 0):
                yield AttentionSite(f"down_blocks.{level}.attentions.{layer}", level, self.block_out_channels[level])
        yield AttentionSite("mid_block.attentions.0", levels - 1, self.block_out_channels[-1])
        for block, attends in enumerate(self.up_attention):
            level = levels - 1 - block
            for layer in range(self.layers_per_block + 1 if attends else 0):
                yield AttentionSite(f"up_blocks.{block}.attentions.{layer}", level, self.block_out_channels[level])

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ModelConfig:
        """Read the result of `to_json`. Raises ConfigError, which names the wrong keys.

        Args:
            data: A value from JSON.
        """
        expected = {f.name: f.type for f in fields(cls) if f.name in data or f.default is MISSING}
        if wrong := sorted(set(data) ^ set(expected)):
            raise ConfigError(f"the model configuration lacks or does not know {', '.join(wrong)[:1000]}")
        values: dict[str, Any] = {}
        for name, kind in expected.items():
            value = tuple(data[name]) if isinstance(data[name], list) else data[name]
            items = value if isinstance(value, tuple) else (value,)
            wanted = next((one for one in (float, bool, str) if one.__name__ in str(kind)), int)
            right = all(type(item) in ((int, float) if wanted is float else (wanted,)) for item in items)
            empty = not items and name != "guiders"
            if isinstance(value, tuple) != ("tuple" in str(kind)) or empty or not right:
                raise ConfigError(f"the model configuration has {name} = {brief(data[name])}; expected {kind}")
            values[name] = value
        return cls(**values)


@dataclass(frozen=True)
class VideoShape:
    """The sizes that a bundle is built for: height and width in pixels, and frames of a context window."""

    height: int
    width: int
    frames: int

    def check(self, model: ModelConfig, *, allow_odd_sizes: bool = False) -> None:
        """Check that a model can be built for these sizes.

        Args:
            model: The configuration of the model.
            allow_odd_sizes: By default, height and width must be multiples of 2**(levels - 1) VAE cells (64 pixels for
                the released model), so that every level of the U-Net halves evenly. This allows all multiples of a VAE
                cell: upsampling handles odd sizes as the public implementation does, with lower quality at the borders.

        Raises:
            ConfigError: A size is not allowed. The message suggests the nearest one.
        """
        step = model.vae_factor * (1 if allow_odd_sizes else 2 ** (len(model.block_out_channels) - 1))
        for name, value in (("height", self.height), ("width", self.width)):
            if not step <= value <= MAX_BUNDLE_SIDE or value % step:
                near = min(max(step, (value + step // 2) // step * step), MAX_BUNDLE_SIDE // step * step)
                why = "the VAE's cell" if allow_odd_sizes else "so that every level of the U-Net halves evenly"
                hint = "" if allow_odd_sizes else f", or pass --allow-odd-sizes for multiples of {model.vae_factor}"
                raise ConfigError(
                    f"{name} is {value}; expected a multiple of {step} ({why}), at most {MAX_BUNDLE_SIDE}: "
                    f"try {near}{hint}"
                )
        if not 1 <= self.frames <= model.max_frames:
            raise ConfigError(
                f"frames is {self.frames}; expected 1 to {model.max_frames}, "
                "the length of the motion modules' table of positions"
            )


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of an engine.

    Attributes:
        name: The name of the tensor.
        dims: The names of its dims: see the module's docstring.
        shape: The sizes of its dims; None for a size that is only known at run time.
        dtype: Its element type, by NumPy's name.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int | None, ...]
    dtype: str

    def describe(self) -> str:
        """Return `name: dtype (dim=size, ...)`, for messages and documentation."""
        sizes = ", ".join(
            d if s is None or d == str(s) else f"{d}={s}" for d, s in zip(self.dims, self.shape, strict=True)
        )
        return f"{self.name}: {self.dtype} ({sizes})"


@dataclass(frozen=True)
class EngineSpec:
    """The inputs and outputs of an engine, in order."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def interface_errors(found: EngineSpec, expected: EngineSpec, *, arrays: bool = False) -> list[str]:
    """Compare the inputs and outputs of an engine with its specification.

    Tensors are compared by name, dims by size.

    Args:
        found: The inputs and outputs of the engine. A size of None fits any size.
        expected: The specification. A size of None fits only None, or with `arrays` any size.
        arrays: Whether `found` describes the arrays of a call instead of an engine.

    Returns:
        A line for each tensor that differs; empty if the engine fits.
    """
    errors = []
    for side in ("input", "output"):
        has = {tensor.name: tensor for tensor in getattr(found, f"{side}s")}
        wants = {tensor.name: tensor for tensor in getattr(expected, f"{side}s")}
        errors += [f"{found.name} lacks the {side} {wants[name].describe()}" for name in wants if name not in has]
        errors += [f"{found.name} has an unknown {side} {has[name].describe()}" for name in has if name not in wants]
        for name in (name for name in wants if name in has):
            one, other = has[name], wants[name]
            fits = len(one.shape) == len(other.shape) and all(
                size is None or size == wanted or (arrays and wanted is None)
                for size, wanted in zip(one.shape, other.shape, strict=True)
            )
            if not fits or one.dtype != other.dtype:
                errors.append(f"{found.name} has the {side} {one.describe()}; expected {other.describe()}")
    return errors


# name: (inputs, outputs), a tensor per row: "NAME DTYPE DIM...". `activation` is the bundle's precision; a name that
# ends in /* stands for one tensor per attention site. `noise level` is one of `_NOISE_LEVEL`.
_REFERENCE = ("reference_key/* activation B S E", "reference_value/* activation B S E")
_DENOISER = (
    "latents float32 F c h w",
    "noise level",
    "reference_attention_weight float32 1",
    "audio_attention_weight float32 1",
    "pose_feature activation F K h w",
    "audio_tokens activation F Q D",
    *_REFERENCE,
)
_NOISE_LEVEL = {False: f"{TIMESTEP} float32 1", True: f"{TIMESTEP_SINES} float32 1 K"}  # by `sines_as_input`
_ENGINES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "vae_encoder": (("image uint8 H W 3",), ("latent float32 1 c h w",)),
    "reference_net": (("latent float32 1 c h w",), _REFERENCE),
    "audio_encoder": (("samples float32 1 N",), ("features float32 1 T A",)),
    "audio_projection": (("feature_rows float32 F R A",), ("audio_tokens activation F Q D",)),
    "pose_guider": (("drawings uint8 F H W 3",), ("pose_feature activation F K h w",)),
    "depth_guider": (("depth float32 F H W",), ("depth_feature activation F K h w",)),
    "denoiser": (_DENOISER, ("unconditional float32 F c h w", "conditional float32 F c h w")),
    "denoiser_cond": (_DENOISER, ("conditional float32 F c h w",)),
    "vae_decoder": (("latent float32 1 c h w",), ("frame uint8 H W 3",)),
}
KNOWN_ENGINES = tuple(_ENGINES)
ENGINE_NAMES = tuple(name for name in KNOWN_ENGINES if name != GUIDERS["depth"])  # those of the released model

# SCRFD is released as an ONNX graph with an interface of its own: it is copied, not exported.
FACE_DETECTOR = "face_detector"


def engine_specs(
    model: ModelConfig, shape: VideoShape, precision: str = "fp32", *, sines_as_input: bool = False
) -> dict[str, EngineSpec]:
    """Return the specification of every engine of a bundle, by name. Guiders that the model lacks have none.

    Args:
        model: The configuration of the model.
        shape: The sizes of the bundle.
        precision: A key of `PRECISIONS`.
        sines_as_input: Whether the denoisers take the sinusoidal timestep embedding (`timestep_sines.timestep_sines`)
            in place of the timestep; see `target.Target`.
    """
    f = model.vae_factor
    sizes: dict[str, int | None] = {
        "H": shape.height, "W": shape.width, "h": shape.height // f, "w": shape.width // f, "F": shape.frames,
        "c": model.latent_channels, "K": model.block_out_channels[0],
        "Q": model.audio_tokens, "D": model.cross_attention_dim,
        "R": model.audio_rows, "A": model.audio_hidden_size, "N": None, "T": None, "B": model.attention_heads,
    }  # fmt: skip
    dtypes = {"activation": PRECISIONS[precision]}

    def expand(rows: tuple[str, ...]) -> tuple[TensorSpec, ...]:
        rows = tuple(_NOISE_LEVEL[sines_as_input] if row == "noise level" else row for row in rows)
        return tuple(tensor for row in rows for tensor in _tensors(row, model, sizes, dtypes))

    absent = {engine for signal, engine in GUIDERS.items() if signal not in model.guiders}
    return {name: EngineSpec(name, expand(i), expand(o)) for name, (i, o) in _ENGINES.items() if name not in absent}


def _tensors(
    row: str, model: ModelConfig, sizes: dict[str, int | None], dtypes: dict[str, str]
) -> Iterator[TensorSpec]:
    name, dtype, *dims = row.split()
    dtype = dtypes.get(dtype, dtype)
    if not name.endswith("/*"):
        shape = tuple(int(d) if d.isdigit() else sizes[d] for d in dims)
        yield TensorSpec(name, tuple(dims), shape, dtype)
        return
    for site in model.attention_sites():
        local = sizes | {"S": site_tokens(sizes["h"], sizes["w"], site), "E": site.channels // model.attention_heads}
        yield TensorSpec(name[:-1] + site.name, tuple(dims), tuple(local[d] for d in dims), dtype)


def site_tokens(height: int | None, width: int | None, site: AttentionSite) -> int:
    """Return the number of tokens at an attention site. Each halving of the latent rounds up.

    Args:
        height: Height of the latent.
        width: Width of the latent.
        site: The site.
    """
    assert height is not None
    assert width is not None
    for _ in range(site.level):
        height, width = (height + 1) // 2, (width + 1) // 2
    return height * width
