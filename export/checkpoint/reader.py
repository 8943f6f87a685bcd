"""Checkpoint directories in the official layout: networks with their weights."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
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
    GUIDERS,
    OWN_CONFIG,
    RECOMMENDED,
    RECOMMENDED_LIVE,
    UNET_CONFIG,
    VAE_CONFIG,
)
from export.checkpoint.tensors import check_finite, find_file, first_names, load_strict
from export.checkpoint.trained_files import COMPONENTS, OF_CHECKPOINT, TrainedFiles
from export.checkpoint.training_states import MOTION, latent_scale, read_component
from export.errors import DOWNLOAD_COMMAND, CheckpointError
from export.networks.architecture import GUIDER_NETWORKS, Architecture
from export.networks.config import AudioProjectionConfig, GuiderConfig, VaeConfig
from export.networks.layers import to_precision
from export.networks.reference_net import is_unused
from export.networks.registry import make_network
from vexpress_rt.bundle.bundle import sha256_file
from vexpress_rt.bundle.training_record import TrainedFileEntry, TrainingRecord, printable
from vexpress_rt.utils.file_version import FileVersion

# Tensor names of the halves of the autoencoder begin with these.
VAE_PREFIXES = {"vae_encoder": ("encoder.", "quant_conv."), "vae_decoder": ("decoder.", "post_quant_conv.")}
# Names in older files, and their present names.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_POSITIONS = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
# Tensors of wav2vec2 that no audio feature depends on: the head, and the mask that training uses.
UNUSED_AUDIO_TENSORS = ("lm_head.", "wav2vec2.masked_spec_embed", "masked_spec_embed")
# Tensors of the denoising U-Net that the public inference sets to zero at stage 1 (`--test_stage stage_1`): the last
# layers of motion modules and of audio attentions, whose results are added to their inputs.
OFF_AT_STAGE_1 = (".temporal_transformer.proj_out.", ".attn2.to_out.")
# Places of components in a checkpoint directory: the folder, and names in order of preference.
HUB_FILES = {
    "vae": ("sd-vae-ft-mse", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    "audio_encoder": ("wav2vec2-base-960h", "model.safetensors", "pytorch_model.bin"),
}


class Checkpoint:
    """A checkpoint directory, some of whose weights can be replaced by those of one's own training.

    Attributes:
        folder: The directory.
        trained: The files that replace components.
    """

    def __init__(self, folder: Path | str, trained: TrainedFiles | None = None):
        """Open a checkpoint directory; files are read when a method needs them.

        Args:
            folder: The directory.
            trained: Files that replace components; None: no component is replaced.

        Raises:
            CheckpointError: There is no such directory.
        """
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise CheckpointError(
                f"{self.folder} is not a folder: fetch the released checkpoint with {DOWNLOAD_COMMAND}, or give "
                "another folder with --weights"
            )
        self.trained = trained or TrainedFiles()
        self._tensors: dict[str, Mapping[str, Tensor]] = {}
        self._digests: dict[Path, str] = {}
        self._versions: dict[Path, FileVersion | None] = {}

    @cached_property
    def architecture(self) -> Architecture:
        """The hyper-parameters of every network, checked against each other.

        Raises:
            CheckpointError: A file is missing or damaged, or networks do not fit each other.
        """
        own, recommended, guiders = read_own(self.folder)
        self._check_guiders(guiders)
        audio_normalize, sample_rate = read_preprocessor(self.folder)
        result = Architecture(
            unet=read_unet(self.folder, own["motion_module"]),
            vae=self._vae(),
            audio_projection=self._audio_projection(own["audio_projection"]),
            guiders={signal: self._guider(GUIDER_NETWORKS[signal]) for signal in guiders},
            wav2vec2=read_wav2vec2(self.folder),
            scheduler=own["scheduler"],
            audio_normalize=audio_normalize,
            sample_rate=sample_rate,
            recommended=recommended[RECOMMENDED],
            recommended_live=recommended[RECOMMENDED_LIVE],
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
        self._load(module, name, unused)
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
        if name in VAE_PREFIXES:
            return _vae_tensors(self._read("vae"), VAE_PREFIXES[name], self._source(name))
        if name == "audio_encoder":
            return _audio_tensors(self._read(name), self._source(name))
        return self._denoising_tensors() if name == "denoising_unet" else self._read(name)

    def files(self, name: str) -> list[Path]:
        """Return the files that hold a network's weights.

        Args:
            name: A key of `export.networks.registry.NETWORKS`.

        Raises:
            CheckpointError: A file is missing.
        """
        components = [name]
        if name in VAE_PREFIXES:
            components = ["vae"]
        elif name == "denoising_unet" and self._has_motion_file:
            components = [name, "motion_module"]
        return [self._file(component) for component in components]

    def origins(self) -> dict[str, Path]:
        """Return the file of every component that the model consists of, by component.

        Without an entry of their own, the motion modules are in the file of the denoising U-Net.

        Raises:
            CheckpointError: A file is missing or damaged.
        """
        guiders = {GUIDER_NETWORKS[signal] for signal in self.architecture.guiders}
        absent = set(GUIDER_NETWORKS.values()) - guiders
        if not self._has_motion_file:
            absent.add("motion_module")
        self._tensors.clear()
        return {component: self._file(component) for component in COMPONENTS if component not in absent}

    def training_record(self) -> TrainingRecord | None:
        """Return what a manifest says about the trained weights; None if all weights are the directory's.

        Raises:
            CheckpointError: A file is missing, or cannot be read.
        """
        trained = self.trained
        if not trained.files:
            return None
        files = {
            component: TrainedFileEntry(printable(trained.files[component].name), self._file_digest(path))
            for component, path in self.origins().items()
            if component in trained.files
        }
        run = None if trained.run is None else printable(trained.run)
        return TrainingRecord(files, run, trained.stage, trained.step)

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
        if name == "denoising_unet" and self.trained.voice_and_motion_off:
            result.update(b"voice and motion off")
        if name in VAE_PREFIXES and self.trained.latents:
            result.update(str(self.architecture.vae.scaling_factor).encode())
        return result.hexdigest()

    def detector(self) -> Path | None:
        """Return the file of the face detector; None if the directory has none."""
        path = self.folder / DETECTOR
        return path if path.is_file() else None

    def _file(self, component: str) -> Path:
        """Return the file of a component."""
        if component in self.trained.files:
            return self.trained.files[component].path
        folder, *names = HUB_FILES.get(component, ("v-express", f"{component}.bin", f"{component}.safetensors"))
        return find_file(self.folder / folder, *names)

    @cached_property
    def _has_motion_file(self) -> bool:
        """Whether the motion modules come from a file of their own.

        The public inference loads that file after the one of the denoising U-Net, which has motion modules too if the
        training code saved it. Weights of lower precedence do not replace them.
        """
        unet, motion = (
            self.trained.files[component].precedence if component in self.trained.files else OF_CHECKPOINT
            for component in ("denoising_unet", "motion_module")
        )
        return motion <= unet or not any(MOTION in key for key in self._read("denoising_unet"))

    def _denoising_tensors(self) -> dict[str, Tensor]:
        tensors = dict(self._read("denoising_unet"))
        if self._has_motion_file:
            motion, path = self._read("motion_module"), self._file("motion_module")
            if "motion_module" in self.trained.files and (others := [key for key in motion if MOTION not in key]):
                raise CheckpointError(
                    f"{path} has {len(others)} unexpected: {first_names(others)}; expected motion modules alone"
                )
            if {"denoising_unet", "motion_module"} & self.trained.files.keys():
                tensors = {key: value for key, value in tensors.items() if MOTION not in key}
            if twice := sorted(set(tensors) & set(motion)):
                unet = self._file("denoising_unet").name
                raise CheckpointError(f"{path} repeats tensors of {unet}: {first_names(twice)}")
            tensors |= motion
        if self.trained.voice_and_motion_off:
            for key in (key for key in tensors if any(part in key for part in OFF_AT_STAGE_1)):
                tensors[key] = torch.zeros_like(tensors[key])
        return tensors

    def _load(self, module: nn.Module, name: str, unused: frozenset[str]) -> None:
        tensors = self.tensors(name)
        try:
            load_strict(module, tensors, self._source(name), unused)
        except CheckpointError as error:
            if self._is_trained(*self.files(name)):
                raise CheckpointError(
                    f"{error}: give the checkpoint directory of the model that was trained with --weights, or other "
                    "files of weights"
                ) from error
            raise
        check_finite(tensors, self._source(name))

    def _is_trained(self, *paths: Path) -> bool:
        return not {file.path for file in self.trained.files.values()}.isdisjoint(paths)

    def _file_digest(self, path: Path) -> str:
        if path not in self._digests:
            try:
                digest = sha256_file(path) if path.is_file() else ""
            except OSError as error:
                raise CheckpointError(f"{path} cannot be read: {error}: check the disk and fetch it again") from error
            self._check_version(path)
            self._digests[path] = digest
        return self._digests[path]

    def _source(self, name: str) -> str:
        return " with ".join(str(path) for path in self.files(name))

    def _read(self, component: str) -> Mapping[str, Tensor]:
        if component not in self._tensors:
            path = self._file(component)
            self._tensors[component] = read_component(path, component)
            self._check_version(path)
        return self._tensors[component]

    def _check_version(self, path: Path) -> None:
        """Raise CheckpointError if a trained file is not the one of the first check; a training replaces its states."""
        if not self._is_trained(path):
            return
        version = FileVersion.of(path.stat()) if path.exists() else None
        if self._versions.setdefault(path, version) != version:
            raise CheckpointError(
                f"{path} changed during the build, so that weights of two steps would be mixed: copy the run's folder, "
                "or wait until the training has ended"
            )

    def _shape(self, name: str, key: str, dims: int) -> tuple[int, ...]:
        """Return the shape of a tensor that determines the size of its network."""
        tensors = self._read(name)
        if key not in tensors or tensors[key].dim() != dims:
            found = f"{tensors[key].dim()} dims" if key in tensors else "none"
            raise CheckpointError(
                f"{self._source(name)} does not hold {name}: expected a {key} of {dims} dims, found {found}"
            )
        return tuple(tensors[key].shape)

    def _check_guiders(self, signals: tuple[str, ...]) -> None:
        """Raise CheckpointError for trained weights of a guider that the directory does not declare."""
        for signal, network in GUIDER_NETWORKS.items():
            if network in self.trained.files and signal not in signals:
                declared = json.dumps([known for known in GUIDER_NETWORKS if known in (*signals, signal)])
                raise CheckpointError(
                    f"{self.trained.files[network].path} has a {network}, which {self.folder / OWN_CONFIG} does not "
                    f'declare: add "{GUIDERS}": {declared} to that file'
                )

    def _vae(self) -> VaeConfig:
        config, latents = read_vae(self.folder), self.trained.latents
        return config if latents is None else replace(config, scaling_factor=latent_scale(latents))

    def _audio_projection(self, own: dict[str, int]) -> AudioProjectionConfig:
        dim, embedding_dim = self._shape("audio_projection", "proj_in.weight", 2)
        output_dim, _ = self._shape("audio_projection", "proj_out.weight", 2)
        return AudioProjectionConfig(dim=dim, embedding_dim=embedding_dim, output_dim=output_dim, **own)

    def _guider(self, name: str) -> GuiderConfig:
        """Return the hyper-parameters of a guider, which follow from the shapes of its tensors."""
        blocks = [
            int(match[1]) for key in self._read(name) if (match := re.fullmatch(r"blocks\.(\d{1,9})\.weight", key))
        ]
        keys = ["conv_in.weight", *(f"blocks.{i}.weight" for i in sorted(blocks) if i % 2), "conv_out.weight"]
        *widths, output = (self._shape(name, key, 4)[0] for key in keys)
        return GuiderConfig(channels=tuple(widths), output=output)


def _vae_tensors(tensors: Mapping[str, Tensor], prefixes: tuple[str, ...], source: str) -> dict[str, Tensor]:
    """Return the half of the autoencoder whose names begin with `prefixes`, under the newer names of its attention."""
    known = tuple(p for group in VAE_PREFIXES.values() for p in group)
    if others := sorted(key for key in tensors if not key.startswith(known)):
        raise CheckpointError(f"{source} has {len(others)} unexpected: {first_names(others)}")
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
