"""The progress bar for terminals and notebooks."""

from __future__ import annotations

import io
import threading

import pytest
from tqdm.auto import tqdm

from vexpress_rt.utils.progress import ProgressBar


def test_it_is_a_bar_of_tqdm_auto_which_knows_notebooks(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar() as progress:
        progress("denoise", 3, 8)
        assert type(progress._bar) is tqdm
        assert (progress._bar.n, progress._bar.total) == (3, 8)
        progress("denoise", 8, 8)
        progress("frames", 1, 4)
        assert (progress._bar.n, progress._bar.total) == (1, 4)
    assert progress._bar is None
    assert "denoise: 100%|" in capsys.readouterr().err


def test_a_new_total_of_the_same_stage_is_shown() -> None:
    stream = io.StringIO()
    with ProgressBar(stream) as progress:
        progress("recording", 1, 4)
        progress("recording", 5, 5)
    assert "recording: 100%|" in stream.getvalue()
    assert "5/5 [" in stream.getvalue()


def test_it_can_be_called_from_several_threads_and_used_again() -> None:
    stream = io.StringIO()
    progress = ProgressBar(stream)

    def report(stage: str) -> None:
        for done in range(1, 51):
            progress(stage, done, 50)

    for _ in range(2):
        with progress:
            threads = [threading.Thread(target=report, args=(name,)) for name in ("denoise", "frames", "audio")]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            progress.write("a line")
        progress.close()
    assert stream.getvalue().count("a line\n") == 2


def test_a_stream_that_fails_in_one_thread_blocks_no_other() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    progress = ProgressBar(Broken())

    def report() -> None:
        with pytest.raises(BrokenPipeError):
            progress("denoise", 1, 1)

    for _ in range(2):
        thread = threading.Thread(target=report, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    with pytest.raises(BrokenPipeError):
        progress.close()
    with ProgressBar(io.StringIO()) as other:
        other("denoise", 1, 1)


def test_it_starts_no_thread() -> None:
    before = threading.enumerate()
    with ProgressBar(io.StringIO()) as progress:
        progress("denoise", 1, 2)
        assert threading.enumerate() == before
