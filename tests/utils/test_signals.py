"""Signals: commands end after their clean-up, and library code finishes work that must not be interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from types import FrameType

import pytest

from tests.support.paths import ROOT
from vexpress_rt.utils.signals import GracefulShutdown, Interrupted, run_uninterrupted


def interrupt() -> None:
    """Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


# Work that is not interrupted


def test_an_interrupt_is_raised_when_the_function_has_ended() -> None:
    def work() -> None:
        interrupt()
        cancelled.wait(10)
        steps.append("finished")

    steps: list[str] = []
    cancelled = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        run_uninterrupted(work, cancel=cancelled.set)
    assert steps == ["finished"]
    assert cancelled.is_set()


def test_a_signal_that_another_thread_receives_cancels_too() -> None:
    def work() -> bool:
        signal.raise_signal(signal.SIGINT)  # does not wake the main thread
        return cancelled.wait(10)

    cancelled = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        run_uninterrupted(work, cancel=cancelled.set)
    assert cancelled.is_set()


def test_every_further_interrupt_waits_as_well() -> None:
    def work() -> None:
        for _ in range(3):
            interrupts.wait(10)
            interrupts.clear()
            interrupt()
        interrupts.wait(10)
        steps.append("finished")

    steps: list[str] = []
    interrupts = threading.Event()
    interrupts.set()
    with pytest.raises(KeyboardInterrupt):
        run_uninterrupted(work, cancel=interrupts.set)
    assert steps == ["finished"]


def test_an_interrupt_is_raised_also_where_the_function_fails() -> None:
    def work() -> None:
        interrupt()
        cancelled.wait(10)
        raise ValueError

    cancelled = threading.Event()
    with pytest.raises(KeyboardInterrupt) as caught:
        run_uninterrupted(work, cancel=cancelled.set)
    assert isinstance(caught.value.__context__, ValueError)


def test_result_and_exception_are_those_of_the_function() -> None:
    assert run_uninterrupted(lambda: 7) == 7
    with pytest.raises(SystemExit) as caught:
        run_uninterrupted(lambda: sys.exit(3))
    assert caught.value.code == 3


def test_no_handler_is_replaced() -> None:
    def handler(number: int, frame: FrameType | None) -> None:
        handled.set()

    handled = threading.Event()
    before = signal.signal(signal.SIGTERM, handler)
    try:

        def work() -> bool:
            assert signal.getsignal(signal.SIGTERM) is handler
            os.kill(os.getpid(), signal.SIGTERM)
            return handled.wait(10)

        assert run_uninterrupted(work, cancel=lambda: pytest.fail("the handler raised nothing"))
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_call_the_function_themselves() -> None:
    def work() -> None:
        seen.append((threading.get_ident(), run_uninterrupted(threading.get_ident)))

    seen: list[tuple[int, int]] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen[0][0] == seen[0][1]


def test_a_system_without_threads_left_calls_the_function_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert run_uninterrupted(threading.current_thread) is threading.main_thread()


def test_an_interrupt_while_the_thread_starts_loses_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run_uninterrupted(lambda: done.append("cleaned"))
    assert done == ["cleaned"]


# Commands


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("at_steps", [True, False])
def test_a_signal_ends_a_command_and_handlers_come_back(name: str, at_steps: bool) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)

    def command() -> None:
        signal.raise_signal(number)
        steps.append("went on")
        shutdown.check()

    steps: list[str] = []
    with pytest.raises(Interrupted), GracefulShutdown(at_steps=at_steps) as shutdown:
        command()
    assert (shutdown.number, shutdown.exit_code) == (number, 128 + number)
    assert steps == ["went on"] * at_steps
    assert signal.getsignal(number) is before


def test_a_second_signal_ends_a_step_and_a_third_does_not_end_the_clean_up() -> None:
    def command() -> None:
        signal.raise_signal(signal.SIGTERM)
        try:
            signal.raise_signal(signal.SIGTERM)
            steps.append("went on")
        finally:
            signal.raise_signal(signal.SIGTERM)
            steps.append("cleaned")

    steps: list[str] = []
    with pytest.raises(Interrupted), GracefulShutdown(at_steps=True):
        command()
    assert steps == ["cleaned"]


def test_a_command_says_that_it_stops(capfd: pytest.CaptureFixture[str]) -> None:
    with GracefulShutdown(at_steps=True):
        signal.raise_signal(signal.SIGTERM)
    assert capfd.readouterr().err == "\nstopping after this step; once more stops at once\n"


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None], ids=["ignored", "of the program"])
def test_handlers_of_the_program_stay(handler: Callable[..., None]) -> None:
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with GracefulShutdown() as shutdown:
            assert signal.getsignal(signal.SIGHUP) is handler
            signal.raise_signal(signal.SIGHUP)
        assert shutdown.number is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_change_no_handler() -> None:
    def work() -> None:
        with GracefulShutdown() as shutdown:
            seen.append((signal.getsignal(signal.SIGINT), shutdown.number))

    seen: list[tuple[object, object]] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(signal.getsignal(signal.SIGINT), None)]


def test_sigterm_unwinds_a_command_before_it_ends() -> None:
    code = (
        "import signal\n"
        "from vexpress_rt.utils.signals import GracefulShutdown\n"
        "try:\n"
        "    with GracefulShutdown():\n"
        "        try:\n"
        "            signal.raise_signal(signal.SIGTERM)\n"
        "            print('went on')\n"
        "        except Exception:\n"
        "            print('was caught')\n"
        "        finally:\n"
        "            print('cleaned', flush=True)\n"
        "except KeyboardInterrupt:\n"
        "    raise SystemExit(143)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "cleaned\n", "")


def test_no_library_code_installs_a_handler() -> None:
    """Only commands do, through `GracefulShutdown` and `handle_interrupts`."""
    package = ROOT / "vexpress_rt"
    found = [path for path in package.rglob("*.py") if "signal.signal(" in path.read_text()]
    assert found == [package / "utils" / "signals.py"]
    users = [path for path in package.rglob("*.py") if "GracefulShutdown(" in path.read_text()]
    assert users == [package / "cli" / "main.py"]
