"""The command line: every choice reaches the generator, and every end is an orderly one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from vexpress_rt import GenerationConfig, KeypointError, Video, __version__
from vexpress_rt.__main__ import main
from vexpress_rt.specs import VideoShape

ROOT = Path(__file__).parents[1]
SHAPE = VideoShape(64, 128, 8)
REQUIRED = ["--engines", "bundle", "--image", "face.png", "--audio", "speech.wav", "--output", "out.mp4"]


def test_version_is_that_of_the_package() -> None:
    command = [sys.executable, "-m", "vexpress_rt", "--version"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert finished.stdout == f"vexpress-rt {__version__}\n"


# generate, with a generator that only notes what it is asked for


class FakeGenerator:
    """Stands in for `Generator`; calls: what was asked for.  work: what happens in `generate`."""

    def __init__(self) -> None:
        self.calls: dict[str, Any] = {}
        self.work: Callable[[], object] = lambda: None
        self.size = (64, 128)

    def __call__(self, bundle: str, **options: Any) -> FakeGenerator:
        self.calls["open"] = {"bundle": bundle, **options}
        self.bundle = self
        self.manifest = self
        self.shape = SHAPE
        return self

    def __enter__(self) -> FakeGenerator:
        return self

    def __exit__(self, *error: object) -> None:
        self.calls["closed"] = True

    def prepare(self, source: str, **options: Any) -> str:
        self.calls["prepare"] = {"source": source, **options}
        return "the portrait"

    def generate(self, portrait: str, audio: str, *, progress: Callable[..., None], **options: Any) -> Video:
        self.calls["generate"] = {"portrait": portrait, "audio": audio, **options}
        progress("denoise", 1, 2)
        self.work()
        timings = {"denoise": 3.0, "decode": 4.25, "median": 0.01, "total": 7.5}
        return Video(None, Fraction(30000, 1001), 90, Path(options["output"]), timings, ("keypoints were stretched",))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeGenerator:
    """The fake in the generator's place, in a working folder that has the files named by REQUIRED."""
    generator = FakeGenerator()
    monkeypatch.setattr("vexpress_rt.generator.Generator", generator)
    monkeypatch.chdir(tmp_path)
    for name in ("face.png", "speech.wav"):
        Path(name).write_bytes(b"of no interest to the fake")
    return generator


def test_every_choice_reaches_the_generator(fake: FakeGenerator) -> None:
    Path("kps.pth").touch()
    arguments = "--provider cpu --threads 3 --crop none --retarget offset_retarget --keypoints kps.pth --noise upstream"
    points = ["--image-keypoints", "1,2", "3,4", "5.5,6"]
    assert main(["generate", *REQUIRED, *arguments.split(), *points, "--steps", "5", "--overlap", "2"]) == 0
    assert fake.calls == {
        "open": {"bundle": "bundle", "provider": "cpu", "threads": 3},
        "prepare": {"source": "face.png", "keypoints": [(1, 2), (3, 4), (5.5, 6)], "crop": "none"},
        "generate": {
            "portrait": "the portrait",
            "audio": "speech.wav",
            "keypoints": "kps.pth",
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
        ("--fps 0", "fps is '0'; expected frames a second between 1 and 240"),
        ("--image missing.png", "--image is missing.png, and there is no such file"),
        ("--audio missing.wav", "--audio is missing.wav, and there is no such file"),
        ("--keypoints missing.pth", "--keypoints is missing.pth, and there is no such file"),
        ("--overlap 8", "overlap is 8; expected less than the bundle's window of 8 frames"),
        ("--retarget naive_retarget", "there are no keypoints"),
        ("--output nowhere/out.mp4", "there is no folder nowhere"),
        ("--output out.gif", "its extension is '.gif'"),
    ],
)
def test_mistake_is_found_before_the_photo_is_prepared(
    arguments: str, complaint: str, fake: FakeGenerator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", *REQUIRED, *arguments.split()]) == 1
    assert complaint in capsys.readouterr().err.splitlines()[-1]
    assert "prepare" not in fake.calls


def test_input_is_never_written_over(fake: FakeGenerator, capsys: pytest.CaptureFixture[str]) -> None:
    Path("speech.mp4").write_bytes(b"precious")
    assert main(["generate", *REQUIRED, "--audio", "speech.mp4", "--output", "./speech.mp4"]) == 1
    assert "--output is ./speech.mp4, the file that --audio reads" in capsys.readouterr().err
    assert fake.calls == {}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signal_ends_the_work_in_order(name: str, fake: FakeGenerator, capsys: pytest.CaptureFixture[str]) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)
    fake.work = lambda: os.kill(os.getpid(), number)
    assert main(["generate", *REQUIRED, "--quiet"]) == 128 + number
    assert capsys.readouterr() == ("", "interrupted; nothing partial is left\n")
    assert fake.calls["closed"]
    assert signal.getsignal(number) == before


def test_second_signal_does_not_cut_the_cleaning_up_short(fake: FakeGenerator) -> None:
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            fake.calls["cleaned"] = True

    fake.work = work
    assert main(["generate", *REQUIRED]) == 128 + signal.SIGINT
    assert fake.calls["cleaned"]


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


# The whole way, with real engines


@pytest.fixture
def request_of(tiny_bundle: Path, tmp_path: Path) -> Callable[[float, str], list[str]]:
    """Arguments that ask for a video of some seconds, in a folder that holds nothing else."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (80, 60, 3), dtype=np.uint8)).save(tmp_path / "face.png")
    (tmp_path / "videos").mkdir()

    def arguments(seconds: float, name: str) -> list[str]:
        with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(rng.integers(-9999, 9999, round(16000 * seconds), dtype=np.int16).tobytes())
        files = f"--image {tmp_path}/face.png --audio {tmp_path}/speech.wav --output {tmp_path}/videos/{name}"
        points = "--image-keypoints 20,25 40,25 30,35"
        return f"generate --engines {tiny_bundle} {files} {points} --steps 1 --fps 10".split()

    return arguments


@pytest.fixture
def running(request_of: Callable[[float, str], list[str]], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run of its own, long enough to be stopped, that has begun to write its video."""
    command = [sys.executable, "-m", "vexpress_rt", *request_of(120, "out.mp4")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            until = time.monotonic() + 60
            while not any((tmp_path / "videos").iterdir()):
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


def test_video_of_the_right_length_and_size(request_of: Callable[[float, str], list[str]], tmp_path: Path) -> None:
    assert main([*request_of(1.05, "out.mp4"), "--quiet"]) == 0
    with av.open(str(tmp_path / "videos" / "out.mp4")) as file:
        assert (file.streams.video[0].frames, file.streams.video[0].average_rate) == (11, 10)
        assert (file.streams.video[0].height, file.streams.video[0].width) == (64, 64)
        assert len(file.streams.audio) == 1
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["out.mp4"]


def test_stopped_run_leaves_nothing(running: subprocess.Popen[str], tmp_path: Path) -> None:
    running.send_signal(signal.SIGTERM)
    output, told = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM
    assert output == ""
    assert told.endswith("interrupted; nothing partial is left\n")
    assert "Traceback" not in told
    assert list((tmp_path / "videos").iterdir()) == []
