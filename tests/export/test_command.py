"""Lines of the exporter's commands on a terminal."""

from __future__ import annotations

import pytest

from export.command import print_progress, run
from export.errors import CheckpointError


def test_names_in_files_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        print_progress("denoising_unet stage_3\r\x1b[2J")
        raise CheckpointError("1 unexpected: \x1b]0;title\x07")

    assert run(fail) == 1
    written = capsys.readouterr()
    assert (written.out, written.err) == (
        "denoising_unet stage_3\\r\\x1b[2J\n",
        "error: 1 unexpected: \\x1b]0;title\\x07\n",
    )
