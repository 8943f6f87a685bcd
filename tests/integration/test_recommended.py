"""A bundle carries its checkpoint's recommended settings, which apply to options that the caller does not set."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from export.build.builder import build
from export.build.options import BuildOptions
from tests.doubles.fakes import FakeBackend
from tests.support.bundles import edit
from tests.support.folders import content
from tests.support.micro import MICRO, MICRO_SHAPE
from tests.support.scenes import frames_of, photo, speech
from vexpress_rt import ConfigError, GenerationConfig, Generator, Video
from vexpress_rt.__main__ import main
from vexpress_rt.bundle.bundle import Bundle

RECOMMENDED = {"steps": 3, "guidance_scale": 1.0, "audio_attention_weight": 0.5, "fps": 12.5, "overlap": 1}
LIVE = {"steps": 2, "guidance_scale": 1.0, "overlap": 2}
SAMPLING = {
    "sampler": "unipc",
    "guidance_scale": 2,
    "guidance_interval": [0.3, 1.0],
    "uncond_interval": 2,
    "steps": 5,
}


@pytest.fixture
def advising(fake_bundle: Path, tmp_path: Path) -> Path:
    """A bundle of fake engines with recommended settings."""
    folder = Path(shutil.copytree(fake_bundle, tmp_path / "advising"))
    edit(folder, lambda data: data.update(recommended=RECOMMENDED))
    return folder


def video(bundle: Path, config: GenerationConfig | None) -> Video:
    with Generator(bundle) as generator:
        return generator.generate(photo(), speech(1.2), config=config)


def test_a_bundle_carries_what_its_checkpoint_recommends(micro_bundle: Path) -> None:
    assert MICRO.recommended
    assert MICRO.recommended_live
    manifest = Bundle.open(micro_bundle).manifest
    assert (manifest.recommended, manifest.recommended_live) == (MICRO.recommended, MICRO.recommended_live)


@pytest.mark.parametrize(("option", "section"), [('"steps": 7', ""), ('"steps": 3', "recommended_live: ")])
def test_an_overlap_that_the_window_cannot_have_is_refused_before_anything_is_built(
    micro_checkpoint: Path, tmp_path: Path, option: str, section: str
) -> None:
    weights = Path(shutil.copytree(micro_checkpoint, tmp_path / "weights"))
    config = weights / "v-express" / "config.json"
    config.write_text(config.read_text().replace(option, '"overlap": 3'))
    before = content(tmp_path)
    with pytest.raises(ConfigError, match=f"^{section}overlap is 3; expected less than the bundle's window of 3"):
        build(weights, tmp_path / "bundle", BuildOptions(MICRO_SHAPE))
    assert content(tmp_path) == before


@pytest.mark.parametrize("config", [None, GenerationConfig()])
def test_a_video_is_made_as_recommended_where_nothing_was_chosen(
    config: GenerationConfig | None, advising: Path, fake_bundle: Path, backend: FakeBackend
) -> None:
    found = video(advising, config)
    calls = backend.calls("denoiser_cond")
    assert {float(call["audio_attention_weight"][0]) for call in calls} == {0.5}
    assert {call["reference_attention_weight"][0] for call in calls} == {np.float32(0.95)}
    assert len(calls) == 3 * 2  # 3 steps of 2 windows, for 15 frames
    assert (found.length, found.fps) == (15, 12.5)
    expected = video(fake_bundle, GenerationConfig(**RECOMMENDED))  # type: ignore[arg-type]
    assert frames_of(found).tobytes() == frames_of(expected).tobytes()


def test_a_choice_goes_before_a_recommendation(advising: Path, backend: FakeBackend) -> None:
    found = video(advising, GenerationConfig(steps=2, fps=5, audio_attention_weight=0))
    calls = backend.calls("denoiser_cond")
    assert {float(call["audio_attention_weight"][0]) for call in calls} == {0}
    assert (len(calls), found.length) == (2, 6)


def test_a_live_session_runs_as_recommended_for_it_where_nothing_was_chosen(
    advising: Path, fake_bundle: Path, backend: FakeBackend
) -> None:
    edit(advising, lambda data: data.update(recommended={**RECOMMENDED, "guidance_scale": 2}, recommended_live=LIVE))
    with Generator(fake_bundle) as generator:
        expected = images(generator, GenerationConfig(**{**RECOMMENDED, **LIVE}))  # type: ignore[arg-type]
    backend.loads.clear()
    with Generator(advising) as generator:
        generator.load(live=True)
        assert {name for name in backend.loads if name.startswith("denoiser")} == {"denoiser_cond"}
        np.testing.assert_array_equal(images(generator, None), expected)
        assert len(backend.calls("denoiser_cond")) == 2 * 3  # steps of the silence before the speech and of two windows
        images(generator, GenerationConfig(steps=5))
        assert len(backend.calls("denoiser_cond")) == 2 * 3 + 5 * 3
        settings = generator.bundle.manifest.settings(GenerationConfig())
        assert (settings.steps, settings.guidance_scale) == (3, 2)


def images(generator: Generator, config: GenerationConfig | None) -> np.ndarray:
    """Return the frames of a live session of half a second of speech."""
    with generator.live(photo(), config=config, context=0.5) as session:
        session.push(speech(0.5)[0])
        session.flush()
        return np.stack([frame.image for frame in session.frames()])


def test_a_bundle_can_recommend_how_to_sample(
    fake_bundle: Path, tmp_path: Path, backend: FakeBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(fake_bundle, tmp_path / "advising"))
    edit(folder, lambda data: data.update(recommended=SAMPLING))
    found = frames_of(video(folder, None))
    assert [len(backend.calls(name)) for name in ("denoiser", "denoiser_cond")] == [2 * 8, 3 * 8]  # of 8 windows
    expected = frames_of(video(fake_bundle, GenerationConfig(**SAMPLING)))  # type: ignore[arg-type]
    assert found.tobytes() == expected.tobytes()
    assert main(["inspect", str(folder)]) == 0
    line = "recommended: sampler unipc, guidance_scale 2, guidance_interval 0.3 to 1.0, uncond_interval 2, steps 5"
    assert line in capsys.readouterr().out


def test_inspect_tells_what_is_recommended(advising: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(advising, lambda data: data.update(recommended_live=LIVE))
    assert main(["inspect", str(advising)]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = "settings:  recommended: steps 3, guidance_scale 1.0, audio_attention_weight 0.5, fps 12.5, overlap 1"
    assert lines[lines.index(first) + 1] == "live:      recommended: steps 2, guidance_scale 1.0, overlap 2"
