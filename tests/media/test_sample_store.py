"""Samples come back as they were appended, from memory or a temporary file, and nothing is left on the disk."""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.sound_files import write_wav
from vexpress_rt.errors import AudioError
from vexpress_rt.media import sample_store
from vexpress_rt.media.recording import open_recording
from vexpress_rt.media.sample_store import SampleArray, SampleStore


def noise(channels: int, count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(channels, count)).astype(np.float32)


def filled(samples: np.ndarray, limit: int, piece: int = 1000) -> SampleStore:
    store = SampleStore(len(samples), "the audio a.wav", limit)
    for start in range(0, samples.shape[1], piece):
        store.append(samples[:, start : start + piece])
    store.flush()
    return store


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@given(st.integers(1, 3), st.integers(0, 3000), st.integers(1, 2000), st.sampled_from([1, 8000, 1 << 20]), st.data())
def test_samples_are_read_in_any_order(channels: int, count: int, piece: int, limit: int, data: st.DataObject) -> None:
    samples = noise(channels, count)
    store = filled(samples, limit, piece)
    assert (store.channels, store.count) == (channels, count)
    for _ in range(3):
        start = data.draw(st.integers(0, count))
        stop = data.draw(st.integers(start, count))
        found = store.read(start, stop)
        np.testing.assert_array_equal(found, samples[:, start:stop])
        assert found.dtype == np.float32
        assert found.flags.writeable


def test_samples_of_an_array_are_not_copied() -> None:
    samples = noise(2, 100)
    array = SampleArray(samples)
    assert (array.channels, array.count) == (2, 100)
    np.testing.assert_array_equal(array.read(10, 20), samples[:, 10:20])
    assert np.shares_memory(array.read(10, 20), samples)


def test_threads_read_at_the_same_time() -> None:
    samples = noise(1, 50_000)
    store, wrong = filled(samples, 1), []

    def read(seed: int) -> None:
        for start in np.random.default_rng(seed).integers(0, 49_000, 200).tolist():
            if not np.array_equal(store.read(start, start + 1000), samples[:, start : start + 1000]):
                wrong.append(start)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_short_recording_makes_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a file was made")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    np.testing.assert_array_equal(filled(noise(1, 1000), 4000).read(0, 1000), noise(1, 1000))


def open_files(folder: Path) -> int:
    """Number of this process's open files in a folder."""
    links = Path("/proc/self/fd").iterdir()
    return sum(os.path.lexists(link) and os.readlink(link).startswith(str(folder)) for link in links)


def test_the_file_has_no_name_and_is_closed_when_the_store_is_dropped(folder: Path) -> None:
    store = filled(noise(1, 1000), 100)
    assert list(folder.iterdir()) == []
    assert open_files(folder) == 1
    del store
    gc.collect()
    assert open_files(folder) == 0


def test_a_killed_process_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    code = """
    import os, signal, sys
    from pathlib import Path
    from vexpress_rt.media import sample_store
    from vexpress_rt.media.recording import open_recording
    sample_store.MEMORY_LIMIT = 1000
    recording = open_recording(sys.argv[1], 8000)
    links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if os.path.lexists(link)]
    assert sum(link.startswith(sys.argv[2]) for link in links) == 2, links
    os.kill(os.getpid(), signal.SIGKILL)
    """
    path = write_wav(tmp_path / "speech.wav", noise(1, 20_000) / 10, 16000)
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(path), str(folder)],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert list(folder.iterdir()) == []


def test_a_long_recording_takes_its_samples_from_the_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_wav(tmp_path / "speech.wav", noise(2, 50_000) / 10, 22050)
    expected = open_recording(path, 16000)
    monkeypatch.setattr(sample_store, "MEMORY_LIMIT", 1000)
    recording = open_recording(path, 16000)
    assert open_files(folder) == 2
    assert expected.track is not None
    assert recording.track is not None
    np.testing.assert_array_equal(recording.read(), expected.read())
    np.testing.assert_array_equal(recording.track.read(0, 50_000), expected.track.read(0, 50_000))


def test_without_a_sound_track_only_the_models_samples_are_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_store, "MEMORY_LIMIT", 1000)
    path = write_wav(tmp_path / "speech.wav", noise(1, 50_000) / 10, 22050)
    recording = open_recording(path, 16000, sound_track=False)
    assert recording.track is None
    assert open_files(folder) == 1


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_store, "MEMORY_LIMIT", 1000)
    path = write_wav(tmp_path / "speech.wav", noise(1, 9000) / 10, 8000)
    folder.rmdir()
    message = r"speech\.wav is kept in a temporary file in .*temporary, which cannot be written after .* \(No such file"
    with pytest.raises(AudioError, match=message + ".*: make room there, or set TMPDIR"):
        open_recording(path, 8000)


def test_a_full_disk_is_named_with_the_remedy(folder: Path) -> None:
    """A limit on the size of files stands in for the disk: the last piece is buffered, and fails when it is flushed."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(AudioError, match=r"a\.wav is kept .*0\.0 MB \(File too large; [\d.]+ MB free\): make room"):
            filled(noise(1, 6000), 100)
        with pytest.raises(AudioError, match="File too large"):
            filled(noise(1, 5500), 100, 5500)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_file_that_cannot_be_read_is_an_audio_error(monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(noise(1, 1000), 100)

    def fail(*args: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(store._file, "readinto", fail)
    with pytest.raises(AudioError, match=r"a\.wav .* which cannot be read after 0\.0 MB \(Input/output error"):
        store.read(0, 10)
