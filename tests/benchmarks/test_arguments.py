"""An error in a benchmark's command line is one line of output and ends the command."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import first_frame, memory, noise, seams
from benchmarks.arguments import not_negative, positive
from benchmarks.live.__main__ import main as live


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-1", "1e400", "x", ""])
def test_lengths_that_cannot_be_are_refused(text: str) -> None:
    for kind in (positive, not_negative):
        with pytest.raises(ArgumentTypeError, match=f"^{text!r}; expected a finite number"):
            kind(text)


def test_nothing_is_a_length_only_where_that_is_said() -> None:
    assert not_negative("0") == 0
    assert (positive("0.5"), not_negative("0.5")) == (0.5, 0.5)
    with pytest.raises(ArgumentTypeError, match=r"^'0'; expected a finite number above 0"):
        positive("0")


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (seams.main, ["--seconds", "nan"]),
        (seams.main, ["--chunk", "0"]),
        (seams.main, ["--contexts", "1", "-1"]),
        (memory.main, ["--minutes", "0"]),
        (noise.main, ["--fps", "0"]),
        (memory.main, ["--fps", "inf"]),
        (first_frame.main, ["--seconds", "0"]),
        (live, ["--minutes", "nan"]),
        (live, ["--chunk", "0"]),
    ],
)
def test_wrong_numbers_end_in_usage(
    main: Callable[[list[str]], int], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert f"argument {arguments[0]}: {arguments[-1]!r}; expected a finite number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (seams.main, ["--engines", "nowhere"], "nowhere"),
        (first_frame.main, ["--steps", "0"], "steps is 0; expected a whole number of at least 1"),
        (first_frame.main, ["--engines", "nowhere"], "nowhere"),
        (noise.main, ["--bundle", "nowhere"], "nowhere"),
        (live, ["--preset", "nope"], "preset is 'nope'; expected one of exact, balanced, fast"),
        (live, ["--audio", "nowhere.wav"], "nowhere.wav does not exist"),
    ],
)
def test_what_the_package_refuses_is_one_line_and_no_traceback(
    main: Callable[[list[str]], int], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_the_process_that_makes_a_video_tells_why_it_cannot(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert memory.main(["--minutes", "0.01", "--steps", "0", "--engines", str(tmp_path)]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: steps is 0; expected a whole number")
