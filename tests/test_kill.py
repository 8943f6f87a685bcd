"""A few of the kills of `scripts/kill.py`, and what it must notice."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from scripts.kill import Subject, main, one_kill


def test_kills_of_generate_leave_nothing_half_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--kills", "3", "--only", "generate", "--seed", "4", "--keep", str(tmp_path / "failures")])
    told = capsys.readouterr().out
    assert (code, told.splitlines()[-1]) == (0, "0 faults")
    assert "generate: 3 kills" in told
    assert not (tmp_path / "failures").exists()


def test_what_a_bad_command_leaves_is_a_fault_and_kept(tmp_path: Path) -> None:
    """One that writes its output in place, and beside it."""
    (tmp_path / "work").mkdir()
    output = tmp_path / "work" / "video.mp4"
    code = f"import time; open({str(output)!r}, 'w').write('half'); open({str(output)!r} + '.tmp', 'w'); time.sleep(60)"
    subject = Subject(
        "generate", [sys.executable, "-c", code], output, (".vexpress-",),
        lambda path: path.read_text() == "whole", tmp_path / "old", seconds=1.0,
    )  # fmt: skip
    (tmp_path / "old").write_text("whole")
    for index in range(8):
        one_kill(subject, random.Random(index), tmp_path / "failures", index)
    told = "\n".join(subject.faults)
    assert "the output is neither the old one nor a complete new one" in told
    assert "there is video.mp4.tmp" in told
    assert any((tmp_path / "failures").glob("generate-*/told.txt"))
