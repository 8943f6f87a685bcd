"""The measurements of `benchmarks.live`: its clock, its checks of frames, and its command."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.live.__main__ import TIMERS, main
from benchmarks.live.clock import CheckedSession, Recording, Timer, run, sustained
from benchmarks.live.quality import best_shift, decibels, seams
from tests.doubles.fakes import FakeBackend
from tests.support.bundles import edit
from tests.support.scenes import photo, speech
from vexpress_rt import GenerationConfig, Generator, LiveSession
from vexpress_rt.config import RECOMMENDABLE

CONFIG = GenerationConfig(steps=1, overlap=2, fps=25, guidance_scale=1, median_filter=False)
RECORDING = Recording(*speech(0.9))


@pytest.fixture
def session(generator: Generator) -> LiveSession:
    return generator.live(photo(), config=CONFIG, look_ahead=0, context=0.5)


@pytest.fixture
def work(backend: FakeBackend, session: LiveSession) -> Callable[..., Timer]:
    """A function that sets the seconds of a window and of a decoded frame; its timer counts nothing else."""
    now = [0.0]

    def slow_down(name: str, seconds: float) -> None:
        engine = backend.engines[name]
        compute = engine._compute

        def slow(spec: Any, inputs: Any) -> Any:
            now[0] += seconds
            return compute(spec, inputs)

        engine._compute = slow

    def take(window: float, frame: float = 0.0) -> Timer:
        slow_down("denoiser_cond", window)
        slow_down("vae_decoder", frame)
        return lambda: now[0]

    return take


def test_what_comes_out_in_time_is_counted_and_its_sound_is_that_of_the_recording(
    session: LiveSession, work: Callable[..., Timer]
) -> None:
    timer = work(0.03)
    checked = CheckedSession(session, RECORDING)
    ticks: list[float] = []
    result = run(checked, 0.04, 4.0, ticks.append, timer)
    assert (checked.wrong, checked.largest_offset) == (0, 0)
    assert checked.count == len(ticks) == len(result.latencies) == 96  # of 16 windows
    assert ticks == sorted(ticks)
    assert result.seconds == pytest.approx(4, abs=0.041)
    assert result.worked == pytest.approx(16 * 0.03)
    assert result.lag < 0.24


def test_latency_is_from_a_chunks_arrival_to_its_first_frame(session: LiveSession, work: Callable[..., Timer]) -> None:
    result = run(CheckedSession(session, RECORDING), 0.04, 1.9, timer=work(0.03))
    # The first of a window's six frames waits for five more chunks, the last for none.
    expected = np.array([0.2, 0.16, 0.12, 0.08, 0.04, 0.0] * 7) + 0.03
    np.testing.assert_allclose(result.latencies, expected)


def test_with_median_and_look_ahead_the_latency_is_that_of_the_formula_in_the_documentation(
    generator: Generator, work: Callable[..., Timer]
) -> None:
    median = replace(CONFIG, median_filter=True)
    session = generator.live(photo(), config=median, look_ahead=0.08, context=0.5)
    result = run(CheckedSession(session, RECORDING), 0.04, 3.9, timer=work(0.03, 0.004))
    new, ahead, of_a_frame = 6, 2, 0.04
    frames = np.arange(-1, new - 1)  # of a window: the last one of the window before comes first
    expected = (new + ahead - frames - 1) * of_a_frame + 0.03 + (frames + 2) * 0.004
    np.testing.assert_allclose(result.latencies[new - 1 :][: 10 * new], np.tile(expected, 10))
    assert np.median(expected) == pytest.approx(((new + 1) / 2 + ahead) * of_a_frame + 0.03 + (new + 1) / 2 * 0.004)


def test_a_machine_that_is_too_slow_falls_behind_and_ends_in_time(
    session: LiveSession, work: Callable[..., Timer]
) -> None:
    result = run(CheckedSession(session, RECORDING), 0.04, 12.0, timer=work(0.3))  # for 0.24 seconds of video
    assert result.worked / result.seconds > 0.95
    assert result.lag == pytest.approx(12 * (1 - 0.24 / 0.3), abs=0.3)
    assert result.seconds < 12.3


def test_the_sustained_rate_is_that_of_the_work_alone(session: LiveSession, work: Callable[..., Timer]) -> None:
    assert sustained(CheckedSession(session, RECORDING), 3.0, work(0.3)) == pytest.approx(6 / 0.3)


def test_sound_of_another_place_is_noticed(session: LiveSession) -> None:
    checked = CheckedSession(session, RECORDING)
    session.push(RECORDING.piece(1, 16001))
    for frame in session.frames():
        checked.check(replace(frame, index=frame.index + 1))
    assert checked.wrong == checked.count > 0


def test_seams_are_told_from_the_rest() -> None:
    frames = np.zeros((9, 4, 4, 3), np.uint8)
    frames[3:6] += 10
    frames[6:] += 20
    frames[7:] += 1
    found = seams(frames, 3)
    assert found["seams_db"] == pytest.approx(10 * np.log10(255**2 / 100))
    assert found["elsewhere_db"] == pytest.approx(10 * np.log10(255**2 / (1 / 6)))
    assert decibels(np.zeros(3)) == 99


@pytest.mark.parametrize("late", [-2, 0, 3])
def test_lips_that_come_late_are_found_so(late: int) -> None:
    asked = np.random.default_rng(0).random(60)
    assert best_shift(np.roll(asked, late), asked) == late


def test_the_command_measures_speed_memory_drift_and_cost(fake_bundle: Path, backend: FakeBackend, tmp_path: Path,
                                                           capsys: pytest.CaptureFixture[str],
                                                           monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    ticks = itertools.count(step=0.005)
    monkeypatch.setitem(TIMERS, "wall", lambda: next(ticks))  # a pull takes 5 ms, on a machine of any speed
    output = tmp_path / "live.json"
    asked = ["--minutes", "0.1", "--steps", "1", "--overlap", "2", "--fps", "25", "--context", "0.5"]
    assert main(["--bundle", str(fake_bundle), "--provider", "cpu", *asked, "--json", str(output)]) == 0
    found = json.loads(output.read_text())
    assert json.loads(capsys.readouterr().out) == found
    clock = found["clock"]
    assert clock["frames_with_wrong_sound_or_time"] == clock["sound_to_time_s_at_most"] == 0
    assert 6 <= clock["seconds"] < 7
    assert clock["latency_s"]["p50"] <= clock["latency_s"]["p95"] <= clock["latency_s"]["max"]
    assert clock["memory_mib"]["after_a_fifth"] > 0
    assert set(clock["lips"]) == {"first", "last"}
    assert (found["settings"]["steps"], found["settings"]["overlap"]) == (1, 2)
    assert found["sustained_fps"] > 0
    (cost,) = found["cost"].values()
    assert cost["frames"] == 81
    assert cost["exact"]["elsewhere_db"] > 10
    assert cost["live_to_exact_db"] > 10


def test_without_options_the_command_measures_what_the_bundle_recommends_for_live_sessions(
    fake_bundle: Path, backend: FakeBackend, tmp_path: Path
) -> None:
    folder, output = Path(shutil.copytree(fake_bundle, tmp_path / "bundle")), tmp_path / "live.json"
    live = {"steps": 2, "guidance_scale": 1.0}
    edit(folder, lambda data: data.update(recommended={"steps": 9, "fps": 25}, recommended_live=live))
    speed = ["--minutes", "0", "--context", "0.5", "--json", str(output)]
    assert main(["--bundle", str(folder), "--provider", "cpu", *speed]) == 0
    settings = json.loads(output.read_text())["settings"]
    assert settings.keys() == set(RECOMMENDABLE)
    assert (settings["steps"], settings["guidance_scale"], settings["fps"]) == (2, 1.0, 25)
    assert backend.calls("denoiser") == []
    levels = {call["timestep"][0] for call in backend.calls("denoiser_cond")}
    assert len(levels) == 2  # in the video of `generate` and in the session


@pytest.mark.parametrize(("flag", "value"), [("--device", "GPU"), ("--precision", "bf16")])
def test_device_and_precision_reach_the_generator(
    fake_bundle: Path, flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--bundle", str(fake_bundle), "--provider", "cpu", flag, value]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {flag[2:]} is {value}, ")
    assert "provider='openvino'" in error
