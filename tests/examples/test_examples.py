"""Each example, run as its users run it, with the small model: the video has the length, the size and the sound."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from examples import choose_provider, driving_video, file_to_file, live_microphone, many_portraits
from tests.examples.conftest import FPS, LENGTH, RATE, Inputs, read_samples
from tests.support.scenes import read_back

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py"))


def check_video(path: Path, inputs: Inputs, length: int = LENGTH) -> np.ndarray:
    """Assert that a video is complete and says what was recorded; return its frames."""
    frames, rate, _, _ = read_back(path)
    assert frames.shape == (length, 128, 128, 3)
    assert rate == Fraction(FPS)
    heard = read_samples(path)
    assert len(inputs.samples) <= len(heard) < len(inputs.samples) + RATE // 8  # AAC comes in blocks
    said = inputs.samples
    assert max(np.corrcoef(heard[lag : lag + len(said) - 1024], said[:-1024])[0, 1] for lag in range(3)) > 0.9
    assert frames.std() > 20  # a picture, and not one colour
    return frames


def test_file_to_file(inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "talking.mp4"
    file_to_file.main([inputs.photo, inputs.speech, str(output), "--steps", "1"])
    check_video(output, inputs)
    told = capsys.readouterr().out
    assert f"{output}: {LENGTH} frames at 25 frames per second" in told
    assert f"frames: {LENGTH} of {LENGTH}" in told


def test_stream_to_pipe(inputs: Inputs) -> None:
    command = [sys.executable, "examples/stream_to_pipe.py", inputs.photo, inputs.speech, "--steps", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    frames = np.frombuffer(done.stdout, np.uint8)
    assert frames.size == LENGTH * 128 * 128 * 3
    assert frames.std() > 20
    assert f"{LENGTH} frames of 128 x 128 pixels, 25 per second" in done.stderr.decode()


def test_stream_to_pipe_ends_quietly_when_the_player_is_closed(inputs: Inputs) -> None:
    command = [sys.executable, "examples/stream_to_pipe.py", inputs.photo, inputs.speech, "--steps", "1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert len(running.stdout.read(1000)) == 1000
        running.stdout.close()
        assert b"Traceback" not in running.stderr.read()
        assert running.wait() == 0


def test_live_microphone_at_the_pace_of_a_recording(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "live.mp4"
    live_microphone.main([inputs.photo, inputs.speech, str(output), "--steps", "1"])
    check_video(output, inputs)
    assert f"{output}: {LENGTH} frames" in capsys.readouterr().out


def test_a_paced_recording_comes_whole_in_chunks_and_no_faster_than_it_is_spoken(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(live_microphone.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(live_microphone.time, "sleep", lambda seconds: now.append(now.pop() + seconds))
    arrivals, chunks = [], []
    for chunk in live_microphone.paced_recording(inputs.speech):
        arrivals.append(now[0] - 100)
        chunks.append(chunk)
    np.testing.assert_allclose(np.concatenate(chunks), inputs.samples, atol=1e-4)
    np.testing.assert_allclose(arrivals, np.cumsum([len(chunk) for chunk in chunks]) / RATE)
    assert max(len(chunk) for chunk in chunks) == live_microphone.CHUNK


def test_live_microphone_without_the_library_says_what_to_install(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(SystemExit, match="pip install sounddevice"):
        live_microphone.main([inputs.photo, "microphone", str(tmp_path / "live.mp4")])
    assert not list(tmp_path.iterdir())


def test_live_microphone_ends_with_an_error_of_the_thread_that_pushes(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has no sound; expected a recording"):
        live_microphone.main([inputs.photo, inputs.driving, str(tmp_path / "live.mp4"), "--steps", "1"])


def test_driving_video(inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "driven.mp4"
    driving_video.main([inputs.photo, inputs.speech, inputs.driving, str(output), "--steps", "1"])
    check_video(output, inputs)
    moved = re.search(r"the nose moves over \[ *([\d.]+)", capsys.readouterr().out)
    assert moved is not None
    assert float(moved[1]) > 5  # pixels of 128: the driving head turns


def test_many_portraits(inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = tmp_path / "second.png"
    second.write_bytes(Path(inputs.photo).read_bytes())
    output = tmp_path / "videos"
    assert many_portraits.main([inputs.speech, str(output), inputs.photo, str(second), "--steps", "1"]) == 0
    videos = [check_video(output / name, inputs) for name in ("photo.mp4", "second.mp4")]
    np.testing.assert_array_equal(*videos)
    assert capsys.readouterr().out.count(f"{LENGTH} frames") == 2


def test_many_portraits_makes_the_others_when_one_photo_fails(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "nobody.png"
    assert many_portraits.main([inputs.speech, str(tmp_path), str(missing), inputs.photo, "--steps", "1"]) == 1
    assert "nobody.png does not exist" in capsys.readouterr().out
    check_video(tmp_path / "photo.mp4", inputs)


def test_choose_provider(inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "talking.mp4"
    arguments = [inputs.photo, inputs.speech, str(output), "--providers", "tensorrt", "cpu", "--threads", "1"]
    choose_provider.main([*arguments, "--steps", "1"])
    check_video(output, inputs)
    told = capsys.readouterr().out
    assert "not tensorrt: the bundle is not compiled for TensorRT" in told
    assert "1 thread" in told


def test_choose_provider_ends_with_every_reason_when_none_works(inputs: Inputs, tmp_path: Path) -> None:
    arguments = [inputs.photo, inputs.speech, str(tmp_path / "talking.mp4"), "--providers", "tensorrt"]
    with pytest.raises(SystemExit, match="no provider works\ntensorrt: the bundle is not compiled"):
        choose_provider.main(arguments)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_error_is_one_line_and_the_gallery_lists_the_example(
    path: Path, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing photo, or a missing bundle where photos are many, is told without a traceback."""
    assert f"({path.name})" in (ROOT / "examples" / "README.md").read_text()
    given = {
        "driving_video": [inputs.photo, inputs.speech, inputs.driving, "out.mp4"],
        "many_portraits": [inputs.speech, str(tmp_path), inputs.photo],
        "published_cases": [str(tmp_path), "--output", str(tmp_path)],
        "stream_to_pipe": [inputs.photo, inputs.speech],
    }
    arguments = given.get(path.stem, [inputs.photo, inputs.speech, str(tmp_path / "out.mp4")])
    monkeypatch.setattr(sys, "argv", [str(path), *arguments, "--engines", str(tmp_path / "nothing")])
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(path), run_name="__main__")
    assert "nothing" in str(caught.value.code)
