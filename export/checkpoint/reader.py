"""Checkpoint directories in the official layout: networks with their weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from export.checkpoint.config_files import read_own, read_preprocessor, read_unet, read_vae, read_wav2vec2
from export.checkpoint.layout import (
    AUDIO_CONFIG,
    AUDIO_PREPROCESSOR,
    DETECTOR,
    OWN_CONFIG,
    UNET_CONFIG,
    VAE_CONFIG,
)
from export.checkpoint.tensors import find_file, first_names, load_strict, read_tensors
from export.errors import DOWNLOAD_COMMAND, CheckpointError
from export.networks.architecture import GUIDER_NETWORKS, Architecture
from export.networks.config import AudioProjectionConfig, GuiderConfig
from export.networks.layers import to_precision
from export.networks.reference_net import is_unused
from export.networks.registry import make_network
from vexpress_rt.bundle.bundle import sha256_file

# Tensor names of the halves of the autoencoder begin with these.
VAE_PREFIXES = {"vae_encoder": ("encoder.", "quant_conv."), "vae_decoder": ("decoder.", "post_quant_conv.")}
# Names in older files, and their present names.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_POSITIONS = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
# Tensors of wav2vec2 that no audio feature depends on: the head, and the mask that training uses.
UNUSED_AUDIO_TENSORS = ("lm_head.", "wav2vec2.masked_spec_embed", "masked_spec_embed")


class Checkpoint:
    """A checkpoint directory.

    Attributes:
        folder: The directory.
    """

    def __init__(self, folder: Path | str):
        """Open a checkpoint directory; files are read when a method needs them.

        Args:
            folder: The directory.

        Raises:
            CheckpointError: There is no such directory.
        """
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise CheckpointError(
                f"{self.folder} is not a folder: fetch the released checkpoint with {DOWNLOAD_COMMAND}, or give "
                "another folder with --weights"
            )
        self._tensors: dict[Path, Mapping[str, Tensor]] = {}
        self._digests: dict[Path, str] = {}

    @cached_property
    def architecture(self) -> Architecture:
        """The hyper-parameters of every network, checked against each other.

        Raises:
            CheckpointError: A file is missing or damaged, or networks do not fit each other.
        """
        own, recommended, guiders = read_own(self.folder)
        audio_normalize, sample_rate = read_preprocessor(self.folder)
        result = Architecture(
            unet=read_unet(self.folder, own["motion_module"]),
            vae=read_vae(self.folder),
            audio_projection=self._audio_projection(own["audio_projection"]),
            guiders={signal: self._guider(GUIDER_NETWORKS[signal]) for signal in guiders},
            wav2vec2=read_wav2vec2(self.folder),
            scheduler=own["scheduler"],
            audio_normalize=audio_normalize,
            sample_rate=sample_rate,
            recommended=recommended,
        )
        self._tensors.clear()
        result.check()
        return result

    def network(self, name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Load a network.

        Args:
            name: A key of `export.networks.registry.NETWORKS`.
            dtype: Dtype of the network's matrices. The audio encoder is always float32.

        Returns:
            The module with its weights, in evaluation mode.

        Raises:
            CheckpointError: A file is missing or damaged, or its tensors do not fit the configuration.
        """
        module = make_network(name, self.architecture)
        if name == "audio_encoder":
            module.masked_spec_embed = None  # used in training alone
        else:
            module = to_precision(module, dtype)
        unused = frozenset[str]()
        if name == "reference_net":
            unused = frozenset(key for key in module.state_dict() if is_unused(key, self.architecture.unet))
        load_strict(module, self.tensors(name), self._source(name), unused)
        self._tensors.clear()  # unmaps the files: at full size their pages are several GB
        if name == "audio_encoder":
            with torch.no_grad():
                parametrize.remove_parametrizations(module.encoder.pos_conv_embed.conv, "weight")
        return module

    def tensors(self, name: str) -> Mapping[str, Tensor]:
        """Return the tensors of a network, under the names that its module has.

        Args:
            name: A key of `export.networks.registry.NETWORKS`.

        Raises:
            CheckpointError: A file is missing or damaged, or has a tensor twice.
        """
        read = {path: self._read(path) for path in self.files(name)}
        if name in VAE_PREFIXES:
            (tensors,) = read.values()
            return _vae_tensors(tensors, VAE_PREFIXES[name], self._source(name))
        merged: dict[str, Tensor] = {}
        for path, tensors in read.items():
            if twice := sorted(set(merged) & set(tensors)):
                raise CheckpointError(f"{path} repeats tensors of {self.files(name)[0].name}: {first_names(twice)}")
            merged.update(tensors)
        return _audio_tensors(merged, self._source(name)) if name == "audio_encoder" else merged

    def files(self, name: str) -> list[Path]:
        """Return the files that hold a network's weights.

        Args:
            name: A key of `export.networks.registry.NETWORKS`.

        Raises:
            CheckpointError: A file is missing.
        """
        if name in VAE_PREFIXES:
            folder = self.folder / "sd-vae-ft-mse"
            return [find_file(folder, "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")]
        if name == "audio_encoder":
            return [find_file(self.folder / "wav2vec2-base-960h", "model.safetensors", "pytorch_model.bin")]
        halves = (name, "motion_module") if name == "denoising_unet" else (name,)
        return [find_file(self.folder / "v-express", f"{half}.bin", f"{half}.safetensors") for half in halves]

    def digest(self, name: str) -> str:
        """Return the sha256 over the bytes of a network's weights and of the configuration files.

        Args:
            name: A key of `export.networks.registry.NETWORKS`.

        Raises:
            CheckpointError: A file is missing or cannot be read.
        """
        configs = [UNET_CONFIG, VAE_CONFIG, AUDIO_CONFIG, AUDIO_PREPROCESSOR, OWN_CONFIG]
        result = hashlib.sha256()
        for path in [*self.files(name), *(self.folder / c for c in configs)]:
            result.update(self._file_digest(path).encode())
        return result.hexdigest()

    def detector(self) -> Path | None:
        """Return the file of the face detector; None if the directory has none."""
        path = self.folder / DETECTOR
        return path if path.is_file() else None

    def _file_digest(self, path: Path) -> str:
        if path not in self._digests:
            try:
                self._digests[path] = sha256_file(path) if path.is_file() else ""
            except OSError as error:
                raise CheckpointError(f"{path} cannot be read: {error}: check the disk and fetch it again") from error
        return self._digests[path]

    def _source(self, name: str) -> str:
        return " with ".join(str(path) for path in self.files(name))

    def _read(self, path: Path) -> Mapping[str, Tensor]:
        if path not in self._tensors:
            self._tensors[path] = read_tensors(path)
        return self._tensors[path]

    def _shape(self, name: str, key: str, dims: int) -> tuple[int, ...]:
        """Return the shape of a tensor that determines the size of its network."""
        tensors = self._read(self.files(name)[0])
        if key not in tensors or tensors[key].dim() != dims:
            found = f"{tensors[key].dim()} dims" if key in tensors else "none"
            raise CheckpointError(
                f"{self._source(name)} does not hold {name}: expected a {key} of {dims} dims, found {found}"
            )
        return tuple(tensors[key].shape)

    def _audio_projection(self, own: dict[str, int]) -> AudioProjectionConfig:
        dim, embedding_dim = self._shape("audio_projection", "proj_in.weight", 2)
        output_dim, _ = self._shape("audio_projection", "proj_out.weight", 2)
        return AudioProjectionConfig(dim=dim, embedding_dim=embedding_dim, output_dim=output_dim, **own)

    def _guider(self, name: str) -> GuiderConfig:
        """Return the hyper-parameters of a guider, which follow from the shapes of its tensors."""
        blocks = [
            int(match[1])
            for key in self._read(self.files(name)[0])
            if (match := re.fullmatch(r"blocks\.(\d+)\.weight", key))
        ]
        keys = ["conv_in.weight", *(f"blocks.{i}.weight" for i in sorted(blocks) if i % 2), "conv_out.weight"]
        *widths, output = (self._shape(name, key, 4)[0] for key in keys)
        return GuiderConfig(channels=tuple(widths), output=output)


def _vae_tensors(tensors: Mapping[str, Tensor], prefixes: tuple[str, ...], source: str) -> dict[str, Tensor]:
    """Return the half of the autoencoder whose names begin with `prefixes`, under the newer names of its attention."""
    known = tuple(p for group in VAE_PREFIXES.values() for p in group)
    if strange := sorted(key for key in tensors if not key.startswith(known)):
        raise CheckpointError(f"{source} has {len(strange)} unexpected: {first_names(strange)}")
    result: dict[str, Tensor] = {}
    for key in (key for key in tensors if key.startswith(prefixes)):
        value, parts = tensors[key], key.split(".")
        if "attentions" in parts:
            parts = [OLD_ATTENTION.get(part, part) for part in parts]
            value = value.flatten(1) if value.shape[2:] == (1, 1) else value  # a 1x1 convolution
        _add(result, ".".join(parts), value, source)
    return result


def _audio_tensors(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return wav2vec2's tensors without prefix and head, under the newer names of its positional convolution."""
    result: dict[str, Tensor] = {}
    for key in (key for key in tensors if not key.startswith(UNUSED_AUDIO_TENSORS)):
        stem, _, last = key.removeprefix("wav2vec2.").rpartition(".")
        old = "pos_conv_embed" in stem and last in OLD_POSITIONS
        _add(result, f"{stem}.{OLD_POSITIONS[last] if old else last}", tensors[key], source)
    return result


def _add(tensors: dict[str, Tensor], key: str, value: Tensor, source: str) -> None:
    if key in tensors:
        raise CheckpointError(f"{source} has {key} twice, under an older and a newer name: remove one")
    tensors[key] = value
