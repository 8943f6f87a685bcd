"""The benchmark of cold starts: its stages add up, and pages leave the page cache."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks import cold_start
from vexpress_rt.bundle.default_bundle import shipped_bundle


def test_the_stages_of_a_process_add_up_to_the_time_until_the_first_frame(tmp_path: Path) -> None:
    path = tmp_path / "cold.json"
    assert cold_start.main(["--ways", "cpu", "--repeats", "1", "--threads", "1", "--json", str(path)]) == 0
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert [(row["way"], row["process"]) for row in figures["rows"]] == [("cpu", "first"), ("cpu", "second")]
    for row in figures["rows"]:
        seconds = row["seconds"]
        parts = [seconds[name] for name in cold_start.STAGES if name != "total"]
        assert all(part >= 0 for part in parts)
        assert seconds["load"] > 0
        assert sum(parts) == pytest.approx(seconds["total"], abs=0.2)
    sums = {one["sum of the frame"] for row in figures["rows"] for one in row["runs"]}
    assert len(sums) == 1  # the cache does not change the frame
    assert len(cold_start.table(figures)) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="needs posix_fadvise and mincore of Linux")
def test_pages_that_are_in_the_page_cache_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(os.urandom(1 << 20))
    assert cold_start.resident_share([file]) == 1.0
    assert 0.0 <= cold_start.drop_from_page_cache(tmp_path) <= 1.0
    assert cold_start.resident_share([]) == 0.0


def test_a_bundle_that_is_missing_ends_the_command_before_a_process_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cold_start, "_process", lambda *_: pytest.fail("a process was started"))
    assert cold_start.main(["--engines", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert shipped_bundle().is_dir()
