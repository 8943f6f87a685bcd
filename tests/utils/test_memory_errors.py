"""Exhausted memory is reported as such for every library, and no partial file remains."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support.paths import ROOT
from vexpress_rt import BackendError, OutputError
from vexpress_rt.backends.onnxruntime import engine as onnxruntime
from vexpress_rt.media.video_writer import VideoWriter
from vexpress_rt.utils.memory_errors import explain, ran_out


def chained(cause: BaseException) -> BaseException:
    """An error that hides its cause, as that of NumPy's import."""
    try:
        raise ImportError("please read this and carefully follow all advice") from cause
    except ImportError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype(np.uint8)),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        av.FFmpegError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
        RuntimeError("[ONNXRuntimeError] : 1 : FAIL : std::bad_alloc"),
        Exception("OpenCV(4.13) error: (-4:Insufficient memory) Failed to allocate 1000 bytes in 'OutOfMemoryError'"),
        ImportError("libx264-d6533a8d.so.165: failed to map segment from shared object"),
        ImportError("libfoo.so: cannot allocate memory"),
        chained(ImportError("libopenblas.so: failed to map segment from shared object")),
    ],
    ids=lambda error: f"{type(error).__name__}: {error}"[:40],
)
def test_out_of_memory_errors_of_every_library_are_recognised(error: BaseException) -> None:
    assert ran_out(error)
    assert "memory ran out" in explain(error) or "no more threads" in explain(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        ImportError("libgomp.so: cannot allocate memory in static TLS block"),
        ImportError("No module named 'memory'"),
        RuntimeError("the disk is full"),
    ],
)
def test_other_failures_are_not_out_of_memory(error: BaseException) -> None:
    assert not ran_out(error)


def test_threads_that_cannot_be_started_are_reported_as_such() -> None:
    assert explain(RuntimeError("can't start new thread")) == (
        "the system starts no more threads (can't start new thread), and nothing partial is left: raise the limit on "
        "memory (ulimit -v) or on processes (ulimit -u, or the container's), or close other programs"
    )


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))])
def test_memory_that_runs_out_while_writing_a_video_is_not_called_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(handle: int) -> None:
        raise error

    monkeypatch.setattr("vexpress_rt.media.video_writer.os.fsync", fail)
    writer = VideoWriter(tmp_path / "a.mp4", (16, 16), Fraction(25), None, 20)
    with (
        pytest.raises(OutputError, match=r"memory ran out .*: close other programs, raise the limit") as caught,
        writer,
    ):
        writer.write(np.zeros((16, 16, 3), np.uint8))
    assert "MB free" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_onnx_runtime_that_cannot_be_mapped_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    class Finder:
        def find_spec(self, name: str, *rest: object) -> None:
            if name == "onnxruntime":
                raise ImportError("onnxruntime_pybind11_state.so: failed to map segment from shared object")

    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(BackendError, match="memory ran out while ONNX Runtime was loaded") as caught:
        onnxruntime.version()
    assert "pip install" not in str(caught.value)


@pytest.mark.parametrize("megabytes", [150, 250, 500, 900])
def test_the_command_line_reports_it_in_a_line_and_leaves_nothing(tmp_path: Path, megabytes: int) -> None:
    from PIL import Image

    Image.new("RGB", (96, 96), (90, 90, 90)).save(tmp_path / "photo.png")
    (tmp_path / "speech.wav").write_bytes(_wav(4800))
    (tmp_path / "videos").mkdir()
    points = ["--image-keypoints", "34,40", "62,40", "48,58"]
    command = [
        sys.executable, "-m", "vexpress_rt", "generate", "--image", str(tmp_path / "photo.png"), *points, "--audio",
        str(tmp_path / "speech.wav"), "--output", str(tmp_path / "videos" / "out.mp4"), "--steps", "1", "--quiet",
    ]  # fmt: skip

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=limit, timeout=120, check=False)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert line.startswith("error: ")
    assert "memory ran out" in line or "no more threads" in line
    assert list((tmp_path / "videos").iterdir()) == []


def _wav(samples: int) -> bytes:
    import io
    import wave

    made = io.BytesIO()
    with wave.open(made, "wb") as sound:
        sound.setparams((1, 2, 16000, 0, "NONE", ""))
        sound.writeframes(bytes(2 * samples))
    return made.getvalue()
