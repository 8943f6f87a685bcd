"""Builds of engines: progress, interruptions and the file that is written."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.onnx_graphs import HALF, save_attention, save_relu
from vexpress_rt.backends.tensorrt import builder as tensorrt_builder
from vexpress_rt.backends.tensorrt.builder import build_engine
from vexpress_rt.backends.tensorrt.library import Library, load
from vexpress_rt.errors import OutputError


@pytest.fixture(scope="module")
def library() -> Library:
    return load("tensorrt-rtx")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return tmp_path / "graph.onnx"


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "engines"
    folder.mkdir()
    path = folder / "graph.engine"
    yield path
    assert {item.name for item in folder.iterdir()} <= {path.name}  # no partial file is left


def test_progress_grows_to_one(graph: Path, output: Path, library: Library) -> None:
    told: list[float] = []
    build_engine(graph, save_attention(graph, HALF, 64), output, library, progress=told.append)
    assert told == sorted(told)
    assert len(told) > 5
    assert 0 < told[0] < 0.5
    assert told[-1] == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("display lost")], ids=["Ctrl-C", "error"])
def test_an_exception_of_progress_ends_the_build_and_leaves_the_old_engine(
    graph: Path, output: Path, library: Library, error: Any
) -> None:
    def stop(done: float) -> None:
        calls.append(done)
        raise error

    calls: list[float] = []
    output.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else RuntimeError):
        build_engine(graph, save_relu(graph), output, library, progress=stop)
    assert len(calls) == 1
    assert output.read_bytes() == b"old"


@pytest.mark.parametrize("when", [0.8, 1.0])
def test_an_exception_of_progress_at_the_end_is_raised_as_well(
    graph: Path, output: Path, library: Library, when: float
) -> None:
    def stop(done: float) -> None:
        if done >= when:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(graph, save_relu(graph), output, library, progress=stop)
    assert not output.exists()


def test_a_signal_ends_the_build_and_leaves_nothing(
    graph: Path, output: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled, run = threading.Event(), tensorrt_builder.run_uninterrupted

    def watched(work: Callable[[], Any], *, cancel: Callable[[], object]) -> Any:
        def cancelled() -> None:
            cancel()
            handled.set()

        return run(work, cancel=cancelled)

    def interrupt(done: float) -> None:
        calls.append(done)
        os.kill(os.getpid(), signal.SIGINT)
        assert handled.wait(60)  # in the main thread

    monkeypatch.setattr(tensorrt_builder, "run_uninterrupted", watched)
    calls: list[float] = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build_engine(graph, save_relu(graph), output, library, progress=interrupt)
    assert len(calls) == 1
    assert signal.getsignal(signal.SIGINT) is before
    assert not output.exists()


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_build_leaves_the_signal_handlers_of_the_process_alone(
    graph: Path, output: Path, library: Library, in_thread: bool
) -> None:
    def handlers(done: float = 0) -> list[Any]:
        found = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        during.append(found)
        return found

    during: list[list[Any]] = []
    before = handlers()
    spec = save_relu(graph)
    if in_thread:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(build_engine, graph, spec, output, library, progress=handlers).result()
    else:
        build_engine(graph, spec, output, library, progress=handlers)
    assert len(during) > 2
    assert all(found == before for found in during)


def test_a_folder_that_cannot_be_written_to_is_known_before_the_build(graph: Path, library: Library) -> None:
    spec = save_relu(graph)
    for output in (graph.parent / "none" / "e", graph / "e"):
        with pytest.raises(OutputError, match=r"cannot be written: .* is no folder that can be written to"):
            build_engine(graph, spec, output, library, progress=lambda done: pytest.fail("was built"))


def test_a_full_disk_leaves_the_old_engine(
    graph: Path, output: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    output.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=r"graph\.engine cannot be written: .*No space left on device"):
        build_engine(graph, save_relu(graph), output, library)
    assert output.read_bytes() == b"old"


def test_an_engine_is_written_without_a_copy_of_it(tmp_path: Path) -> None:
    content = np.arange(10, dtype=np.uint8)
    assert tensorrt_builder._write(tmp_path / "e", content) == 10
    assert (tmp_path / "e").read_bytes() == content.tobytes()
