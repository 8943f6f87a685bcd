"""The command line with real engines: a whole run writes a video, and an interrupted run leaves no file."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.support.paths import ROOT
from vexpress_rt.__main__ import main


@pytest.fixture
def request_of(tiny_bundle: Path, tmp_path: Path) -> Callable[[float, str], list[str]]:
    """Return arguments for a video of some seconds, in a folder of its own."""
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
    """A process that has begun to write its video, long enough to interrupt it."""
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
    output, printed = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM
    assert output == ""
    assert printed.endswith("interrupted; nothing partial is left\n")
    assert "Traceback" not in printed
    assert list((tmp_path / "videos").iterdir()) == []
