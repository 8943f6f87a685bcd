"""How busy the machine is, from the clock ticks in /proc/stat."""

from __future__ import annotations

from pathlib import Path

import pytest

from vexpress_rt.utils import cpu_load
from vexpress_rt.utils.cpu_load import busy_cpus

CPUS = "cpu0 1 1 1 1 1 1 1 1 0 0\ncpu1 1 1 1 1 1 1 1 1 0 0\nintr 5\n"


def stat(user: int, idle: int, waiting: int = 0, steal: int = 0, guest: int = 0) -> str:
    return f"cpu  {user} 0 0 {idle} {waiting} 0 0 {steal} {guest} 0\n{CPUS}"


def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str) -> float | None:
    """Return the measured load while the content of /proc/stat changes."""
    (tmp_path / "proc").mkdir()
    file = tmp_path / "proc/stat"
    file.write_text(before)
    monkeypatch.setattr(cpu_load.time, "sleep", lambda seconds: file.write_text(after))
    return busy_cpus(0.5, tmp_path)


@pytest.mark.parametrize(
    ("after", "busy"),
    [
        (stat(100, 1100), 0.0),
        (stat(150, 1050), 1.0),
        (stat(200, 1000), 2.0),
        (stat(100, 1050, waiting=50), 0.0),  # waiting for a disk leaves the CPU free
        (stat(100, 1050, steal=50), 1.0),
        (stat(150, 1050, guest=50), 1.0),  # the time of guests is part of the user's
    ],
)
def test_the_mean_number_of_busy_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str, busy: float) -> None:
    assert measured(tmp_path, monkeypatch, stat(100, 1000), after) == pytest.approx(busy)


@pytest.mark.parametrize("text", ["", "cpu 1 2\n", "cpu a b c d e f g h\n", "intr 1\n"])
def test_a_system_without_the_counters_has_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    assert measured(tmp_path, monkeypatch, text, text) is None


def test_counters_that_stand_still_give_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(tmp_path, monkeypatch, stat(1, 1), stat(1, 1)) is None


def test_this_machine_has_no_more_busy_cpus_than_cpus() -> None:
    import os

    busy = busy_cpus(0.05)
    assert busy is None or 0 <= busy <= (os.cpu_count() or 1)
