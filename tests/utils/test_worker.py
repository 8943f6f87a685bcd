"""Work in a worker thread: all of it, in order, with a bounded queue, and with its errors raised in the caller."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexpress_rt.utils.worker import Worker


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until another thread has made a condition true; fail after a minute."""
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("vexpress_rt")]


@given(st.lists(st.integers(), max_size=40), st.integers(0, 9))
def test_every_item_is_worked_on_once_and_in_order(items: list[int], ahead: int) -> None:
    seen: list[int] = []
    with Worker(seen.append, ahead) as work:
        for item in items:
            work(item)
    assert seen == items


def test_the_caller_goes_on_while_an_item_is_worked_on() -> None:
    went_on = threading.Event()
    with Worker(lambda item: went_on.wait(10)) as work:
        work(0)
        went_on.set()
    assert not threads()


def test_the_caller_waits_when_too_many_items_do() -> None:
    started, may_end = threading.Semaphore(0), threading.Semaphore(0)

    def function(item: int) -> None:
        started.release()
        assert may_end.acquire(timeout=10)

    given = []
    with Worker(function, ahead=2) as work:

        def give() -> None:
            for item in range(4):
                work(item)
                given.append(item)

        giver = threading.Thread(target=give)
        giver.start()
        assert started.acquire(timeout=10)
        wait_until(lambda: len(given) == 2)
        giver.join(0.1)
        assert giver.is_alive()
        assert given == [0, 1]
        may_end.release(4)
        giver.join(10)
        assert given == [0, 1, 2, 3]


def test_an_error_comes_out_and_nothing_is_done_after_it() -> None:
    seen: list[int] = []

    def function(item: int) -> None:
        seen.append(item)
        if item == 1:
            raise OSError("no space left")

    def all_items() -> None:
        with Worker(function, ahead=3) as work:
            for item in range(100):
                work(item)

    with pytest.raises(OSError, match="no space left"):
        all_items()
    assert seen == [0, 1]
    assert not threads()


def test_the_error_of_the_last_item_comes_out_at_the_end() -> None:
    def function(item: int) -> None:
        time.sleep(0.05)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"), Worker(function) as work:
        work(0)
    assert not threads()


def test_leaving_by_an_exception_drops_what_waits_and_ends_the_thread() -> None:
    seen: list[int] = []
    leaving = threading.Event()

    def function(item: int) -> None:
        seen.append(item)
        assert leaving.wait(60)
        wait_until(lambda: not work._waiting)

    work = Worker(function, ahead=8)

    def interrupted() -> None:
        with work:
            for item in range(5):
                work(item)
            leaving.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert seen == [0]
    assert not threads()


def interrupt() -> None:
    """Ctrl-C as the terminal sends it: it also wakes the main thread where that waits."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def test_a_second_interrupt_waits_for_the_item_in_work() -> None:
    done: list[int] = []
    leaving = threading.Event()

    def function(item: int) -> None:
        leaving.wait()
        time.sleep(0.1)
        interrupt()
        time.sleep(0.1)
        done.append(item)

    def interrupted() -> None:
        with Worker(function) as work:
            work(0)
            leaving.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == [0]
    assert not threads()


def test_an_interrupt_ends_the_wait_for_the_queue() -> None:
    done: list[int] = []
    waiting = threading.Event()

    def function(item: int) -> None:
        waiting.wait()
        time.sleep(0.1)
        interrupt()
        wait_until(lambda: not work._waiting)
        done.append(item)

    work = Worker(function)

    def interrupted() -> None:
        with work:
            for item in range(6):
                work(item)
            waiting.set()

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == [0]
    assert not threads()
