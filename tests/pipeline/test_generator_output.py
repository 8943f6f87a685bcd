"""The generator's output: frames, files, progress and times; and its early ends. Engines are fakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.doubles.fakes import FakeBackend, FakeEngine
from tests.support.clock import Clock
from tests.support.scenes import FAST, frames_of, photo, read_back, speech
from vexpress_rt.config import GenerationConfig
from vexpress_rt.native import median_filter
from vexpress_rt.pipeline.generator import Generator
from vexpress_rt.utils import stopwatch

# Frames, files, time


def test_the_median_filter_is_applied_to_the_finished_clip(generator: Generator) -> None:
    filtered, raw = (
        frames_of(generator.generate(photo(), speech(), config=GenerationConfig(steps=1, overlap=2, median_filter=on)))
        for on in (True, False)
    )
    np.testing.assert_array_equal(filtered, median_filter(raw))
    assert (filtered != raw).any()


@pytest.mark.parametrize(
    ("named", "keep", "kept"),
    [(False, None, True), (False, False, False), (True, None, False), (True, True, True), (True, False, False)],
)
def test_frames_are_kept_if_there_is_no_file_or_they_are_asked_for(
    generator: Generator, tmp_path: Path, named: bool, keep: bool | None, kept: bool
) -> None:
    output = tmp_path / "out.mp4" if named else None
    video = generator.generate(photo(), speech(0.1), output=output, keep_frames=keep, config=FAST)
    assert (video.frames is not None) == kept
    assert video.path == output
    assert list(tmp_path.iterdir()) == ([output] if output else [])


@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.mkv"])
def test_the_file_holds_the_frames_and_the_speech(generator: Generator, tmp_path: Path, name: str) -> None:
    video = generator.generate(photo(), speech(0.3), output=str(tmp_path / name), keep_frames=True, config=FAST)
    pictures, rate, samples, sound = read_back(tmp_path / name)
    assert len(pictures) == video.length == 9
    assert rate == 30
    assert np.abs(pictures.astype(int) - frames_of(video)).mean() < 8
    assert 0.3 * sound <= samples < 0.3 * sound + 2048  # AAC comes in blocks of 1024


def test_the_sound_of_a_video_may_be_the_speech(generator: Generator, tmp_path: Path) -> None:
    talking = tmp_path / "talking.mp4"
    generator.generate(photo(), speech(0.4), output=talking, config=FAST)
    video = generator.generate(photo(), talking, output=tmp_path / "out.mp4", config=FAST)
    assert video.length == 12
    assert len(read_back(tmp_path / "out.mp4")[0]) == 12


STAGES = {  # the engines that run in each stage
    "portrait": ("face_detector", "vae_encoder", "reference_net"),
    "audio": ("audio_encoder",),
    "denoise": ("audio_projection", "pose_guider", "denoiser", "denoiser_cond"),
    "decode": ("vae_decoder",),
}


def test_seconds_are_reported_by_stage_and_sum_up(
    generator: Generator, backend: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call of an engine takes a second on the stopwatch's clock, and nothing else takes any time."""
    clock, run = Clock(), FakeEngine.run

    def slow(engine: FakeEngine, *given: Any, **more: Any) -> Any:
        clock.work(1)
        return run(engine, *given, **more)

    monkeypatch.setattr(stopwatch, "time", clock)
    monkeypatch.setattr(FakeEngine, "run", slow)
    video = generator.generate(photo(), speech(0.6), output=tmp_path / "out.mp4", config=FAST)
    seconds = dict(video.timings)
    assert seconds.pop("total") == sum(seconds.values())
    assert set(seconds) == {*STAGES, "load", "keypoints", "median", "encode"}
    for stage, engines in STAGES.items():
        assert seconds.pop(stage) == sum(len(backend.calls(name)) for name in engines) > 0
    assert set(seconds.values()) == {0}


def test_stages_that_did_not_happen_take_no_time(generator: Generator) -> None:
    video = generator.generate(photo(), speech(), config=GenerationConfig(steps=1, overlap=2, median_filter=False))
    assert set(video.timings) == {"load", "portrait", "audio", "keypoints", "denoise", "decode", "total"}


def test_progress_is_reported_in_order_and_to_the_end(generator: Generator) -> None:
    reports: list[tuple[str, int, int]] = []
    generator.generate(photo(), speech(0.6), config=FAST, progress=lambda *what: reports.append(what))  # 3 windows
    assert reports[:3] == [("keypoints", 1, 1), ("portrait", 1, 1), ("audio", 1, 1)]
    assert [what for what in reports if what[0] == "denoise"] == [("denoise", done, 6) for done in range(1, 7)]
    assert [what for what in reports if what[0] == "frames"] == [("frames", done, 18) for done in range(1, 19)]
    assert reports[-1] == ("frames", 18, 18)


def test_finished_frames_leave_before_the_last_are_denoised(generator: Generator) -> None:
    reports: list[str] = []
    generator.generate(photo(), speech(2), config=FAST, progress=lambda stage, done, total: reports.append(stage))
    denoised_before = reports[: reports.index("frames")].count("denoise")
    assert denoised_before == 3  # two steps of the first window and what they depend on
    assert reports.count("denoise") == 20


# Ending


class StopError(Exception):
    """An exception of the caller's callback."""


@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt])
@pytest.mark.parametrize(("stage", "done"), [("portrait", 1), ("audio", 1), ("denoise", 2), ("frames", 1),
                                             ("frames", 18)])  # fmt: skip
def test_an_exception_in_the_callback_ends_the_work_and_leaves_nothing(
    generator: Generator, tmp_path: Path, error: type[BaseException], stage: str, done: int
) -> None:
    def stop(*what: Any) -> None:
        if what[:2] == (stage, done):
            raise error

    expected = frames_of(generator.generate(photo(), speech(0.6), config=FAST))
    with pytest.raises(error):
        generator.generate(photo(), speech(0.6), output=tmp_path / "out.mp4", config=FAST, progress=stop)
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(frames_of(generator.generate(photo(), speech(0.6), config=FAST)), expected)
