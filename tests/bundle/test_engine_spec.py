"""Inputs and outputs of the engines, derived from the model's configuration and the video's shape."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.factories import TINY, model_config
from vexpress_rt.bundle.engine_spec import (
    ENGINE_NAMES,
    KNOWN_ENGINES,
    EngineSpec,
    ModelConfig,
    TensorSpec,
    VideoShape,
    engine_specs,
    interface_errors,
    site_tokens,
)
from vexpress_rt.errors import ConfigError

SQUARE = VideoShape(64, 64, 8)


def test_there_are_sixteen_attention_sites_in_the_order_of_the_goldens() -> None:
    sites = list(model_config().attention_sites())
    assert [site.name for site in sites[:2]] == ["down_blocks.0.attentions.0", "down_blocks.0.attentions.1"]
    assert sites[6].name == "mid_block.attentions.0"
    assert [site.name for site in sites[7:10]] == [f"up_blocks.1.attentions.{layer}" for layer in range(3)]
    assert [site.channels for site in sites] == [32, 32, 64, 64, 96, 96, 128, 96, 96, 96, 64, 64, 64, 32, 32, 32]
    assert [site.level for site in sites] == [0, 0, 1, 1, 2, 2, 3, 2, 2, 2, 1, 1, 1, 0, 0, 0]


def test_sizes_of_attention_sites_round_up_at_each_halving() -> None:
    sites = {site.name: site for site in model_config().attention_sites()}
    assert site_tokens(8, 12, sites["down_blocks.0.attentions.0"]) == 96
    assert site_tokens(8, 12, sites["mid_block.attentions.0"]) == 1 * 2  # 8, 4, 2, 1 and 12, 6, 3, 2


def test_the_denoiser_takes_named_conditions_of_known_sizes() -> None:
    spec = engine_specs(model_config(), SQUARE)["denoiser"]
    shapes = {tensor.name: tensor.shape for tensor in spec.inputs}
    assert shapes["latents"] == (8, 4, 8, 8)
    assert shapes["pose_feature"] == (8, 32, 8, 8)
    assert shapes["audio_tokens"] == (8, 5, 768)
    assert shapes["reference_key/mid_block.attentions.0"] == (8, 1, 16)
    assert shapes["reference_value/up_blocks.3.attentions.2"] == (8, 64, 4)
    assert [tensor.name for tensor in spec.outputs] == ["unconditional", "conditional"]


def test_the_denoisers_take_the_timestep_or_its_sines_in_the_same_place() -> None:
    plain, cut = (engine_specs(model_config(), SQUARE, sines_as_input=cut) for cut in (False, True))
    for name in ENGINE_NAMES:
        differing = [pair for pair in zip(plain[name].inputs, cut[name].inputs, strict=True) if pair[0] != pair[1]]
        described = [(one.describe(), other.describe()) for one, other in differing]
        expected = ("timestep: float32 (1)", "timestep_sines: float32 (1, K=32)")
        assert described == ([expected] if name in ("denoiser", "denoiser_cond") else [])
        assert plain[name].outputs == cut[name].outputs


def test_what_the_reference_net_gives_is_what_the_denoiser_takes() -> None:
    specs = engine_specs(model_config(), SQUARE, "fp16")
    assert set(specs["reference_net"].outputs) <= set(specs["denoiser"].inputs)
    assert specs["pose_guider"].outputs[0] in specs["denoiser"].inputs
    assert specs["audio_projection"].outputs[0] in specs["denoiser"].inputs
    assert specs["denoiser_cond"].inputs == specs["denoiser"].inputs


def test_precision_decides_activations_and_leaves_latents_and_pictures_alone() -> None:
    tensors = {tensor.name: tensor.dtype for tensor in engine_specs(model_config(), SQUARE, "fp16")["denoiser"].inputs}
    assert tensors["latents"] == "float32"
    assert tensors["pose_feature"] == "float16"
    assert engine_specs(model_config(), SQUARE, "fp16")["vae_decoder"].outputs[0].dtype == "uint8"


def test_a_clip_may_have_any_length() -> None:
    spec = engine_specs(model_config(), SQUARE)["audio_encoder"]
    assert spec.inputs[0].shape == (1, None)
    assert spec.outputs[0].shape == (1, None, 32)


def test_every_engine_has_a_specification_under_its_own_name() -> None:
    specs = engine_specs(model_config(), SQUARE)
    assert tuple(specs) == ENGINE_NAMES
    assert all(spec.name == name and spec.inputs and spec.outputs for name, spec in specs.items())


def test_a_model_has_the_engines_of_its_guiders() -> None:
    both, none = (
        engine_specs(model_config(guiders=guiders), SQUARE, "fp16") for guiders in (("depth", "keypoints"), ())
    )
    assert tuple(both) == KNOWN_ENGINES
    assert [tensor.describe() for tensor in both["depth_guider"].inputs] == ["depth: float32 (F=8, H=64, W=64)"]
    (feature,) = both["depth_guider"].outputs
    (pose,) = both["pose_guider"].outputs
    assert feature == replace(pose, name="depth_feature")
    assert set(KNOWN_ENGINES) - set(none) == {"pose_guider", "depth_guider"}
    assert none["denoiser"] == both["denoiser"]


def test_older_configurations_have_the_guider_of_keypoints_alone() -> None:
    data = model_config().to_json()
    del data["guiders"]
    assert ModelConfig.from_json(data).guiders == ("keypoints",)
    assert ModelConfig.from_json(data | {"guiders": []}).guiders == ()


@pytest.mark.parametrize("guiders", [["depth", "depth"], ["sound"], ["depth", 1], "depth", None])
def test_guiders_of_unknown_signals_are_refused(guiders: Any) -> None:
    with pytest.raises(ConfigError, match="guiders"):
        ModelConfig.from_json(model_config().to_json() | {"guiders": guiders})


def test_a_tensor_describes_itself_with_dims_and_sizes() -> None:
    assert TensorSpec("image", ("H", "W", "3"), (64, 96, 3), "uint8").describe() == "image: uint8 (H=64, W=96, 3)"
    assert TensorSpec("samples", ("1", "N"), (1, None), "float32").describe() == "samples: float32 (1, N)"


def test_a_configuration_survives_json() -> None:
    config = model_config()
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_missing_and_unknown_keys_are_named() -> None:
    data = model_config().to_json()
    del data["audio_rows"]
    with pytest.raises(ConfigError, match=r"lacks or does not know audio_rows, colour"):
        ModelConfig.from_json(data | {"colour": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vae_factor", 8.0),
        ("vae_factor", True),
        ("vae_factor", "8"),
        ("vae_factor", None),
        ("beta_start", "x"),
        ("audio_normalize", 1),
        ("block_out_channels", 32),
        ("block_out_channels", []),
        ("block_out_channels", [32, 64.0, 96, 128]),
        ("down_attention", [1, 1, 1, 0]),
    ],
)
def test_values_of_another_type_are_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"has {name} = "):
        ModelConfig.from_json(model_config().to_json() | {name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vae_factor": 0}, "vae_factor = 0; expected 1 to"),
        ({"layers_per_block": 10**9}, "layers_per_block = 1000000000; expected 1 to 64"),
        ({"block_out_channels": (32, 64, 96, -128)}, r"block_out_channels\[3\] = -128"),
        ({"down_attention": (True,)}, "4 levels, 1 of down_attention and 4 of up_attention"),
        ({"block_out_channels": (32,) * 17}, "17 levels"),
        ({"attention_heads": 5}, r"5 heads for \[32, 64, 96, 128\] channels"),
        ({"beta_start": 0.5}, "betas from 0.5 to 0.012"),
        ({"beta_end": float("nan")}, "betas from 0.00085 to nan"),
    ],
)
def test_impossible_configurations_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_config(**changes)


def test_channels_without_attention_need_not_divide_by_heads() -> None:
    config = model_config(block_out_channels=(30, 64, 96, 128), down_attention=(False, True, True, False),
                          up_attention=(False, True, True, False))  # fmt: skip
    assert {site.channels for site in config.attention_sites()} == {64, 96, 128}


@given(st.sampled_from(sorted(TINY)), st.none() | st.integers() | st.floats() | st.text() | st.lists(st.integers()))
def test_no_value_from_json_raises_anything_but_config_error(name: str, value: Any) -> None:
    data = model_config().to_json() | {name: value}
    try:
        config = ModelConfig.from_json(data)
    except ConfigError:
        return
    assert getattr(config, name) == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(("height", "width", "frames"), [(64, 64, 1), (512, 512, 24), (64, 128, 32)])
def test_shapes_that_halve_evenly_are_accepted(height: int, width: int, frames: int) -> None:
    VideoShape(height, width, frames).check(model_config())


def test_a_side_that_does_not_halve_evenly_is_refused_with_a_near_one_that_does() -> None:
    with pytest.raises(ConfigError, match=r"height is 500; expected a multiple of 64 .*: try 512, or pass --allow-odd"):
        VideoShape(500, 512, 24).check(model_config())
    with pytest.raises(ConfigError, match=r"width is 0; expected a multiple of 64 .*: try 64"):
        VideoShape(64, 0, 24).check(model_config())


def test_odd_sizes_are_multiples_of_a_latent_when_allowed() -> None:
    VideoShape(64, 96, 8).check(model_config(), allow_odd_sizes=True)
    with pytest.raises(ConfigError, match="width is 97; expected a multiple of 8"):
        VideoShape(64, 97, 8).check(model_config(), allow_odd_sizes=True)


@pytest.mark.parametrize("frames", [0, 33])
def test_frames_beyond_the_table_of_positions_are_refused(frames: int) -> None:
    with pytest.raises(ConfigError, match=f"frames is {frames}; expected 1 to 32"):
        VideoShape(64, 64, frames).check(model_config())


def tensor(name: str, *shape: int | None, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, tuple("d" for _ in shape), shape, dtype)


def test_an_interface_fits_itself_and_any_size_left_open() -> None:
    expected = EngineSpec("e", (tensor("a", 2, None),), (tensor("b", 3),))
    assert interface_errors(expected, expected) == []
    assert interface_errors(EngineSpec("e", (tensor("a", None, None),), (tensor("b", None),)), expected) == []


def test_a_size_left_open_must_be_open_in_an_engine_and_is_free_in_arrays() -> None:
    expected, fixed = EngineSpec("e", (tensor("a", 2, None),), ()), EngineSpec("e", (tensor("a", 2, 9),), ())
    assert interface_errors(fixed, expected) == ["e has the input a: float32 (d=2, d=9); expected a: float32 (d=2, d)"]
    assert interface_errors(fixed, expected, arrays=True) == []


def test_every_difference_between_interfaces_is_named() -> None:
    found = EngineSpec("e", (tensor("a", 2, 7), tensor("x", 1)), (tensor("b", 3, dtype="float16"),))
    expected = EngineSpec("e", (tensor("a", 2, None), tensor("y", 1)), (tensor("b", 3), tensor("c", 1, 1)))
    assert interface_errors(found, expected) == [
        "e lacks the input y: float32 (d=1)",
        "e has an unknown input x: float32 (d=1)",
        "e has the input a: float32 (d=2, d=7); expected a: float32 (d=2, d)",
        "e lacks the output c: float32 (d=1, d=1)",
        "e has the output b: float16 (d=3); expected b: float32 (d=3)",
    ]


def test_another_number_of_dims_is_a_difference() -> None:
    errors = interface_errors(EngineSpec("e", (tensor("a", 2),), ()), EngineSpec("e", (tensor("a", 2, 1),), ()))
    assert errors == ["e has the input a: float32 (d=2); expected a: float32 (d=2, d=1)"]
