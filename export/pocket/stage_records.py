"""The settings of the stages of a training run, in `stages.json` beside their states."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from export.errors import CheckpointError

FILE = "stages.json"
_LARGEST = 1 << 20  # bytes
_UNRECORDED_SEED = 0  # of stages that earlier versions began


@dataclass(frozen=True)
class StageRecord:
    """The settings of a stage.

    Attributes:
        seed: Seed of all random numbers.
        steps: Number of steps.
        keep_strong: Whether photo and keypoints were never dropped alone.
    """

    seed: int
    steps: int
    keep_strong: bool


def record_stage(run: Path, stage: str, record: StageRecord) -> None:
    """Record the settings of a stage before it is trained. When a stage is continued, only its steps may change.

    Args:
        run: Folder of the run.
        stage: Name of the stage and of its state.
        record: The settings.

    Raises:
        CheckpointError: The stage was begun with another seed or another dropout, or the record is damaged.
    """
    records = read_records(run)
    before = records.get(stage)
    begun = (run / f"{stage}.pt").exists()
    if begun and before is None and record.seed != _UNRECORDED_SEED:
        raise CheckpointError(
            f"{run / stage}.pt was begun with --seed {_UNRECORDED_SEED}, as all stages without a record; this run has "
            f"{_described(record)}: leave --seed out, or choose another --output"
        )
    if begun and before is not None and (before.seed, before.keep_strong) != (record.seed, record.keep_strong):
        raise CheckpointError(
            f"{run / stage}.pt was begun with {_described(before)}; this run has {_described(record)}: repeat those "
            "options, or choose another --output"
        )
    records[stage] = record
    part = run / f".{FILE}.part"
    part.write_text(json.dumps({name: asdict(each) for name, each in records.items()}, indent=1), encoding="utf-8")
    os.replace(part, run / FILE)


def read_records(run: Path) -> dict[str, StageRecord]:
    """Read the settings of the stages that were trained in a folder; none if there is no record.

    Args:
        run: Folder of the run.

    Raises:
        CheckpointError: The record is damaged.
    """
    path = run / FILE
    if not path.exists():
        return {}
    try:
        if (size := path.stat().st_size) > _LARGEST:
            raise ValueError(f"it has {size} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: _record(values) for name, values in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({type(error).__name__}: {error}); expected the settings of stages as "
            "export.pocket.train writes them: delete it, or choose another folder"
        ) from None


def _record(values: dict[str, object]) -> StageRecord:
    record = StageRecord(**values)  # type: ignore[arg-type]
    if [type(value) for value in asdict(record).values()] != [int, int, bool]:
        raise ValueError(f"{values}")
    return record


def _described(record: StageRecord) -> str:
    return f"--seed {record.seed}" + (" --keep-strong" if record.keep_strong else "")
