"""The record of trained weights in a manifest."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.bundles import make_manifest
from vexpress_rt.bundle.manifest import Manifest
from vexpress_rt.bundle.training_record import TrainedFileEntry, TrainingRecord, printable
from vexpress_rt.errors import BundleDamagedError

FILES = {"reference_net": TrainedFileEntry("stage_3/reference_net-7.pth", "a" * 64)}


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (TrainingRecord(FILES, "exp_output", 3, 7), "run exp_output, stage 3, step 7"),
        (TrainingRecord(FILES, "exp_output", 1, 7), "run exp_output, stage 1, step 7; voice and motion are off"),
        (TrainingRecord(FILES, "exp_output", 2), "run exp_output, stage 2"),
        (TrainingRecord(FILES), "single files"),
    ],
)
def test_a_record_is_read_as_it_was_written(record: TrainingRecord, text: str) -> None:
    manifest = make_manifest(training=record)
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert record.describe() == text


def test_a_manifest_without_trained_weights_has_no_such_key() -> None:
    assert "training" not in make_manifest(training=None).to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": 4}, "stage = 4; expected 1, 2 or 3"),
        ({"step": -1}, "step = -1; expected 0 or more"),
        ({"run": "\x1b[2J"}, "training.run is .*; expected 1 to 512 printable characters"),
        ({"run": ""}, "training.run is ''"),
        ({"run": "x" * 513}, "training.run is"),
        ({"run": None}, "run = None; expected str"),
        ({"colour": 1}, "training lacks or does not know"),
        ({"files": {"../x": {}}}, "training.files names '../x'; expected a plain name"),
        ({"files": {"unet": {"file": "x", "sha256": "A"}}}, "training.files.unet.sha256 is 'A'; expected 64"),
        ({"files": {"unet": {"file": "x\n", "sha256": "a" * 64}}}, "training.files.unet.file is"),
    ],
)
def test_a_malformed_record_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleDamagedError, match=message):
        TrainingRecord.from_json(TrainingRecord(FILES, "exp_output", 3, 7).to_json() | change)


def test_any_name_of_a_folder_can_be_recorded() -> None:
    assert printable("my run\n\udc80") == "my run??"
    assert len(printable("x" * 1000)) == 512
    assert printable("") == "?"
