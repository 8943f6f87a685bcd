"""A checkpoint directory in the official layout -> networks with their weights. Also the command that writes a
synthetic one:

    python -m export.checkpoint --preset tiny --seed 0 --output DIR
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from export import architecture as arch
from export.errors import CheckpointError
from export.models.audio_projection import AudioProjection
from export.models.config import AudioProjectionConfig, GuiderConfig
from export.models.denoising_unet import DenoisingUNet
from export.models.guider import Guider
from export.models.layers import to_precision
from export.models.reference_net import ReferenceNet, is_unused
from export.models.vae import VaeDecoder, VaeEncoder
from export.tensors import find_file, load_strict, read_tensors
from vexpress_rt.errors import VExpressError

DETECTOR = "insightface_models/models/buffalo_l/det_10g.onnx"
VAE_PARTS = {"vae_encoder": ("encoder.", "quant_conv."), "vae_decoder": ("decoder.", "post_quant_conv.")}
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_POSITIONS = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
UNHEARD = frozenset({"masked_spec_embed"})  # of wav2vec2: used in training alone


class Checkpoint:
    """A checkpoint directory: `architecture`, and networks made on demand by `network`."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise CheckpointError(f"{self.folder} is no folder: give the checkpoint directory with --weights")
        self._tensors: dict[Path, Mapping[str, Tensor]] = {}

    @cached_property
    def architecture(self) -> arch.Architecture:
        """Hyper-parameters of every network, checked against each other."""
        own = arch.read_overrides(self.folder)
        audio = arch.read_json(self.folder / arch.AUDIO_CONFIG)
        preprocessor = arch.read_json(self.folder / arch.AUDIO_PREPROCESSOR)
        result = arch.Architecture(
            unet=arch.read_unet(self.folder, own["motion_module"]),
            vae=arch.read_vae(self.folder),
            audio_projection=self._audio_projection(own["audio_projection"]),
            guider=self._guider(),
            wav2vec2=audio,
            scheduler=own["scheduler"],
            audio_normalize=bool(preprocessor.get("do_normalize", True)),
            sample_rate=int(preprocessor.get("sampling_rate", 16000)),
        )
        result.check()
        return result

    def network(self, name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
        """A network with its weights; its matrices in `dtype` (the audio encoder always in float32)."""
        a = self.architecture
        with torch.device("meta"):
            if name == "audio_encoder":
                return self._audio_encoder()
            make: dict[str, Callable[[], nn.Module]] = {
                "reference_net": lambda: ReferenceNet(a.unet),
                "denoising_unet": lambda: DenoisingUNet(a.unet),
                "v_kps_guider": lambda: Guider(a.guider),
                "audio_projection": lambda: AudioProjection(a.audio_projection),
                "vae_encoder": lambda: VaeEncoder(a.vae),
                "vae_decoder": lambda: VaeDecoder(a.vae),
            }
            module = to_precision(make[name](), dtype)
        optional = frozenset[str]()
        if name == "reference_net":
            optional = frozenset(key for key in module.state_dict() if is_unused(key, a.unet))
        load_strict(module, self.tensors(name), self._source(name), optional)
        self._tensors.clear()  # unmaps the files: at full size their pages are several GB
        return module.eval()

    def tensors(self, name: str) -> Mapping[str, Tensor]:
        """The tensors of a network under the names that its module has."""
        read = {path: self._read(path) for path in self.files(name)}
        if name in VAE_PARTS:
            (tensors,) = read.values()
            return _vae_tensors(tensors, VAE_PARTS[name], self._source(name))
        merged: dict[str, Tensor] = {}
        for path, tensors in read.items():
            if twice := sorted(set(merged) & set(tensors)):
                raise CheckpointError(f"{path} repeats tensors of {self.files(name)[0].name}: {', '.join(twice[:5])}")
            merged.update(tensors)
        return _audio_tensors(merged) if name == "audio_encoder" else merged

    def files(self, name: str) -> list[Path]:
        """The files that a network's weights come from."""
        if name in VAE_PARTS:
            folder = self.folder / "sd-vae-ft-mse"
            return [find_file(folder, "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")]
        if name == "audio_encoder":
            return [find_file(self.folder / "wav2vec2-base-960h", "model.safetensors", "pytorch_model.bin")]
        halves = (name, "motion_module") if name == "denoising_unet" else (name,)
        return [find_file(self.folder / "v-express", f"{half}.bin", f"{half}.safetensors") for half in halves]

    def digest(self, name: str) -> str:
        """sha256 over the bytes of a network's files and the configuration files."""
        configs = [arch.UNET_CONFIG, arch.VAE_CONFIG, arch.AUDIO_CONFIG, arch.AUDIO_PREPROCESSOR, arch.OWN_CONFIG]
        result = hashlib.sha256()
        for path in [*self.files(name), *(self.folder / c for c in configs)]:
            result.update(self._file_digest(path).encode())
        return result.hexdigest()

    def detector(self) -> Path | None:
        """The face detector, if the directory has one."""
        path = self.folder / DETECTOR
        return path if path.is_file() else None

    def _file_digest(self, path: Path) -> str:
        self._digests = getattr(self, "_digests", {})
        if path not in self._digests:
            with path.open("rb") if path.is_file() else open("/dev/null", "rb") as file:
                self._digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._digests[path]

    def _source(self, name: str) -> str:
        return " with ".join(str(path) for path in self.files(name))

    def _read(self, path: Path) -> Mapping[str, Tensor]:
        if path not in self._tensors:
            self._tensors[path] = read_tensors(path)
        return self._tensors[path]

    def _shape(self, name: str, key: str) -> tuple[int, ...]:
        tensors = self._read(self.files(name)[0])
        if key not in tensors:
            raise CheckpointError(f"{self._source(name)} lacks {key}: it is no {name} of V-Express")
        return tuple(tensors[key].shape)

    def _audio_projection(self, own: dict[str, int]) -> AudioProjectionConfig:
        dim, embedding_dim = self._shape("audio_projection", "proj_in.weight")
        output_dim, _ = self._shape("audio_projection", "proj_out.weight")
        return AudioProjectionConfig(dim=dim, embedding_dim=embedding_dim, output_dim=output_dim, **own)

    def _guider(self) -> GuiderConfig:
        blocks = [
            int(match[1])
            for key in self._read(self.files("v_kps_guider")[0])
            if (match := re.fullmatch(r"blocks\.(\d+)\.weight", key))
        ]
        widths = [self._shape("v_kps_guider", "conv_in.weight")[0]]
        widths += [self._shape("v_kps_guider", f"blocks.{i}.weight")[0] for i in sorted(blocks) if i % 2]
        return GuiderConfig(channels=tuple(widths), output=self._shape("v_kps_guider", "conv_out.weight")[0])

    def _audio_encoder(self) -> nn.Module:
        from transformers import Wav2Vec2Config, Wav2Vec2Model

        try:
            config = Wav2Vec2Config(**self.architecture.wav2vec2)
            module = Wav2Vec2Model(config)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{self.folder / arch.AUDIO_CONFIG} is refused by transformers: {error}") from error
        load_strict(module, self.tensors("audio_encoder"), self._source("audio_encoder"), UNHEARD)
        convolution = module.encoder.pos_conv_embed.conv
        with torch.device("cpu"), torch.no_grad():
            parametrize.remove_parametrizations(convolution, "weight")
        return module.eval()


def _vae_tensors(tensors: Mapping[str, Tensor], prefixes: tuple[str, ...], source: str) -> dict[str, Tensor]:
    known = tuple(p for group in VAE_PARTS.values() for p in group)
    if strange := sorted(key for key in tensors if not key.startswith(known)):
        raise CheckpointError(f"{source} has {len(strange)} unexpected: {', '.join(strange[:8])}")
    result = {}
    for key in tensors:
        if not key.startswith(prefixes):
            continue
        value, parts = tensors[key], key.split(".")
        if "attentions" in parts:
            parts = [OLD_ATTENTION.get(part, part) for part in parts]
            value = value[:, :, 0, 0] if value.dim() == 4 else value
        result[".".join(parts)] = value
    return result


def _audio_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    result = {}
    for key, value in tensors.items():
        if key.startswith("lm_head."):
            continue
        stem, _, last = key.removeprefix("wav2vec2.").rpartition(".")
        old = "pos_conv_embed" in stem and last in OLD_POSITIONS
        result[f"{stem}.{OLD_POSITIONS[last] if old else last}".lstrip(".")] = value
    return result


def main(arguments: list[str] | None = None) -> int:
    """The command line: write synthetic weights in the official layout."""
    from export.presets import PRESETS, write_checkpoint

    parser = argparse.ArgumentParser(prog="python -m export.checkpoint", description="Write synthetic weights.")
    parser.add_argument("--preset", choices=sorted(PRESETS), required=True, help="sizes of the networks")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--output", type=Path, required=True, help="folder to write, in the official layout")
    options = parser.parse_args(arguments)
    try:
        write_checkpoint(options.output, PRESETS[options.preset], options.seed, progress=print)
    except (VExpressError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
