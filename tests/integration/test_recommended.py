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
    assert Bundle.open(micro_bundle).manifest.recommended == MICRO.recommended


def test_an_overlap_that_the_window_cannot_have_is_refused_before_anything_is_built(
    micro_checkpoint: Path, tmp_path: Path
) -> None:
    weights = Path(shutil.copytree(micro_checkpoint, tmp_path / "weights"))
    config = weights / "v-express" / "config.json"
    config.write_text(config.read_text().replace('"steps": 7', '"overlap": 3'))
    before = content(tmp_path)
    with pytest.raises(ConfigError, match="overlap is 3; expected less than the bundle's window of 3 frames"):
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
    assert main(["inspect", str(advising)]) == 0
    line = "settings:  recommended: steps 3, guidance_scale 1.0, audio_attention_weight 0.5, fps 12.5, overlap 1"
    assert line in capsys.readouterr().out.splitlines()
