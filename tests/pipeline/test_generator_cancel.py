"""Cancelled work: it ends before its next engine call, wherever it is, and leaves nothing behind."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from tests.doubles.fakes import FakeEngine
from tests.support.scenes import FAST, collect, photo, speech
from vexpress_rt import CancelledError, ConfigError, Generator, Portrait

CALL = 0.05  # seconds that a slow engine takes
TRIALS = 25


class Calls:
    """Counts the calls of all engines.

    Attributes:
        count: Number of calls that began.
        before: Called with the number of each call before it begins.
    """

    def __init__(self) -> None:
        self.count = 0
        self.before: Callable[[int], object] = lambda number: None


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    counted, run = Calls(), FakeEngine.run

    def counting(engine: FakeEngine, *given: Any, **more: Any) -> Any:
        counted.count += 1
        counted.before(counted.count)
        return run(engine, *given, **more)

    monkeypatch.setattr(FakeEngine, "run", counting)
    return counted


@pytest.fixture
def portrait(generator: Generator) -> Portrait:
    return generator.prepare(photo())


def test_generate_ends_after_the_engine_call_in_which_it_is_cancelled(
    generator: Generator, calls: Calls, tmp_path: Path
) -> None:
    output = tmp_path / "out.mp4"
    generator.generate(photo(), speech(), config=FAST, output=output)
    whole, older = calls.count, output.read_bytes()
    assert whole > 20
    for number in range(1, whole):  # the last call makes the last frame
        cancel, calls.count = Event(), 0
        calls.before = lambda count, cancel=cancel, number=number: cancel.set() if count == number else None
        with pytest.raises(CancelledError, match="cancelled"):
            generator.generate(photo(), speech(), config=FAST, output=output, cancel=cancel)
        assert calls.count == number
        assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert output.read_bytes() == older


def test_what_is_cancelled_before_it_begins_calls_no_engine(generator: Generator, calls: Calls) -> None:
    cancel = Event()
    cancel.set()
    for work in (
        lambda: generator.prepare(photo(), cancel=cancel),
        lambda: generator.stream(photo(), speech(), cancel=cancel),
        lambda: generator.generate(photo(), speech(), cancel=cancel),
    ):
        with pytest.raises(CancelledError, match="cancelled"):
            work()
    assert calls.count == 0


def test_a_cancelled_stream_has_no_more_frames_and_says_so(generator: Generator, portrait: Portrait) -> None:
    cancel = Event()
    by_token, by_method = (generator.stream(portrait, speech(), config=FAST, cancel=token) for token in (cancel, None))
    whole = collect(generator.stream(portrait, speech(), config=FAST, cancel=Event()))
    np.testing.assert_array_equal([next(by_token), next(by_method)], [whole[0], whole[0]])
    assert not by_token.cancelled
    cancel.set()
    by_method.cancel()
    for stream in (by_token, by_method):
        assert list(stream) == []
        assert stream.cancelled
        assert stream.done == 1


def test_a_stream_that_gave_all_its_frames_was_not_cancelled(generator: Generator, portrait: Portrait) -> None:
    with generator.stream(portrait, speech(), config=FAST) as stream:
        assert len(list(stream)) == stream.length
    stream.cancel()
    assert not stream.cancelled


def cancel_and_wait(stream: Any, computing: Any) -> None:
    stream.cancel()
    computing.result()


@pytest.mark.parametrize("end", [cancel_and_wait, lambda stream, computing: stream.close()], ids=["cancel", "close"])
def test_a_stream_ends_within_an_engine_call_from_another_thread(
    generator: Generator, portrait: Portrait, calls: Calls, end: Callable[[Any, Any], None]
) -> None:
    calls.before = lambda number: time.sleep(CALL)
    moments, waits = random.Random(0), []
    with ThreadPoolExecutor(1) as pool:
        for _ in range(TRIALS):
            stream = generator.stream(portrait, speech(), config=FAST)
            computing = pool.submit(next, stream, None)
            time.sleep(moments.uniform(0, 2 * CALL))
            begin = time.monotonic()
            end(stream, computing)
            waits.append(time.monotonic() - begin)
            assert computing.result() is None
            assert stream.cancelled
    assert np.percentile(waits, 95) < 1.2 * CALL
    assert np.median(waits) > 0.2 * CALL  # the calls are as slow as they should be


def test_cancel_does_not_wait(generator: Generator, portrait: Portrait, calls: Calls) -> None:
    inside, go_on = Event(), Event()

    def wait(number: int) -> None:
        inside.set()
        go_on.wait(10)

    calls.before = wait
    stream = generator.stream(portrait, speech(), config=FAST)
    with ThreadPoolExecutor(1) as pool:
        computing = pool.submit(next, stream, None)
        inside.wait(10)
        stream.cancel()
        assert not computing.done()
        go_on.set()
        assert computing.result() is None


@pytest.mark.parametrize("cancel", [5, True, "now", object()])
def test_a_token_that_cannot_be_asked_is_refused(generator: Generator, calls: Calls, cancel: Any) -> None:
    for work in (generator.prepare, generator.stream, generator.generate):
        with pytest.raises(ConfigError, match=r"^cancel is .+; expected a threading\.Event"):
            work(photo(), *([] if work == generator.prepare else [speech()]), cancel=cancel)
    assert calls.count == 0


class Tokens:
    """A token that counts how often it is asked, and is never set."""

    def __init__(self) -> None:
        self.asked = 0

    def is_set(self) -> bool:
        self.asked += 1
        return False


def test_any_object_with_is_set_is_a_token(generator: Generator, calls: Calls) -> None:
    token = Tokens()
    assert len(list(generator.stream(photo(), speech(), config=FAST, cancel=token))) == 9
    assert token.asked >= calls.count
