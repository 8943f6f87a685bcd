"""The command line: every option reaches the generator, and every command ends in an orderly way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.bundles import make_manifest
from tests.support.factories import model_config
from tests.support.paths import ROOT
from vexpress_rt import GenerationConfig, KeypointError, Video, __version__
from vexpress_rt.__main__ import main

REQUIRED = ["--engines", "bundle", "--image", "face.png", "--audio", "speech.wav", "--output", "out.mp4"]


def test_version_is_that_of_the_package() -> None:
    command = [sys.executable, "-m", "vexpress_rt", "--version"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert finished.stdout == f"vexpress-rt {__version__}\n"


# generate, with a generator that only records its calls


class FakeGenerator:
    """A stand-in for `Generator`.

    Attributes:
        calls: Arguments of all calls.
        work: Called in `generate`.
        notes: Notes of the video.
    """

    def __init__(self) -> None:
        self.calls: dict[str, Any] = {}
        self.work: Callable[[], object] = lambda: None
        self.notes: tuple[str, ...] = ("keypoints were stretched",)
        self.size = (64, 128)

    def __call__(self, bundle: str, *, progress: Callable[..., None], **options: Any) -> FakeGenerator:
        self.calls["open"] = {"bundle": bundle, **options}
        progress("compile", 100, 100)
        self.bundle = self
        self.manifest = make_manifest(model=model_config(guiders=("keypoints", "depth")))
        return self

    def __enter__(self) -> FakeGenerator:
        return self

    def __exit__(self, *error: object) -> None:
        self.calls["closed"] = True

    def read_photo(self, source: str, **options: Any) -> str:
        self.calls["read_photo"] = {"source": source, **options}
        return "the photo"

    def generate(self, portrait: str, audio: str, *, progress: Callable[..., None], **options: Any) -> Video:
        self.calls["generate"] = {"portrait": portrait, "audio": audio, **options}
        progress("denoise", 1, 2)
        self.work()
        progress("denoise", 2, 2)
        timings = {"denoise": 3.0, "decode": 4.25, "median": 0.01, "total": 7.5}
        return Video(
            frames=None,
            fps=Fraction(30000, 1001),
            length=90,
            keypoints=np.zeros((90, 3, 2), np.float32),
            path=Path(options["output"]),
            timings=timings,
            notes=self.notes,
        )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeGenerator:
    """The fake in place of the generator, in a working folder with the files of REQUIRED."""
    generator = FakeGenerator()
    monkeypatch.setattr("vexpress_rt.pipeline.generator.Generator", generator)
    monkeypatch.chdir(tmp_path)
    for name in ("face.png", "speech.wav"):
        Path(name).write_bytes(b"of no interest to the fake")
    return generator


def test_every_choice_reaches_the_generator(fake: FakeGenerator) -> None:
    for name in ("kps.pth", "depth.mp4"):
        Path(name).touch()
    arguments = "--provider cpu --threads 3 --crop none --retarget offset_retarget --keypoints kps.pth --noise upstream"
    arguments += " --depth depth.mp4"
    arguments += " --rebuild never --window-order step_major --share-weights --device CPU --precision bf16"
    points = ["--image-keypoints", "1,2", "3,4", "5.5,6"]
    assert main(["generate", *REQUIRED, *arguments.split(), *points, "--steps", "5", "--overlap", "2"]) == 0
    assert fake.calls == {
        "open": {
            "bundle": "bundle",
            "provider": "cpu",
            "device": "CPU",
            "precision": "bf16",
            "threads": 3,
            "rebuild": "never",
            "share_weights": True,
        },
        "read_photo": {"source": "face.png", "keypoints": [(1, 2), (3, 4), (5.5, 6)], "crop": "none"},
        "generate": {
            "portrait": "the photo",
            "audio": "speech.wav",
            "window_order": "step_major",
            "keypoints": "kps.pth",
            "depth": "depth.mp4",
            "retarget": "offset_retarget",
            "config": GenerationConfig(steps=5, overlap=2),
            "noise": "upstream",
            "output": "out.mp4",
        },
        "closed": True,
    }


def test_report_says_what_was_made_and_where_the_time_went(
    fake: FakeGenerator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", *REQUIRED]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "out.mp4: 90 frames of 128 x 64 pixels (width x height) at 29.97 fps, 3.00 s",
        "made in 0:08 (12.00 frames/s): decode 4.2 s, denoise 3.0 s",
        "note: keypoints were stretched",
    ]


def test_quiet_means_silence(fake: FakeGenerator, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", *REQUIRED, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_quiet_lets_through_what_was_repaired_or_left_out(
    fake: FakeGenerator, capsys: pytest.CaptureFixture[str]
) -> None:
    repaired = [
        "photo: its last bytes are missing; all of its rows can be decoded",
        "audio: 0.50 seconds are missing",
        "driving video: 2 frames are damaged",
    ]
    fake.notes = (*repaired[:2], "keypoints: 4 frames for 10 of the video, extended by mirror", repaired[2])
    assert main(["generate", *REQUIRED, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "".join(f"warning: {note}\n" for note in repaired))
    assert main(["generate", *REQUIRED]) == 0
    printed = capsys.readouterr()
    assert [line for line in printed.out.splitlines() if "note: " in line] == [f"note: {note}" for note in fake.notes]
    assert "warning" not in printed.err


def test_expected_error_is_one_line_and_exit_code_1(fake: FakeGenerator, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise KeypointError("keypoints have 0 frames")

    fake.work = work
    assert main(["generate", *REQUIRED, "--quiet"]) == 1
    assert capsys.readouterr() == ("", "error: keypoints have 0 frames\n")
    assert fake.calls["closed"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--steps 0", "steps is 0; expected a whole number of at least 1"),
        ("--fps 0", "fps is '0'; expected frames per second between 1 and 240"),
        ("--image missing.png", "--image is missing.png, and there is no such file"),
        ("--audio missing.wav", "--audio is missing.wav, and there is no such file"),
        ("--keypoints missing.pth", "--keypoints is missing.pth, and there is no such file"),
        ("--overlap 8", "overlap is 8; expected less than the bundle's window of 8 frames"),
        ("--retarget naive_retarget", "which follows keypoints, and there are none"),
        ("--output nowhere/out.mp4", "there is no folder nowhere"),
        ("--output out.gif", "its extension is '.gif'"),
    ],
)
def test_mistake_is_found_before_the_photo_is_read(
    arguments: str, complaint: str, fake: FakeGenerator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", *REQUIRED, *arguments.split()]) == 1
    assert complaint in capsys.readouterr().err.splitlines()[-1]
    assert "read_photo" not in fake.calls


def test_input_is_never_written_over(fake: FakeGenerator, capsys: pytest.CaptureFixture[str]) -> None:
    Path("speech.mp4").write_bytes(b"precious")
    assert main(["generate", *REQUIRED, "--audio", "speech.mp4", "--output", "./speech.mp4"]) == 1
    assert "--output is ./speech.mp4, the file that --audio reads" in capsys.readouterr().err
    assert fake.calls == {}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signal_ends_the_work_after_the_step(
    name: str, fake: FakeGenerator, capsys: pytest.CaptureFixture[str]
) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)

    def work() -> None:
        os.kill(os.getpid(), number)
        fake.calls["step finished"] = True

    fake.work = work
    assert main(["generate", *REQUIRED, "--quiet"]) == 128 + number
    assert capsys.readouterr() == ("", "interrupted; nothing partial is left\n")
    assert fake.calls["step finished"]
    assert fake.calls["closed"]
    assert signal.getsignal(number) == before


def test_signal_is_acknowledged(fake: FakeGenerator, capfd: pytest.CaptureFixture[str]) -> None:
    fake.work = lambda: os.kill(os.getpid(), signal.SIGINT)
    main(["generate", *REQUIRED])
    assert "\nstopping after this step; once more stops at once\n" in capfd.readouterr().err


def test_signal_before_the_photo_is_read_needs_no_step(fake: FakeGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vexpress_rt.stages.pose.choose_retarget", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["generate", *REQUIRED]) == 128 + signal.SIGTERM
    assert "read_photo" not in fake.calls


def test_second_signal_stops_at_once_and_a_third_does_not_cut_the_cleaning_up_short(fake: FakeGenerator) -> None:
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            fake.calls["step finished"] = True
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            fake.calls["cleaned"] = True

    fake.work = work
    assert main(["generate", *REQUIRED]) == 128 + signal.SIGINT
    assert fake.calls["cleaned"]
    assert "step finished" not in fake.calls


def test_signal_is_heeded_though_something_swallowed_what_it_raised(fake: FakeGenerator) -> None:
    def work() -> None:
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    fake.work = work
    assert main(["generate", *REQUIRED]) == 128 + signal.SIGTERM


def test_what_a_signal_breaks_is_not_reported_as_an_error(
    fake: FakeGenerator, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise ImportError("half of a library")

    fake.work = work
    assert main(["generate", *REQUIRED, "--quiet"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "interrupted; nothing partial is left\n"


def test_unexpected_error_comes_out_as_it_is(fake: FakeGenerator) -> None:
    def work() -> None:
        raise ZeroDivisionError("a mistake of ours")

    fake.work = work
    with pytest.raises(ZeroDivisionError, match="a mistake of ours"):
        main(["generate", *REQUIRED])


def test_signal_that_the_caller_ignores_stays_ignored(fake: FakeGenerator) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        fake.work = lambda: os.kill(os.getpid(), signal.SIGHUP)
        assert main(["generate", *REQUIRED]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_runs_in_a_thread_which_cannot_handle_signals(fake: FakeGenerator) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["generate", *REQUIRED])))
    thread.start()
    thread.join()
    assert codes == [0]


def test_the_size_of_the_pictures_behind_keypoints_can_be_given(fake: FakeGenerator) -> None:
    np.save("face.npy", np.ones((2, 3, 2), np.float32))
    assert main(["generate", *REQUIRED, "--keypoints", "face.npy", "--keypoints-size", "640x480"]) == 0
    track = fake.calls["generate"]["keypoints"]
    assert track.size == (480, 640)
    assert track.points.shape == (2, 3, 2)


@pytest.mark.parametrize("flag", ["image", "audio", "keypoints"])
def test_a_name_with_a_nul_is_reported_as_a_missing_file(
    fake: FakeGenerator, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert main(["generate", *REQUIRED, f"--{flag}", "a\0b.npy"]) == 1
    assert rf"--{flag} is a\x00b.npy, and there is no such file" in capsys.readouterr().err


def test_the_size_of_keypoints_is_not_for_driving_videos(
    fake: FakeGenerator, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.mp4").touch()
    assert main(["generate", *REQUIRED, "--keypoints", "a.mp4", "--keypoints-size", "64x64"]) == 1
    assert "leave --keypoints-size out" in capsys.readouterr().err
