"""The record of a run's stages: a stage is continued with the same options alone, and damage is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.errors import CheckpointError
from export.pocket.stage_records import FILE, StageRecord, read_records, record_stage


def test_every_stage_keeps_its_own_record(tmp_path: Path) -> None:
    one, other = StageRecord(0, 10, False), StageRecord(3, 20, True)
    record_stage(tmp_path, "single", one)
    record_stage(tmp_path, "all", other)
    assert read_records(tmp_path) == {"single": one, "all": other}
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_stage_goes_on_with_more_steps_but_not_with_another_seed_or_dropout(tmp_path: Path) -> None:
    record_stage(tmp_path, "all", StageRecord(0, 10, False))
    record_stage(tmp_path, "all", StageRecord(1, 10, False))  # nothing was trained yet
    (tmp_path / "all.pt").touch()
    record_stage(tmp_path, "all", StageRecord(1, 50, False))
    for changed in (StageRecord(0, 50, False), StageRecord(1, 50, True)):
        with pytest.raises(CheckpointError, match=r"all\.pt was begun with --seed 1; this run has --seed .*--output"):
            record_stage(tmp_path, "all", changed)
    assert read_records(tmp_path)["all"].steps == 50


def test_a_stage_without_a_record_was_begun_with_seed_0(tmp_path: Path) -> None:
    (tmp_path / "all.pt").touch()
    with pytest.raises(CheckpointError, match=r"all\.pt was begun with --seed 0, .*; this run has --seed 5: leave"):
        record_stage(tmp_path, "all", StageRecord(5, 10, False))
    record_stage(tmp_path, "all", StageRecord(0, 10, False))


DAMAGED = (
    "{", "[]", '{"all": 1}', '{"all": {"seed": 0}}', '{"all": {"seed": 0, "steps": "1", "keep_strong": false}}',
    '{"all": {"seed": true, "steps": 1, "keep_strong": false}}', "[" * 100_000,
)  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(CheckpointError, match=r"stages\.json cannot be read .* delete it"):
        read_records(tmp_path)
