"""Flags: one for each option; upstream's are accepted or refused with a hint."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from vexpress_rt import GenerationConfig
from vexpress_rt.__main__ import main
from vexpress_rt.cli.parser import ALIASES, REFUSED, parse
from vexpress_rt.config import OPTION_NAMES, option_help

REQUIRED = ["--engines", "bundle", "--image", "face.png", "--audio", "speech.wav", "--output", "out.mp4"]


def options(*arguments: str) -> GenerationConfig:
    given = parse(["generate", *REQUIRED, *arguments])
    return GenerationConfig(**{name: getattr(given, name) for name in OPTION_NAMES})


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    return capsys.readouterr().err


def test_defaults_are_those_of_the_configuration() -> None:
    assert options() == GenerationConfig()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--steps 7", {"steps": 7}),
        ("--guidance-scale 0", {"guidance_scale": 0.0}),
        ("--reference-attention-weight 0.9", {"reference_attention_weight": 0.9}),
        ("--audio-attention-weight 2", {"audio_attention_weight": 2.0}),
        ("--pose-weight 0.5 --depth-weight 0", {"pose_weight": 0.5, "depth_weight": 0.0}),
        ("--fps 29.97", {"fps": Fraction(30000, 1001)}),
        ("--fps 24000/1001", {"fps": Fraction(24000, 1001)}),
        ("--overlap 0", {"overlap": 0}),
        ("--seed 18446744073709551615", {"seed": 2**64 - 1}),
        ("--no-median-filter", {"median_filter": False}),
        ("--median-filter", {"median_filter": True}),
        ("--no-noise-gate", {"noise_gate": False}),
        ("--extension mirror", {"extension": "mirror"}),
        ("--upstream-anchor", {"upstream_anchor": True}),
        ("--quality 0", {"quality": 0}),
        ("--preset fast", {"preset": "fast"}),
        ("--sampler dpm++2m", {"sampler": "dpm++2m"}),
        ("--guidance-interval 0.2,0.8", {"guidance_interval": (0.2, 0.8)}),
        ("--uncond-interval 2", {"uncond_interval": 2}),
    ],
)
def test_option_reaches_the_configuration(flags: str, expected: dict[str, Any]) -> None:
    found, wanted = options(*flags.split()), GenerationConfig(**expected)
    assert {**vars(found), "fps": None} == {**vars(wanted), "fps": None}
    assert found.rate == wanted.rate  # which compares what fps means


def test_help_states_defaults_as_they_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for default in ("25", "ddim", "0,1", "on"):
        assert f"(default: {default}, unless preset or bundle say otherwise)" in text
    for default in ("none", "42", "stretch", "off"):
        assert f"(default: {default})" in text


def test_help_states_every_option_in_the_words_of_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    for name in OPTION_NAMES:
        described = option_help(name)
        assert f"-{name.replace('_', '-')}" in help_text
        assert described[1:].rstrip(".") in help_text
        assert f"    {name}: {described} Default: " in (GenerationConfig.__doc__ or "")


@pytest.mark.parametrize(
    ("upstream", "ours"),
    [
        ("--num_inference_steps 7 --context_overlap=2", "--steps 7 --overlap 2"),
        ("--guidance_scale 2 --fps 30.0 --seed 1", "--guidance-scale 2 --fps 30.0 --seed 1"),
        ("--reference_attention_weight 1", "--reference-attention-weight 1"),
        ("--audio_attention_weight 1", "--audio-attention-weight 1"),
        ("--reference_image_path a.jpg --audio_path b.mp3", "--image a.jpg --audio b.mp3"),
        ("--kps_path c_d.pth --output_path e.mp4", "--keypoints c_d.pth --output e.mp4"),
        ("--retarget_strategy naive_retarget", "--retarget naive_retarget"),
    ],
)
def test_upstream_names_mean_the_same(upstream: str, ours: str) -> None:
    assert parse(["generate", *REQUIRED, *upstream.split()]) == parse(["generate", *REQUIRED, *ours.split()])


def test_aliases_lead_to_flags_that_exist() -> None:
    given = vars(parse(["generate", *REQUIRED]))
    assert set(ALIASES.values()) <= set(given)
    assert not set(REFUSED) & {name.replace("_", "-") for name in given}


def test_empty_keypoint_path_means_none_as_upstream_has_it() -> None:
    assert parse(["generate", *REQUIRED, "--kps_path", ""]).keypoints is None


@pytest.mark.parametrize("name", REFUSED)
def test_upstream_flag_without_a_place_here_is_refused_with_a_hint(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = usage_error(capsys, "generate", f"--{name.replace('-', '_')}", "12")
    assert f"--{name.replace('-', '_')} is {REFUSED[name]}" in printed


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--schedule", "wavefront"], "--schedule is called --window-order now"),
        (["--schedule=breadth"], "--schedule is called --window-order now"),
        (["--unconditional-every", "2"], "--unconditional-every is called --uncond-interval now"),
        (["--unconditional_every=2"], "--unconditional_every is called --uncond-interval now"),
        (["--window-order", "breadth"], "argument --window-order: breadth is called step_major now"),
    ],
)
def test_former_names_are_refused_with_the_new_ones(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complaint in usage_error(capsys, "generate", *REQUIRED, *arguments)


def test_window_length_is_said_to_belong_to_the_build(capsys: pytest.CaptureFixture[str]) -> None:
    printed = usage_error(capsys, "generate", *REQUIRED, "--context_frames", "12", "--dtype=fp16")
    assert "--context_frames is decided when the bundle is built: python -m export.build --frames N" in printed
    assert "--dtype is decided when the bundle is built: python -m export.build --precision" in printed


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "required: generate | inspect"),
        (["paint"], "invalid choice: 'paint'"),
        (["generate", "--image", "face.png"], "required: --audio, --output"),
        (["generate", *REQUIRED, "--step", "3"], "unrecognized arguments: --step 3"),
        (["generate", *REQUIRED, "--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["generate", *REQUIRED, "--extension", "wrap"], "invalid choice: 'wrap'"),
        (["generate", *REQUIRED, "--preset", "best"], "invalid choice: 'best'"),
        (["generate", *REQUIRED, "--sampler", "euler"], "invalid choice: 'euler'"),
        (["generate", *REQUIRED, "--guidance-interval", "0.5"], "'0.5' is no interval; expected LOW,HIGH, such as 0.2"),
        (["generate", *REQUIRED, "--image-keypoints", "1,2", "3,4", "5"], "'5' is no point; expected X,Y in pixels"),
        (["generate", *REQUIRED, "--image-keypoints", "1,2", "3,4"], "expected 3 arguments"),
        (["compile"], "required: DIR"),
    ],
)
def test_wrong_usage_is_explained(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint in usage_error(capsys, *arguments)


def test_points_may_lie_left_of_and_above_the_photo() -> None:
    given = parse(["generate", *REQUIRED, "--image-keypoints", "-5,2.5", "3,-4", "-1,-2"])
    assert given.image_keypoints == [(-5, 2.5), (3, -4), (-1, -2)]


@pytest.mark.parametrize(
    "size",
    ["512", "512x", "0x512", "512x0", "-1x5", "5x5x5", "1e3x5", "512X512", "512,512", "", "100000x5", "\uff15x5"],
)
def test_an_invalid_size_of_keypoints_is_wrong_usage(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["generate", "--image", "a", "--audio", "b", "--output", "c", f"--keypoints-size={size}"])
    assert caught.value.code == 2
    assert "is no size; expected WxH in pixels, such as 512x512" in capsys.readouterr().err


def test_a_size_of_keypoints_is_height_and_width() -> None:
    given = parse(["generate", "--image", "a", "--audio", "b", "--output", "c", "--keypoints-size", "640x480"])
    assert given.keypoints_size == (480, 640)
