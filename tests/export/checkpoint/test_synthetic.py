"""Synthetic checkpoints: the goldens' formula, in the official layout, whole or not at all."""

from __future__ import annotations

import json
import math
import signal
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from export.checkpoint import writer
from export.checkpoint.__main__ import main
from export.checkpoint.config_files import write_configs
from export.checkpoint.layout import DETECTOR
from export.checkpoint.presets import PRESETS
from export.checkpoint.synthetic import write_synthetic_checkpoint
from export.errors import CheckpointError
from export.networks.denoising_unet import sinusoidal_positions
from tests.conftest import GoldenSet
from tests.support.folders import content
from tests.support.micro import MICRO


def normal(seed: int, name: str, *shape: int) -> np.ndarray[Any, Any]:
    """Standard normal numbers of a generator that is seeded by a tensor's component and name."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("file", "component", "name", "scale", "offset"),
    [
        ("v-express/reference_net.bin", "reference_net", "conv_in.weight", 1 / math.sqrt(3 * 9), 0),
        ("v-express/denoising_unet.bin", "denoising_unet", "conv_norm_out.weight", 0.1, 1),
        ("v-express/denoising_unet.bin", "denoising_unet", "time_embedding.linear_1.bias", 0.05, 0),
        ("v-express/motion_module.bin", "denoising_unet",
         "mid_block.motion_modules.0.temporal_transformer.proj_in.weight", 1 / math.sqrt(16), 0),
        ("v-express/v_kps_guider.bin", "v_kps_guider", "blocks.1.weight", 1 / math.sqrt(3 * 9), 0),
        ("v-express/audio_projection.bin", "audio_projection", "latents", 0.1, 0),
        ("v-express/audio_projection.bin", "audio_projection", "pos_emb.weight", 0.1, 0),
        ("sd-vae-ft-mse/diffusion_pytorch_model.safetensors", "vae", "decoder.mid_block.attentions.0.to_q.weight",
         1 / math.sqrt(8), 0),
        ("wav2vec2-base-960h/pytorch_model.bin", "audio_encoder",
         "encoder.pos_conv_embed.conv.parametrizations.weight.original0", 1 / math.sqrt(4), 0),
        ("wav2vec2-base-960h/pytorch_model.bin", "audio_encoder", "masked_spec_embed", 0.05, 0),
    ],
)  # fmt: skip
def test_weights_are_a_formula_of_their_names(
    file: str, component: str, name: str, scale: float, offset: float, micro_checkpoint: Path
) -> None:
    path = micro_checkpoint / file
    tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    expected = offset + scale * normal(5, f"{component}.{name}", *tensors[name].shape)
    np.testing.assert_allclose(tensors[name].numpy(), expected, rtol=0, atol=1e-6)


def test_positions_are_sinusoids(micro_checkpoint: Path) -> None:
    tensors = torch.load(micro_checkpoint / "v-express/motion_module.bin", weights_only=True)
    tables = [value for name, value in tensors.items() if name.endswith(".pe") and value.shape[2] == 16]
    assert tables[0].shape == (1, 6, 16)
    angle = 5 / 10000 ** (2 * 3 / 16)
    torch.testing.assert_close(tables[0][0, 5, 6:8], torch.tensor([math.sin(angle), math.cos(angle)]))
    assert all(torch.equal(table, sinusoidal_positions(16, 6)) for table in tables)


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(micro_checkpoint: Path, tmp_path: Path) -> None:
    write_synthetic_checkpoint(tmp_path / "same", MICRO, 5)
    assert content(tmp_path / "same") == content(micro_checkpoint)
    write_synthetic_checkpoint(tmp_path / "other", MICRO, 6)
    same, other = content(tmp_path / "same"), content(tmp_path / "other")
    assert {name for name in same if same[name] != other[name]} == {
        name for name in same if name.endswith((".bin", ".safetensors"))
    }


def test_the_layout_is_the_official_one(micro_checkpoint: Path) -> None:
    assert set(content(micro_checkpoint)) == {
        "stable-diffusion-v1-5/unet/config.json",
        "sd-vae-ft-mse/config.json",
        "sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
        "wav2vec2-base-960h/config.json",
        "wav2vec2-base-960h/preprocessor_config.json",
        "wav2vec2-base-960h/pytorch_model.bin",
        "wav2vec2-base-960h/vocab.json",
        *(f"v-express/{name}.bin" for name in ("reference_net", "denoising_unet", "motion_module")),
        "v-express/v_kps_guider.bin",
        "v-express/audio_projection.bin",
        "v-express/config.json",
        DETECTOR,
    }


def read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def test_the_vaes_configuration_is_one_that_diffusers_loads(micro_checkpoint: Path) -> None:
    """Without the names of the blocks diffusers makes one level, and drops the tensors of the others."""
    assert read_json(micro_checkpoint / "sd-vae-ft-mse/config.json") == {
        "_class_name": "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 3,
        "block_out_channels": [4, 8, 8],
        "layers_per_block": 1,
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "norm_num_groups": 4,
        "scaling_factor": 0.3,
        "act_fn": "silu",
        "shift_factor": None,
        "latents_mean": None,
        "latents_std": None,
    }


def test_the_unets_configuration_is_one_that_diffusers_loads(micro_checkpoint: Path) -> None:
    config = read_json(micro_checkpoint / "stable-diffusion-v1-5/unet/config.json")
    expected = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "attention_head_dim": 2,  # the number of heads, by a mistake that diffusers keeps
        "cross_attention_dim": 24,
        "norm_num_groups": 4,
        "norm_eps": 1e-4,
        "act_fn": "silu",
    }
    assert expected.items() <= {k: v for k, v in config.items() if k in expected}.items()


@pytest.mark.parametrize("name", PRESETS)
def test_each_level_of_the_vae_has_a_block_on_the_way_down_and_up(name: str, tmp_path: Path) -> None:
    write_configs(tmp_path, PRESETS[name])
    config = read_json(tmp_path / "sd-vae-ft-mse/config.json")
    assert config["down_block_types"] == ["DownEncoderBlock2D"] * 4
    assert config["up_block_types"] == ["UpDecoderBlock2D"] * 4


def test_transformers_loads_wav2vec2_and_its_processor(micro_checkpoint: Path) -> None:
    from transformers import Wav2Vec2Model, Wav2Vec2Processor

    folder = micro_checkpoint / "wav2vec2-base-960h"
    model, info = Wav2Vec2Model.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.conv_stride) == (16, 3, [5, 4])
    extractor = Wav2Vec2Processor.from_pretrained(folder).feature_extractor
    assert (extractor.do_normalize, extractor.sampling_rate) == (False, 8000)


def test_the_tiny_preset_is_the_goldens_model(tiny_square: GoldenSet, tmp_path: Path) -> None:
    assert main(["--preset", "tiny", "--output", str(tmp_path / "weights")]) == 0
    assert content(tmp_path / "weights") == content(tiny_square.checkpoint)


def test_a_folder_with_content_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    for output in (tmp_path, tmp_path / "thesis.tex"):
        assert main(["--preset", "tiny", "--output", str(output)]) == 1
        assert capsys.readouterr().err == (
            f"error: {output} exists and is not empty: choose another --output or remove it first\n"
        )
    assert content(tmp_path) == {"thesis.tex": b"mine"}


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    write_synthetic_checkpoint(tmp_path / "weights", MICRO, 5)
    assert (tmp_path / "weights" / DETECTOR).is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_leaves_nothing(
    tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_interrupt(path: Path, tensors: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
        signal.raise_signal(number)

    monkeypatch.setattr(writer, "_write_tensors", write_and_interrupt)
    assert main(["--preset", "tiny", "--output", str(tmp_path / "weights")]) == 128 + number
    assert capsys.readouterr().err == "interrupted\n"
    assert list(tmp_path.iterdir()) == []


def test_networks_that_do_not_fit_each_other_are_not_written(tmp_path: Path) -> None:
    wrong = replace(MICRO, guiders={"keypoints": replace(MICRO.guiders["keypoints"], output=9)})
    with pytest.raises(CheckpointError, match="guider's output is 9 but U-Net's first width is 8"):
        write_synthetic_checkpoint(tmp_path / "weights", wrong, 0)
    assert list(tmp_path.iterdir()) == []
