"""The file of a video appears only when it is complete; errors come early and leave nothing."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.container import OutputContainer

from tests.support.clips import SIZE, frames, sound, write
from tests.support.paths import ROOT
from tests.support.sound_files import write_wav
from vexpress_rt.errors import InputError, OutputError
from vexpress_rt.media import video_writer
from vexpress_rt.media.recording import open_recording
from vexpress_rt.media.video_writer import VideoWriter, check_output


def test_the_file_appears_only_when_complete_and_nothing_else_remains(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path, SIZE, Fraction(30), sound(4000, 16000), 18) as writer:
        for picture in frames(5):
            writer.write(picture)
            assert not path.exists()
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    path = write(tmp_path / "a.mp4", frames(1), Fraction(30), None)
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("written", [0, 60])
def test_an_exception_leaves_nothing_but_the_older_file(
    tmp_path: Path, error: type[BaseException], written: int
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"older")

    def interrupted() -> None:
        with VideoWriter(path, SIZE, Fraction(30), sound(16000, 16000), 18) as writer:
            for picture in frames(written):
                writer.write(picture)
            raise error

    with pytest.raises(error):
        interrupted()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"older"


def test_an_interrupt_waits_until_the_file_is_closed_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def close(container: OutputContainer) -> None:
        signal.raise_signal(signal.SIGINT)
        container.close()
        left.extend(tmp_path.iterdir())

    def interrupted() -> None:
        with VideoWriter(tmp_path / "a.mp4", SIZE, Fraction(30), None, 18) as writer:
            writer.write(next(iter(frames(1))))
            raise KeyboardInterrupt

    left: list[Path] = []
    monkeypatch.setattr(video_writer, "_close_quietly", close)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(left) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"older")
    write(path, frames(3), Fraction(30), None)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 3


@pytest.mark.parametrize("name", ["http:a.mp4", "%d.mp4", "with space.MP4", "x" * 240 + ".mp4"])
def test_unusual_names_are_only_names(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, frames(2), Fraction(30), None)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_bare_name_is_written_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("a.mp4"), frames(2), Fraction(30), None)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    for attempt in (check_output, lambda path: VideoWriter(path, SIZE, Fraction(30), None, 18)):
        with pytest.raises(OutputError, match=r"there is no folder .*missing: create it first"):
            attempt(tmp_path / "missing" / "a.mp4")


def test_a_folder_cannot_be_the_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        check_output(tmp_path / "a.mp4")


@pytest.mark.parametrize("name", ["a", "a.avi", "a.mp4.txt", ".mp4"])
def test_an_unknown_extension_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"expected \.mp4, \.mov, \.mkv"):
        check_output(tmp_path / name)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(OutputError, match="is not writable"):
        check_output(tmp_path / "a.mp4")


def test_a_path_that_can_be_written_is_given_back_without_touching_it(tmp_path: Path) -> None:
    assert check_output(str(tmp_path / "a.mp4")) == tmp_path / "a.mp4"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["open", "fsync"])
def test_a_full_disk_is_reported_with_the_free_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(video_writer.os, failing, full)
    with pytest.raises(OutputError, match=r"No space left on device; [\d.]+ MB free in .*make room"):
        write(tmp_path / "a.mp4", frames(3), Fraction(30), None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("limit", "count"), [(0, 1), (60_000, 120)], ids=["at the header", "in the stream"])
def test_a_file_that_cannot_grow_is_an_output_error_and_leaves_nothing(tmp_path: Path, limit: int, count: int) -> None:
    """A real failure of the system, by a limit on the size of files."""
    program = f"""
        import resource, sys
        from fractions import Fraction
        import numpy as np
        from vexpress_rt.errors import OutputError
        from vexpress_rt.media.video_writer import VideoWriter
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        rng = np.random.default_rng(0)
        try:
            with VideoWriter(sys.argv[1], (64, 64), Fraction(30), None, 10) as writer:
                for _ in range({count}):
                    writer.write(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        except OutputError as error:
            sys.exit(f"refused: {{error}}")
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program), str(tmp_path / "a.mp4")],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.stderr.startswith("refused: cannot write"), done.stderr
    assert "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_video_without_a_frame_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="no frame was written"),
        VideoWriter(tmp_path / "a.mp4", SIZE, Fraction(30), sound(4000, 16000), 18),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "frame", [np.zeros((32, 32, 3), np.uint8), np.zeros((32, 48), np.uint8), np.zeros((32, 48, 3), np.float32)]
)
def test_a_frame_of_another_shape_or_type_is_refused(tmp_path: Path, frame: np.ndarray) -> None:
    with VideoWriter(tmp_path / "a.mp4", SIZE, Fraction(30), None, 18) as writer:
        writer.write(frames(1)[0])
        with pytest.raises(InputError, match=r"frame 1 has shape .*expected \(32, 48, 3\) uint8"):
            writer.write(frame)


def test_a_frame_need_not_be_contiguous(tmp_path: Path) -> None:
    flipped = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)[::-1, ::-1]
    path = write(tmp_path / "a.mp4", [flipped], Fraction(30), None)
    assert path.read_bytes() == write(tmp_path / "b.mp4", [flipped.copy()], Fraction(30), None).read_bytes()


@pytest.mark.parametrize("size", [(31, 48), (32, 47), (0, 0)])
def test_odd_sizes_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="expected even sizes"):
        VideoWriter(tmp_path / "a.mp4", size, Fraction(30), None, 18)


def test_a_file_that_was_removed_after_it_was_read_is_no_error(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "gone.wav", sound(1600, 16000).read()[None], 16000)
    expected = write(tmp_path / "a.mp4", frames(1), Fraction(30), open_recording(path, 16000)).read_bytes()
    recording = open_recording(path, 16000)
    path.unlink()
    assert write(tmp_path / "b.mp4", frames(1), Fraction(30), recording).read_bytes() == expected
