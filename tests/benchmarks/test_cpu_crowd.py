"""The benchmark of crowded machines: its processes, its rows, and its refusal of ways that change frames."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cpu import crowd
from benchmarks.cpu.crowd import WAYS, Situation, busy_loops, main, measure, table, worst

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the benchmark is for Linux")
OPTIONS = {"bundle": None, "threads": None, "frames": 2, "config": {"steps": 1, "guidance_scale": 1.0}}
PAIR = [WAYS["spinning"], WAYS["one thread"]]


def test_every_way_is_measured_in_every_situation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "QUICK", (Situation(0), Situation(1, streams=2)))
    assert main(["--quick", "--ways", "no spinning", "one thread", "--json", str(tmp_path / "crowd.json")]) == 0
    figures = json.loads((tmp_path / "crowd.json").read_text())
    assert [(row["load"], row["streams"], row["way"]) for row in figures["rows"]] == [
        (0, 1, "no spinning"), (0, 1, "one thread"), (1, 2, "no spinning"), (1, 2, "one thread"),
    ]  # fmt: skip
    for row in figures["rows"]:
        assert row["wall"]["count"] == 2
        assert row["wall"]["median"] > 0
        assert row["processor"]["median"] > 0
        assert row["slowdown"]["median"] >= 1
    assert len(table(figures["rows"])) == 2 + 2 + 1


def test_the_worst_case_is_the_largest_slowdown() -> None:
    rows: list[dict[str, Any]] = [
        {"way": way, "slowdown": {"median": ratio}} for way, ratio in [("a", 1.0), ("b", 1.1), ("a", 2.0), ("b", 1.0)]
    ]
    assert worst(rows) == {"a": 2.0, "b": 1.1}


def answers(monkeypatch: pytest.MonkeyPatch, digests: Any) -> None:
    """Let processes with a Generator answer at once, with these digests in turn."""
    monkeypatch.setattr(crowd.Worker, "__init__", lambda self, way, options: None)
    monkeypatch.setattr(crowd.Worker, "send", lambda self, streams: None)
    monkeypatch.setattr(crowd.Worker, "receive", lambda self: {"digests": [next(digests)], "processor": 1.0})
    monkeypatch.setattr(crowd.Worker, "close", lambda self: None)


def test_ways_that_change_frames_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, itertools.cycle(["same"]))
    assert len(measure(PAIR, [Situation(0)], 1, OPTIONS)["rows"]) == 2
    answers(monkeypatch, itertools.count())
    with pytest.raises(ArithmeticError, match="the frames of cpu depend on the way"):
        measure(PAIR, [Situation(0)], 1, OPTIONS)


def test_no_round_begins_that_would_end_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, itertools.cycle(["same"]))
    (row, _) = measure(PAIR, [Situation(0)], 5, OPTIONS, seconds=0)["rows"]
    assert row["wall"]["count"] == 1


def test_a_process_that_ends_is_an_error() -> None:
    with pytest.raises(ChildProcessError, match="ended with exit code 1"):
        measure(PAIR[:1], [Situation(0)], 1, {**OPTIONS, "bundle": "/nowhere"})


def test_busy_loops_end_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    plain = subprocess.Popen

    def remember(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(plain(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(crowd.subprocess, "Popen", remember)
    with busy_loops(2):
        assert [loop.poll() for loop in started] == [None, None]
    assert [loop.returncode for loop in started] == [-9, -9]
