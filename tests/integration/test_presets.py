"""Presets, samplers and guidance: as options, and in a `Generator` with fake engines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.doubles.fakes import FakeBackend, write_bundle
from tests.support.scenes import FAST, frames_of, photo, speech, track
from vexpress_rt.bundle.engine_spec import ENGINE_NAMES
from vexpress_rt.config import PRESETS, SAMPLERS, GenerationConfig, Settings
from vexpress_rt.diffusion.guidance import Guidance
from vexpress_rt.errors import BundleNotFoundError, ConfigError
from vexpress_rt.pipeline.generator import Generator

# As options


def test_the_exact_preset_is_the_published_pipeline_whatever_a_bundle_recommends() -> None:
    recommended = {"steps": 8, "sampler": "unipc", "guidance_interval": [0.2, 0.8], "uncond_interval": 2}
    assert GenerationConfig(preset="exact").resolve(recommended, 24) == Settings()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_choice_goes_before_a_preset_and_that_before_a_recommendation(preset: str) -> None:
    recommended = {"steps": 3, "sampler": "dpm++2m", "guidance_scale": 2, "fps": 25}
    settings = GenerationConfig(preset=preset, guidance_interval=(0.125, 0.5)).resolve(recommended, 24)
    assert {name: getattr(settings, name) for name in PRESETS[preset]} == {
        **PRESETS[preset],
        "guidance_interval": (0.125, 0.5),
    }
    assert (settings.guidance_scale, settings.fps, settings.preset) == (2, 25, None)


def test_every_preset_says_the_same_options_and_nothing_of_how_strong_guidance_is() -> None:
    for options in PRESETS.values():
        assert set(options) == {"steps", "sampler", "guidance_interval", "uncond_interval"}
        assert GenerationConfig(**options).resolve({}, 24) == Settings(**options)


def test_presets_make_fewer_calls_one_after_the_other() -> None:
    steps = [PRESETS[name]["steps"] for name in ("exact", "balanced", "fast")]
    assert steps == sorted(steps, reverse=True)
    assert len(set(steps)) == 3


def test_settings_take_no_preset_since_they_leave_nothing_to_it() -> None:
    with pytest.raises(
        ConfigError, match=r"preset is 'fast'; expected None in Settings.*GenerationConfig\(preset='fast'"
    ):
        Settings(preset="fast")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "quick"}, "preset is 'quick'; expected one of exact, balanced, fast"),
        ({"preset": 1}, "preset is 1; expected one of"),
        ({"sampler": "euler"}, r"sampler is 'euler'; expected one of ddim, dpm\+\+2m, unipc"),
        ({"guidance_interval": 0.5}, "guidance_interval is 0.5; expected two numbers, 0 <= low < high <= 1"),
        ({"guidance_interval": (0.5, 0.5)}, "guidance_interval is "),
        ({"guidance_interval": (0.8, 0.2)}, "guidance_interval is "),
        ({"guidance_interval": (-0.1, 0.2)}, "guidance_interval is "),
        ({"guidance_interval": (0.1, 1.2)}, "guidance_interval is "),
        ({"guidance_interval": (0.1, float("nan"))}, "guidance_interval is "),
        ({"guidance_interval": (False, True)}, "guidance_interval is "),
        ({"guidance_interval": (0.1, 0.2, 0.3)}, "guidance_interval is "),
        ({"guidance_interval": "01"}, "guidance_interval is '01'"),
        ({"guidance_interval": b"\x00\x01"}, "guidance_interval is b"),
        ({"guidance_interval": bytearray(b"\x00\x01")}, "guidance_interval is bytearray"),
        ({"guidance_interval": {0.0, 0.5}}, "guidance_interval is {0.0, 0.5}"),
        ({"guidance_interval": {0.0: 1, 0.5: 2}}, "guidance_interval is {0.0: 1, 0.5: 2}"),
        ({"guidance_interval": range(2)}, r"guidance_interval is range\(0, 2\)"),
        ({"guidance_interval": iter([0, 0.5])}, "guidance_interval is <"),
        ({"guidance_interval": np.array([[0, 0.5]])}, "guidance_interval is array"),
        ({"guidance_interval": np.array(0.5)}, "guidance_interval is array"),
        ({"uncond_interval": 0}, "uncond_interval is 0; expected a whole number of at least 1"),
        ({"uncond_interval": 1.5}, "uncond_interval is 1.5"),
    ],
)
def test_impossible_samplers_and_guidance_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        GenerationConfig(**options)


def test_an_interval_is_kept_as_two_floats() -> None:
    for given_interval in ([0, 0.5], (0.0, np.float32(0.5)), np.array([0, 0.5])):
        assert GenerationConfig(guidance_interval=given_interval).guidance_interval == (0.0, 0.5)  # type: ignore[arg-type]
    assert hash(GenerationConfig(guidance_interval=[0, 0.5]))  # type: ignore[arg-type]


# In a generator

WINDOWS = 2  # for 0.4 s: windows of 8 frames with an overlap of 2


def video(generator: Generator, config: GenerationConfig) -> np.ndarray:
    return frames_of(generator.generate(photo(), speech(0.4), config=config))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_gives_what_its_options_give_with_the_calls_that_they_plan(
    generator: Generator, backend: FakeBackend, preset: str
) -> None:
    found = video(generator, GenerationConfig(preset=preset, overlap=2))
    settings = GenerationConfig(preset=preset).resolve({}, 8)
    planned = Counter(part.engine for part in Guidance.from_settings(settings).plan(settings.steps))
    for name in ("denoiser", "denoiser_cond"):
        assert len(backend.calls(name)) == WINDOWS * planned[name]
    np.testing.assert_array_equal(found, video(generator, GenerationConfig(overlap=2, **PRESETS[preset])))


def test_the_exact_preset_is_what_is_made_without_any(generator: Generator) -> None:
    exact = video(generator, GenerationConfig(preset="exact", overlap=2))
    np.testing.assert_array_equal(exact, video(generator, GenerationConfig(overlap=2)))


def test_samplers_go_different_ways(generator: Generator) -> None:
    videos = [video(generator, GenerationConfig(sampler=name, steps=6, overlap=2)) for name in SAMPLERS]
    assert all((one != other).any() for one, other in zip(videos, videos[1:] + videos[:1], strict=True))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_will_do(generator: Generator, steps: int) -> None:
    for name in SAMPLERS:
        assert video(generator, GenerationConfig(sampler=name, steps=steps, overlap=2)).std() > 0


def test_one_step_is_the_same_for_all_samplers(generator: Generator) -> None:
    ddim, *others = (video(generator, GenerationConfig(sampler=name, steps=1, overlap=2)) for name in SAMPLERS)
    for other in others:
        np.testing.assert_array_equal(other, ddim)


def test_a_preset_can_be_changed_in_part(generator: Generator, backend: FakeBackend) -> None:
    video(generator, GenerationConfig(preset="exact", steps=4, guidance_interval=(0, 0.5), overlap=2))
    assert [len(backend.calls(name)) for name in ("denoiser", "denoiser_cond")] == [2 * WINDOWS, 2 * WINDOWS]


def test_what_runs_only_in_some_steps_is_missed_before_the_work(tmp_path: Path, backend: FakeBackend) -> None:
    folder = write_bundle(tmp_path / "lacking", [name for name in ENGINE_NAMES if name != "denoiser_cond"])
    config = GenerationConfig(overlap=2, steps=4, guidance_interval=(0.2, 1))
    with Generator(folder) as generator, pytest.raises(BundleNotFoundError, match="--engine denoiser_cond"):
        generator.generate(photo(), speech(0.1), keypoints=track(3), config=config)
    assert not backend.calls("reference_net")


def test_reusing_in_every_step_what_was_just_computed_changes_nothing(generator: Generator) -> None:
    plain = video(generator, FAST)
    np.testing.assert_array_equal(plain, video(generator, GenerationConfig(steps=2, overlap=2, uncond_interval=1)))
    assert (plain != video(generator, GenerationConfig(steps=2, overlap=2, uncond_interval=2))).any()
