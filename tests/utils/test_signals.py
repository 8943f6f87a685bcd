"""Signals that wait until C++ no longer calls back, or until something was cleaned up."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

import pytest

from vexpress_rt.utils.signals import cleaned_up_first, signals_deferred

ROOT = Path(__file__).parents[2]


def test_a_signal_takes_effect_at_the_end_of_the_block() -> None:
    def work() -> None:
        with signals_deferred() as came:
            steps.append(came())
            signal.raise_signal(signal.SIGINT)
            steps.append(came())

    steps: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == [False, True]


def test_it_takes_effect_also_where_the_block_fails() -> None:
    def work() -> None:
        with signals_deferred():
            signal.raise_signal(signal.SIGINT)
            raise ValueError

    with pytest.raises(KeyboardInterrupt) as caught:
        work()
    assert isinstance(caught.value.__context__, ValueError)


def test_the_handler_that_was_there_gets_the_signal_and_stays() -> None:
    def handler(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with signals_deferred():
            signal.raise_signal(signal.SIGTERM)
            assert heard == []
        assert heard == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_signals_that_the_system_handles_are_left_to_it() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with signals_deferred() as came:
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
            signal.raise_signal(signal.SIGTERM)
            assert not came()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_change_no_handler() -> None:
    def work() -> None:
        with signals_deferred() as came:
            seen.append((signal.getsignal(signal.SIGINT), came()))

    seen: list[tuple[object, bool]] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(signal.getsignal(signal.SIGINT), False)]


# What is cleaned up first


def test_sigterm_unwinds_the_block_and_then_ends_the_process() -> None:
    code = (
        "import signal\n"
        "from vexpress_rt.utils.signals import cleaned_up_first\n"
        "with cleaned_up_first():\n"
        "    try:\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "        print('went on')\n"
        "    except Exception:\n"
        "        print('was caught')\n"
        "    finally:\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "        print('cleaned', flush=True)\n"
        "print('survived')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGTERM, "cleaned\n", "")


def test_nothing_changes_without_a_signal_or_with_a_handler_of_others() -> None:
    def handler(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    heard: list[int] = []
    with cleaned_up_first():
        pass
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with cleaned_up_first():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
