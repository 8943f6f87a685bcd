"""`scripts/kill.py`: a few kills, and the faults that it must find."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from scripts.kill import Subject, main, one_kill


def test_kills_of_generate_leave_nothing_half_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--kills", "3", "--only", "generate", "--seed", "4", "--keep", str(tmp_path / "failures")])
    printed = capsys.readouterr().out
    assert (code, printed.splitlines()[-1]) == (0, "0 faults")
    assert "generate: 3 kills" in printed
    assert not (tmp_path / "failures").exists()


def test_files_of_a_bad_command_are_faults_and_kept(tmp_path: Path) -> None:
    """The command writes its output in place, and another file in the same folder."""
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
    faults = "\n".join(subject.faults)
    assert "the output is neither the old one nor a complete new one" in faults
    assert "unexpected files: video.mp4.tmp" in faults
    assert any((tmp_path / "failures").glob("generate-*/stderr.txt"))
