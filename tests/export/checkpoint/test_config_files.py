"""Sizes of the networks: from the checkpoint's configurations and shapes, never assumed; what does not fit is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from export.checkpoint.layout import AUDIO_CONFIG, AUDIO_PREPROCESSOR, OWN_CONFIG, UNET_CONFIG, VAE_CONFIG
from export.checkpoint.presets import FULL, PRESETS, TINY
from export.checkpoint.reader import Checkpoint
from export.checkpoint.synthetic import write_synthetic_checkpoint
from export.checkpoint.writer import component_shapes
from export.errors import CheckpointError
from export.networks.architecture import Architecture
from export.networks.config import GuiderConfig
from tests.support.factories import TINY as TINY_MODEL
from tests.support.factories import model_config
from tests.support.guided import MICRO_DEPTH
from tests.support.micro import MICRO, MICRO_MODEL
from tests.support.paths import ROOT

RELEASED = ROOT / "docs" / "model" / "tensors"  # names and shapes of the released files
GUIDER, PROJECTION = "v-express/v_kps_guider.bin", "v-express/audio_projection.bin"
DEPTH = "v-express/depth_guider.bin"
AUDIO = "wav2vec2-base-960h/pytorch_model.bin"


@pytest.fixture
def weights(micro_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint directory to be changed at will."""
    return Path(shutil.copytree(micro_checkpoint, tmp_path / "weights"))


def edit(path: Path, *drop: str, **changes: Any) -> None:
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if key not in drop}))


def change_tensors(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    torch.save(change(torch.load(path, weights_only=True)), path)


@pytest.mark.parametrize(
    ("component", "files"),
    [
        ("reference_net", ["reference_net"]),
        ("denoising_unet", ["denoising_unet", "motion_module"]),
        ("v_kps_guider", ["v_kps_guider"]),
        ("audio_projection", ["audio_projection"]),
        ("vae", ["vae"]),
        ("audio_encoder", ["wav2vec2"]),
    ],
)
def test_names_and_shapes_are_those_of_the_released_files(component: str, files: list[str]) -> None:
    rows = [row.split("\t") for file in files for row in (RELEASED / f"{file}.tsv").read_text().splitlines()]
    assert component_shapes(FULL, component) == {name: tuple(map(int, shape.split("x"))) for name, shape in rows}


def test_the_presets_are_the_released_model_and_the_goldens() -> None:
    full = FULL.model_config()
    assert (full.block_out_channels, full.vae_factor, full.audio_minimum_samples) == ((320, 640, 1280, 1280), 8, 400)
    assert (full.max_frames, full.audio_tokens, full.audio_rows, full.audio_layers) == (32, 5, 10, 12)
    assert TINY.model_config() == model_config(**TINY_MODEL)
    assert set(PRESETS) == {"full", "half", "tiny", "tiny-depth", "tiny-unguided"}


def test_a_model_of_quite_other_sizes_is_written_and_read_back(micro_checkpoint: Path) -> None:
    found = Checkpoint(micro_checkpoint).architecture
    assert replace(found, wav2vec2={}) == replace(MICRO, wav2vec2={})
    assert MICRO.wav2vec2.items() <= found.wav2vec2.items()
    assert found.model_config() == MICRO_MODEL
    shapes = {
        "time_embedding.linear_1.weight": (32, 8),
        "conv_in.weight": (8, 3, 3, 3),
        "conv_out.weight": (3, 8, 3, 3),
    }
    state = Checkpoint(micro_checkpoint).network("denoising_unet").state_dict()
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


@pytest.mark.parametrize("guiders", [MICRO_DEPTH.guiders, {"depth": MICRO.guiders["keypoints"]}, {}])
def test_guiders_are_declared_and_read_back(guiders: dict[str, GuiderConfig], tmp_path: Path) -> None:
    write_synthetic_checkpoint(tmp_path / "weights", replace(MICRO, guiders=guiders), 0)
    checkpoint = Checkpoint(tmp_path / "weights")
    assert json.loads((checkpoint.folder / OWN_CONFIG).read_text())["guiders"] == list(guiders)
    assert checkpoint.architecture.guiders == guiders
    assert checkpoint.architecture.model_config().guiders == tuple(guiders)
    files = {GUIDER: "keypoints", DEPTH: "depth"}
    assert {signal for file, signal in files.items() if (checkpoint.folder / file).exists()} == set(guiders)


def test_the_released_guiders_are_not_declared(micro_checkpoint: Path) -> None:
    assert "guiders" not in json.loads((micro_checkpoint / OWN_CONFIG).read_text())


def test_a_guider_that_is_not_declared_is_refused(depth_checkpoint: Path, weights: Path) -> None:
    shutil.copyfile(depth_checkpoint / DEPTH, weights / DEPTH)
    message = (
        r"depth_guider\.bin is a guider that .*config\.json does not declare: add \"guiders\": \[\"keypoints\", \"de"
    )
    with pytest.raises(CheckpointError, match=message):
        _ = Checkpoint(weights).architecture
    edit(weights / OWN_CONFIG, guiders=["keypoints"])
    assert set(Checkpoint(weights).architecture.guiders) == {"keypoints"}
    edit(weights / OWN_CONFIG, guiders=["depth", "keypoints"])
    assert list(Checkpoint(weights).architecture.guiders) == ["keypoints", "depth"]
    (weights / DEPTH).unlink()
    with pytest.raises(CheckpointError, match=r"has no depth_guider\.bin"):
        _ = Checkpoint(weights).architecture


def test_settings_that_a_configuration_leaves_out_are_the_released_ones(tmp_path: Path) -> None:
    """The configurations on the hub: those of Stable Diffusion 1.5, its VAE and wav2vec2-base-960h name these alone."""
    small = replace(TINY, vae=replace(TINY.vae, groups=32), wav2vec2=TINY.wav2vec2 | {"gradient_checkpointing": False})
    write_synthetic_checkpoint(tmp_path / "weights", small, 0)
    keep = {
        UNET_CONFIG: {"block_out_channels", "down_block_types", "up_block_types", "cross_attention_dim"},
        VAE_CONFIG: {"block_out_channels"},
        AUDIO_PREPROCESSOR: set(),
    }
    for name, keys in keep.items():
        path = tmp_path / "weights" / name
        edit(path, *(set(json.loads(path.read_text())) - keys))
    edit(tmp_path / "weights" / OWN_CONFIG, "motion_module", "scheduler")
    found = Checkpoint(tmp_path / "weights").architecture
    assert replace(found, wav2vec2={}) == replace(TINY, wav2vec2={})


def test_a_recommendation_under_its_former_name_is_read(tmp_path: Path) -> None:
    write_synthetic_checkpoint(tmp_path / "weights", TINY, 0)
    path = tmp_path / "weights" / OWN_CONFIG
    edit(path, recommended={"unconditional_every": 2, "steps": 5}, recommended_live={"unconditional_every": 3})
    found = Checkpoint(tmp_path / "weights").architecture
    assert found.recommended == {"uncond_interval": 2, "steps": 5}
    assert found.recommended_live == {"uncond_interval": 3}


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (UNET_CONFIG, {"act_fn": "gelu"}, r"another network: act_fn = 'gelu' \(supported: 'silu'\)"),
        (
            UNET_CONFIG,
            {"use_linear_projection": True, "freq_shift": 1},
            "freq_shift = 1 .*, use_linear_projection = True",
        ),
        (UNET_CONFIG, {"mid_block_type": None}, r"mid_block_type = None \(supported: 'UNetMidBlock2DCrossAttn'\)"),
        (UNET_CONFIG, {"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift = 'scale_shift'"),
        (UNET_CONFIG, {"only_cross_attention": True}, "only_cross_attention = True"),
        (UNET_CONFIG, {"out_channels": 4}, "out_channels 4, but in_channels 3"),
        (UNET_CONFIG, {"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]}, "U-Net .*AttnDownBlock2D"),
        (UNET_CONFIG, {"attention_head_dim": [5, 10]}, r"U-Net .*\[5, 10\] is not a positive whole number"),
        (
            UNET_CONFIG,
            {"attention_head_dim": 3},
            r"widths \(8, 16\); expected multiples of its heads and groups \(3, 4, 4\)",
        ),
        (UNET_CONFIG, {"block_out_channels": [8]}, "has 1 widths; expected as many blocks on the way down and up"),
        (UNET_CONFIG, {"layers_per_block": True}, "True is not a positive whole number"),
        (UNET_CONFIG, {"norm_eps": 0}, "0 is not a positive number"),
        (
            UNET_CONFIG,
            {"cross_attention_dim": 25},
            "audio projection's output is 24 but U-Net cross_attention_dim is 25",
        ),
        (UNET_CONFIG, {"in_channels": 9, "out_channels": 9}, "U-Net in_channels is 9 but VAE latent_channels is 3"),
        (VAE_CONFIG, {"act_fn": "relu"}, "another network: act_fn = 'relu'"),
        (VAE_CONFIG, {"shift_factor": 0.1}, "shift_factor = 0.1"),
        (VAE_CONFIG, {"in_channels": 1}, r"in_channels = 1 \(supported: 3\)"),
        (
            VAE_CONFIG,
            {"down_block_types": ["AttnDownEncoderBlock2D"]},
            "autoencoder .*expected DownEncoderBlock2D alone",
        ),
        (VAE_CONFIG, {"up_block_types": 3}, "does not describe a Stable Diffusion autoencoder"),
        (VAE_CONFIG, {"norm_num_groups": 3}, r"widths \(4, 8, 8\); expected multiples of its 3 groups"),
        (VAE_CONFIG, {"scaling_factor": "0.18"}, "'0.18' is not a positive number"),
        (VAE_CONFIG, {"block_out_channels": [4, 8]}, r"guider's halvings is 2 but VAE levels - 1 is 1"),
        (AUDIO_CONFIG, {"model_type": "hubert"}, r"model_type = 'hubert' \(supported: 'wav2vec2'\)"),
        (AUDIO_CONFIG, {"add_adapter": True}, "add_adapter = True"),
        (AUDIO_CONFIG, {"hidden_size": 20}, "audio projection's input is 16 but wav2vec2 hidden_size is 20"),
        (AUDIO_CONFIG, {"conv_kernel": [10]}, "does not describe a wav2vec2 .*1 kernels and 2 strides"),
        (AUDIO_CONFIG, {"conv_stride": 5}, "does not describe a wav2vec2"),
        (AUDIO_CONFIG, {"num_hidden_layers": 0}, "0 is not a positive whole number"),
        (AUDIO_PREPROCESSOR, {"do_normalize": "no"}, "do_normalize = 'no' .*expected true or false"),
        (AUDIO_PREPROCESSOR, {"sampling_rate": 16000.5}, "sampling_rate = 16000.5; expected"),
        (OWN_CONFIG, {"unet": {}}, "'unet'; expected objects named audio_projection, motion_module, scheduler"),
        (OWN_CONFIG, {"scheduler": 3}, "'scheduler'; expected objects"),
        (OWN_CONFIG, {"motion_module": {"heads": 8}}, r"motion_module.heads; expected num_attention_heads, temporal_"),
        (OWN_CONFIG, {"audio_projection": {"depth": 4.0}}, r"depth = 4\.0; expected a positive whole number"),
        (OWN_CONFIG, {"audio_projection": {"depth": True}}, "depth = True; expected a positive whole number"),
        (OWN_CONFIG, {"audio_projection": {"heads": 0}}, "heads = 0; expected a positive whole number"),
        (OWN_CONFIG, {"scheduler": {"beta_end": -1}}, "beta_end = -1; expected a positive number"),
        (OWN_CONFIG, {"scheduler": {"beta_end": "1"}}, "beta_end = '1'; expected a positive number"),
        (OWN_CONFIG, {"guiders": ["text"]}, r"guiders = \['text'\]; expected a list of some of keypoints, depth, each"),
        (OWN_CONFIG, {"guiders": ["depth", "depth"]}, "each once"),
        (OWN_CONFIG, {"guiders": "depth"}, "guiders = 'depth'; expected a list"),
        (OWN_CONFIG, {"guiders": [["depth"]]}, "expected a list"),
        (OWN_CONFIG, {"recommended": [10]}, r"recommended = \[10\]; expected an object"),
        (OWN_CONFIG, {"recommended": {"seed": 3}}, "'seed' is recommended to be 3; expected a number, true or false"),
        (OWN_CONFIG, {"recommended": {"steps": 0}}, "steps is 0; expected a whole number of at least 1"),
        (OWN_CONFIG, {"recommended_live": [4]}, r"recommended_live = \[4\]; expected an object"),
        (OWN_CONFIG, {"recommended_live": {"steps": 0}}, "recommended_live: steps is 0; expected a whole number of at"),
    ],
)
def test_a_setting_that_makes_another_network_is_named_with_the_file(
    file: str, changes: dict[str, Any], message: str, weights: Path
) -> None:
    edit(weights / file, **changes)
    with pytest.raises(CheckpointError, match=message) as error:
        _ = Checkpoint(weights).architecture
    assert str(weights / file) in str(error.value) or "do not fit each other" in str(error.value)


@pytest.mark.parametrize("file", [UNET_CONFIG, VAE_CONFIG, AUDIO_CONFIG, AUDIO_PREPROCESSOR, OWN_CONFIG])
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not readable as JSON"), (b"[1]", "holds a list, expected a JSON object"),
     (b"\xff{}", "not readable as JSON"), (b"[" * 10**5, "not readable as JSON")],
)  # fmt: skip
def test_a_configuration_that_is_no_json_object_is_named(
    file: str, content: bytes, message: str, weights: Path
) -> None:
    (weights / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{Path(file).name} .*{message}"):
        _ = Checkpoint(weights).architecture


def test_a_configuration_that_is_missing_is_named_and_our_own_is_optional(weights: Path) -> None:
    (weights / OWN_CONFIG).unlink()
    assert (
        Checkpoint(weights).architecture.scheduler == Architecture.__dataclass_fields__["scheduler"].default_factory()
    )
    (weights / UNET_CONFIG).unlink()
    with pytest.raises(CheckpointError, match=r"unet/config\.json is missing: complete the checkpoint"):
        _ = Checkpoint(weights).architecture


def test_what_configurations_say_besides_changes_nothing(weights: Path) -> None:
    expected = Checkpoint(weights).network("audio_encoder")
    edit(weights / UNET_CONFIG, _diffusers_version="0.6.0", sample_size=64, dropout=0.0, num_attention_heads=None)
    edit(weights / VAE_CONFIG, sample_size=256, force_upcast=True, shift_factor=None)
    edit(
        weights / AUDIO_CONFIG, _name_or_path="x", architectures=["Wav2Vec2ForCTC"], gradient_checkpointing=False,
        transformers_version="4.7.0.dev0", vocab_size=32, dtype="float16", return_dict=False, layerdrop=0.1,
        attn_implementation="eager", mask_time_prob=0.0, hidden_dropout_prob=0.1,
    )  # fmt: skip
    found = Checkpoint(weights)
    assert found.architecture.model_config() == MICRO_MODEL
    samples = torch.randn(1, 800, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = [m(samples, return_dict=True)[0] for m in (expected, found.network("audio_encoder"))]
    torch.testing.assert_close(features[1], features[0], rtol=0, atol=0)


def test_what_transformers_refuses_is_reported_with_the_file(weights: Path) -> None:
    edit(weights / AUDIO_CONFIG, num_attention_heads=3)
    with pytest.raises(CheckpointError, match=r"config\.json is refused by transformers: .*divisible by num_heads"):
        Checkpoint(weights).network("audio_encoder")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            GUIDER,
            lambda t: {"x": torch.zeros(1)},
            r"guider\.bin does not hold v_kps_guider: expected a conv_in\.weight of 4 dims",
        ),
        (GUIDER, lambda t: t | {"conv_out.weight": torch.zeros(3)}, "conv_out.weight of 4 dims, found 1 dims"),
        (
            GUIDER,
            lambda t: t | {"conv_out.weight": torch.zeros(9, 7, 3, 3)},
            "output is 9 but U-Net's first width is 8",
        ),
        (PROJECTION, lambda t: t | {"proj_in.weight": torch.zeros(3)}, "proj_in.weight of 2 dims, found 1 dims"),
    ],
)
def test_weights_that_are_of_no_such_network_are_named(
    file: str, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str, weights: Path
) -> None:
    change_tensors(weights / file, change)
    with pytest.raises(CheckpointError, match=message):
        _ = Checkpoint(weights).architecture


def old_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As in files of older versions of transformers, of the model with its head."""
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    result = {"lm_head.weight": torch.zeros(32, 16), "lm_head.bias": torch.zeros(32)}
    for name, value in tensors.items():
        for new, old in names.items():
            name = name.replace(new, old)
        result[f"wav2vec2.{name}"] = value
    return result


def test_wav2vec2_with_old_names_prefix_and_head_is_the_same_network(weights: Path) -> None:
    samples = torch.randn(1, 800, generator=torch.Generator().manual_seed(0))
    outputs = []
    for change in (dict, old_names, lambda t: {k: v for k, v in t.items() if "masked_spec_embed" not in k}):
        change_tensors(weights / AUDIO, change)
        with torch.no_grad():
            outputs.append(Checkpoint(weights).network("audio_encoder")(samples).last_hidden_state)
    assert outputs[0].shape == (1, 39, 16)
    torch.testing.assert_close(outputs[1:], [outputs[0]] * 2, rtol=0, atol=0)
