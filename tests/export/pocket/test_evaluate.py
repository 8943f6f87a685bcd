"""The evaluation of the small model, on drawings of what videos should show, and on what they should not."""

from __future__ import annotations

import json
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from export.errors import ExportError
from export.pocket.architecture import FPS, SIZE
from export.pocket.evaluate import __main__ as command_line
from export.pocket.evaluate import cases as cases_module
from export.pocket.evaluate.cases import SHARED, Case, all_cases, cases_of, loudness
from export.pocket.evaluate.figures import (
    CLOSED,
    DRIVEN_SYNC,
    FULL,
    HELD_SYNC,
    KNOWN,
    LIVE,
    LIVE_SYNC_LOSS,
    NOSE,
    SESSION,
    SHARE,
    STILL,
    Figure,
    Results,
    balance,
    headline,
    live_figures,
    signal_figures,
)
from export.pocket.evaluate.live_speed import read_live_speed
from export.pocket.evaluate.measuring import Measured, correlation, measure
from export.pocket.evaluate.pictures import measure_pictures
from export.pocket.evaluate.report import Run, as_json, markdown
from export.pocket.evaluate.sheet import MOMENTS, draw_sheet, moments
from export.pocket.evaluate.subjects import FIRST, Subject, gallery, make_subject
from export.pocket.evaluate.video_sources import CHUNK, LIVE_OPTIONS, GeneratedVideos, LiveVideos, Portraits, draw_case
from export.pocket.lips import RATE
from vexpress_rt import GenerationConfig
from vexpress_rt.config import Settings

SECONDS = 0.6
Frames = NDArray[np.uint8]


def voice(seed: int, seconds: float) -> NDArray[np.float32]:
    """A vowel that comes and goes."""
    time = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * 130 * k * time) / (1 + ((130 * k - 700) / 200) ** 2) for k in range(1, 30))
    return (0.2 * tone * np.clip(np.sin(2 * np.pi * 2.2 * time + seed), 0, 1)).astype(np.float32)


def make_clip(seed: int, seconds: float, *, silent: float) -> NDArray[np.float32]:
    """In place of espeak-ng's."""
    return voice(seed, seconds) if silent == 0 else np.zeros(round(seconds * RATE), np.float32)


@pytest.fixture(scope="module")
def subjects() -> list[Subject]:
    return [make_subject(FIRST + i) for i in range(4)]


@pytest.fixture(scope="module")
def made(subjects: list[Subject]) -> dict[str, tuple[Case, Frames]]:
    """By scene: a video as it should be."""
    return {case.scene: (case, draw_case(case)) for case in cases_of(subjects[0], SECONDS, voice, depth=True)}


@pytest.fixture(scope="module")
def measured(subjects: list[Subject], made: dict[str, tuple[Case, Frames]]) -> dict[str, Measured]:
    return {scene: measure(case, frames, gallery(subjects, 0)) for scene, (case, frames) in made.items()}


@pytest.fixture(scope="module")
def results(made: dict[str, tuple[Case, Frames]], measured: dict[str, Measured]) -> Results:
    """Of drawings."""
    return Results(list(measured.values()), [measure_pictures(*pair) for pair in made.values()], {"steps": 7})


def row(measured: dict[str, Measured], changed: Measured, what: str) -> Figure:
    """The figure whose name begins so, after one video was replaced."""
    rows = signal_figures(list({**measured, changed.case.scene: changed}.values()))
    (found,) = (figure for figure in rows if figure.what.startswith(what))
    return found


# Drawings: what is asked for is found


def test_drawings_reach_all_targets(measured: dict[str, Measured], results: Results) -> None:
    assert [figure.what for figure in headline(results) if not figure.passed] == []
    alone = balance(list(measured.values()))
    assert [a.signal for a in alone] == ["voice", "pose", "photo", "depth"]
    assert all(figure.passed for a in alone for figure in (a.mouth, a.nose, a.who))


def test_drawn_mouths_follow_the_speech(measured: dict[str, Measured]) -> None:
    assert measured["voice"].correlation > 0.95
    assert measured["photo"].correlation > 0.95
    assert max(measured["voice"].shares) > 0.3


def test_drawn_noses_are_where_they_should_be(measured: dict[str, Measured]) -> None:
    assert max(measured["pose"].errors) < 0.003
    assert max(measured["voice"].strays) < 0.004


# Other videos: what is wrong is found


def test_a_mouth_that_follows_something_else_is_found(measured: dict[str, Measured]) -> None:
    m = measured["voice"]
    shuffled = np.random.default_rng(0).permutation(m.case.followed)
    assert not row(measured, replace(m, case=replace(m.case, followed=shuffled)), "lips, head held").passed


def test_a_mouth_that_never_moves_follows_nothing() -> None:
    assert correlation(np.zeros(9), np.arange(9.0)) == 0


def test_a_mouth_that_opens_in_silence_is_found(
    subjects: list[Subject], made: dict[str, tuple[Case, Frames]], measured: dict[str, Measured]
) -> None:
    talking = measure(made["silence"][0], made["voice"][1], gallery(subjects, 0))
    assert not row(measured, talking, "silence: ").passed


def test_a_head_held_elsewhere_than_asked_is_found(
    subjects: list[Subject], made: dict[str, tuple[Case, Frames]], measured: dict[str, Measured]
) -> None:
    case, frames = made["pose"]
    elsewhere = measure(case, np.roll(frames, 4, axis=2), gallery(subjects, 0))
    np.testing.assert_allclose(elsewhere.errors, 4 / SIZE, atol=0.003)
    (pose,) = (a for a in balance(list({**measured, "pose": elsewhere}.values())) if a.signal == "pose")
    assert not pose.nose.passed


def test_a_head_that_should_be_still_and_moves_is_found(
    subjects: list[Subject], made: dict[str, tuple[Case, Frames]], measured: dict[str, Measured]
) -> None:
    case, frames = made["voice"]
    nodding = np.stack([np.roll(frame, 2 * (i % 3) - 2, axis=0) for i, frame in enumerate(frames)])
    found = measure(case, nodding, gallery(subjects, 0))
    assert np.median(found.strays) == pytest.approx(2 / SIZE, abs=0.003)
    assert not row(measured, found, "nose, head held").passed


def test_somebody_else_is_not_taken_for_the_right_person(
    subjects: list[Subject], made: dict[str, tuple[Case, Frames]], measured: dict[str, Measured]
) -> None:
    other = measure(made["photo"][0], made["photo"][1], gallery(subjects, 1))
    assert not other.known.any()
    assert not row(measured, other, "identity: ").passed


# Cases and makers


def test_of_each_scene_one_signal_moves(made: dict[str, tuple[Case, Frames]]) -> None:
    spoken = {scene: bool(case.followed.any()) for scene, (case, _) in made.items()}
    held = {scene: case.held for scene, (case, _) in made.items()}
    assert spoken == {"voice": True, "silence": False, "pose": False, "photo": True, "depth": True}
    assert held == {"voice": True, "silence": True, "pose": False, "photo": False, "depth": False}
    assert all(len(case.points) == round(SECONDS * FPS) for case, _ in made.values())


def test_only_the_photo_differs_between_peoples_photo_scenes(subjects: list[Subject]) -> None:
    first, second = (cases_of(subject, SECONDS, voice)[-1] for subject in subjects[:2])
    assert first.noise == second.noise == SHARED
    np.testing.assert_array_equal(first.points, second.points)
    np.testing.assert_array_equal(first.samples, second.samples)


def test_a_gallery_begins_with_the_person_and_goes_on_with_others(subjects: list[Subject]) -> None:
    patches = gallery(subjects, 2)
    np.testing.assert_array_equal(patches, [subjects[i].patch for i in (2, 3, 0, 1)])


def test_recorded_speech_is_held_against_its_loudness(tmp_path: Path, subjects: list[Subject]) -> None:
    samples = voice(1, SECONDS)
    write_wav(tmp_path / "recorded.wav", samples)
    cases = all_cases(subjects[:1], SECONDS, [tmp_path / "recorded.wav"], voice)
    (case,) = (case for case in cases if case.scene == "recorded")
    assert case.held
    np.testing.assert_allclose(case.followed, loudness(samples), rtol=0.01, atol=0.01)
    assert correlation(np.array([pose.mouth for pose in case.poses]), case.followed) > 0.8


def test_what_is_louder_or_easier_to_hear_counts_for_more() -> None:
    time = np.arange(RATE) / RATE
    hum, tone = (np.sin(2 * np.pi * hertz * time).astype(np.float32) for hertz in (60, 1000))
    level, louder, low = (loudness(samples)[FPS // 2] for samples in (tone, 2 * tone, hum))
    assert louder == pytest.approx(2**0.6 * level, rel=0.01)
    assert low < 0.25 * level


class Recorder:
    """In place of a generator."""

    def __init__(self) -> None:
        self.prepared: list[tuple[int, ...]] = []
        self.calls: list[dict[str, Any]] = []

    def prepare(self, photo: Frames, *, keypoints: NDArray[np.float32]) -> str:
        self.prepared.append(photo.shape)
        return f"portrait {len(self.prepared)}"

    def generate(self, portrait: str, audio: tuple[NDArray[np.float32], int], **options: Any) -> SimpleNamespace:
        self.calls.append({"portrait": portrait, "rate": audio[1], **options})
        return SimpleNamespace(frames=np.zeros((1, SIZE, SIZE, 3), np.uint8))

    def live(self, portrait: str, **options: Any) -> Session:
        self.calls.append({"portrait": portrait, "rate": options.pop("sample_rate"), **options})
        return Session()


class Session:
    """In place of a live session: a frame for each chunk, numbered by its colour, the last one after `flush`."""

    def __init__(self) -> None:
        self.waiting: list[int] = []
        self.count = 0

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None: ...

    def push(self, samples: NDArray[np.float32]) -> None:
        assert len(samples) == CHUNK
        self.waiting.append(self.count)
        self.count += 1

    def flush(self) -> None:
        self.waiting.append(self.count)

    def frames(self) -> Iterator[SimpleNamespace]:
        while len(self.waiting) > 1:
            yield SimpleNamespace(image=np.full((SIZE, SIZE, 3), self.waiting.pop(0), np.uint8))


@pytest.mark.parametrize("source", [GeneratedVideos, LiveVideos])
def test_the_generator_is_called_as_a_user_calls_it(subjects: list[Subject], source: type[GeneratedVideos]) -> None:
    generator, cases = Recorder(), [case for s in subjects[:2] for case in cases_of(s, SECONDS, voice, depth=True)]
    make = source(Portraits(generator), GenerationConfig(fps=FPS, steps=7))  # type: ignore[arg-type]
    for case in cases:
        make(case)
    assert len(generator.prepared) == 2
    assert [call["portrait"] for call in generator.calls] == ["portrait 1"] * 5 + ["portrait 2"] * 5
    for case, call in zip(cases, generator.calls, strict=True):
        assert call["rate"] == RATE
        assert (call["keypoints"] is None) == (case.scene not in ("pose", "photo"))
        assert (call["depth"] is None) == (case.scene != "depth")
        assert call["config"] == GenerationConfig(fps=FPS, steps=7, seed=case.noise)


def test_a_live_session_gives_every_frame_in_order(made: dict[str, tuple[Case, Frames]]) -> None:
    case, _ = made["photo"]
    frames = LiveVideos(Portraits(Recorder()), GenerationConfig(fps=FPS))(case)  # type: ignore[arg-type]
    assert frames[:, 0, 0, 0].tolist() == list(range(len(case.poses)))


# What is written


RUN = Run("python -m export.pocket.evaluate --bundle x", "bundle 0123", 1, SECONDS, 1.5)


def test_the_report_names_targets_verdicts_seeds_and_command(measured: dict[str, Measured], results: Results) -> None:
    talking = replace(measured["silence"], shares=measured["voice"].shares)
    changed = replace(results, measured=list({**measured, "silence": talking}.values()))
    text = markdown(RUN, {FULL: changed})
    shares = (f"{100 * limit:g} %" for limit in (CLOSED, NOSE, STILL, KNOWN))
    for target in (f"at least {HELD_SYNC}", f"at least {DRIVEN_SYNC}", *shares):
        assert target in text
    assert text.count("| MISSED |") == 1
    rows = [figure for figure in headline(results) if figure.target is not None]
    assert f"{len(rows) - 1} of {len(rows)} targets" in text
    for fact in (RUN.command, "bundle 0123", "steps 7", str(FIRST), str(SHARED), "numpy", "Commit "):
        assert fact in text
    assert "Recorded speech was not measured" in text
    assert "`--live-speed` was not given" in text


def test_live_settings_are_compared_with_full_settings(results: Results, tmp_path: Path) -> None:
    follows = [replace(m, openings=m.openings[::-1]) for m in results.measured]
    worse = Results(follows, [replace(p, psnr=p.psnr - 0.4) for p in results.pictures], {"steps": 4})
    held, _, psnr = live_figures(results, worse)
    assert held.value == pytest.approx(results.measured[0].correlation - follows[0].correlation)
    assert held.value > LIVE_SYNC_LOSS
    assert not held.passed
    assert psnr.value == pytest.approx(0.4)
    assert psnr.passed
    found = {
        "settings": {"steps": 4, "sampler": "ddim", "guidance_scale": 1.0, "overlap": 8},
        "asked": {"threads": 2, "look_ahead": 0.08},
        "machine": {"cores": 8, "cpu": "a chip"}, "sustained_fps": 80.5,
        "clock": {"fps": 25, "latency_s": {"p50": 0.31}},
    }  # fmt: skip
    (tmp_path / "live.json").write_text(json.dumps(found))
    text = markdown(RUN, {FULL: results, LIVE: worse, SESSION: worse}, read_live_speed(tmp_path / "live.json"))
    assert "| 58.92 dB | 58.52 dB (-0.40 dB) | 58.52 dB (-0.40 dB) |" in text
    how = "2 threads on 8 cores of a chip; steps 4, sampler ddim, guidance_scale 1.0, overlap 8, look_ahead 0.08 |"
    assert f"80.5 frames per second | at least 75 frames per second | PASS | {how}" in text
    assert "| 0.31 s | at most 0.3 s | MISSED |" in text


def test_a_file_that_is_no_report_of_live_mode_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"asked": {}}')
    with pytest.raises(ExportError, match=r"other\.json is no report of the speed of live mode .*expected the file of"):
        read_live_speed(tmp_path / "other.json")


def test_a_figure_without_a_target_or_a_value_says_so() -> None:
    nothing = Figure("what", float("nan"), None, unit=SHARE)
    assert (nothing.value_text, nothing.target_text, nothing.verdict) == ("not measured", "", "")
    assert not Figure("what", float("nan"), 0.5).passed
    assert nothing.as_json()["value"] is None


def test_the_json_holds_every_figure_and_video(results: Results) -> None:
    found = json.loads(json.dumps(as_json(RUN, {FULL: results}), allow_nan=False))
    videos = found["settings"][FULL]["videos"]
    assert [video["scene"] for video in videos] == ["voice", "silence", "pose", "photo", "depth"]
    assert {video["looks"]["glasses"] for video in videos} == {1.0}
    assert all(figure["passed"] for figure in found["figures"])
    assert found["settings"][FULL]["options"] == {"steps": 7}


def test_moments_are_closed_and_open_by_turns() -> None:
    track = 1 - np.sin(2 * np.pi * np.arange(60) / 20)
    shown = moments(track)
    assert len(shown) == MOMENTS
    assert shown == sorted(shown)
    assert max(track[shown[::2]]) < 0.1
    assert min(track[shown[1::2]]) > 1.9


def test_a_sheet_has_a_band_for_each_video(measured: dict[str, Measured], made: dict[str, tuple[Case, Frames]]) -> None:
    shots = [(measured[scene], made[scene][1]) for scene in ("voice", "pose")]
    alone, both = (draw_sheet("heading", shown) for shown in (shots[:1], shots))
    assert alone.width == both.width
    assert both.height > alone.height > 200


class FakeManifest:
    """Of a bundle that recommends a guidance of 2.5."""

    def __init__(self, recommended_live: dict[str, float]) -> None:
        self.recommended_live = recommended_live

    def settings(self, config: GenerationConfig, *, live: bool = False) -> Settings:
        return config.resolve({"guidance_scale": 2.5, **(self.recommended_live if live else {})}, 12)


@pytest.mark.parametrize(
    ("recommended_live", "steps"), [({}, LIVE_OPTIONS["steps"]), ({"steps": 2, "guidance_scale": 1.0}, 2)]
)
def test_live_settings_are_the_flags_then_the_bundles(recommended_live: dict[str, float], steps: int) -> None:
    given = command_line._parser().parse_args(["--bundle", "x", "--steps", "9", "--live-overlap", "6"])
    generator = SimpleNamespace(bundle=SimpleNamespace(manifest=FakeManifest(recommended_live)))
    sources = command_line._sources(generator, given)  # type: ignore[arg-type]
    options = [[source.options[name] for name in (*LIVE_OPTIONS, "overlap")] for source in sources.values()]
    assert list(sources) == [FULL, LIVE, SESSION]
    assert options == [[9, 2.5, 4], [steps, 1.0, 6], [steps, 1.0, 6]]


@pytest.fixture
def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos that show nothing, and few people."""
    monkeypatch.setattr(command_line, "draw_case", lambda case: np.zeros((len(case.poses), SIZE, SIZE, 3), np.uint8))
    monkeypatch.setattr(command_line, "GALLERY", 2)
    monkeypatch.setattr(cases_module, "clip", make_clip)


@pytest.mark.usefixtures("blank")
def test_the_command_writes_what_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: tmp_path / name for name in ("report", "json", "sheet")}
    options = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    assert command_line.main(["--drawings", "--people", "1", "--seconds", "1", *options]) == 0
    assert "5/5 person 1000000, depth, drawings: " in capsys.readouterr().out
    assert "| MISSED |" in files["report"].read_text()
    found = json.loads(files["json"].read_text())
    assert [figure["value"] for figure in found["figures"][:2]] == [0, 0]
    with Image.open(files["sheet"]) as sheet:
        assert sheet.format == "PNG"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--people", "0"], "--people is 0; expected 1 to 1000"),
        (["--seconds", "0.1"], "--seconds is 0.1; expected 1 to 60"),
        (["--report", "/nowhere/report.md"], "/nowhere is not a folder"),
    ],
)
def test_what_would_fail_at_the_end_is_refused_at_the_beginning(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(["--drawings", *options]) == 1
    assert message in capsys.readouterr().err


def write_wav(path: Path, samples: NDArray[np.float32]) -> None:
    """Mono, 16 kHz, 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
