"""TensorRT's messages, and their collectors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from vexpress_rt.backends.tensorrt.library import Library, load
from vexpress_rt.backends.tensorrt.messages import readable
from vexpress_rt.errors import BackendError


@pytest.fixture(scope="module")
def rtx() -> Library:
    return load("tensorrt-rtx")


def test_warnings_go_to_logging(rtx: Library, caplog: pytest.LogCaptureFixture) -> None:
    with rtx.collect() as messages:
        rtx.logger.log(rtx.module.ILogger.Severity.WARNING, "weights\nwere lost")
    assert caplog.messages == ["TensorRT for RTX: weights were lost"]
    assert caplog.records[0].levelno == logging.WARNING
    assert messages.errors == []


def test_errors_are_collected_and_lack_what_only_follows_from_the_lack_of_a_gpu(
    rtx: Library, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        for text in ("too large", "too large", "In catchCudaError (cudaError 35)", "too small"):
            rtx.logger.log(rtx.module.ILogger.Severity.ERROR, text)
        raise BackendError(messages.text())

    with pytest.raises(BackendError, match=r"^too large; too small$"), rtx.collect() as messages:
        fail()
    assert caplog.messages == []


def test_errors_that_led_to_nothing_end_as_a_warning(rtx: Library, caplog: pytest.LogCaptureFixture) -> None:
    with rtx.collect():
        rtx.logger.log(rtx.module.ILogger.Severity.ERROR, "no such cache")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "TensorRT for RTX: no such cache")
    ]


def test_errors_that_nobody_collects_are_logged(rtx: Library, caplog: pytest.LogCaptureFixture) -> None:
    rtx.logger.log(rtx.module.ILogger.Severity.INTERNAL_ERROR, "out of order")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "TensorRT for RTX: out of order")
    ]


def say(rtx: Library, text: str) -> None:
    rtx.logger.log(rtx.module.ILogger.Severity.ERROR, text)


def elsewhere(function: Callable[..., object], *arguments: Any) -> None:
    """Call a function in another thread."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(function, *arguments).result()


def test_what_another_thread_causes_is_not_collected(rtx: Library, caplog: pytest.LogCaptureFixture) -> None:
    with rtx.collect() as messages:
        elsewhere(say, rtx, "of another engine")
    assert messages.errors == []
    assert caplog.messages == ["TensorRT for RTX: of another engine"]


def test_a_build_collects_from_threads_of_tensorrts_own_alone(rtx: Library) -> None:
    def run() -> None:
        with rtx.collect() as running:
            say(rtx, "of another engine")
            assert running.errors == ["of another engine"]

    with rtx.collect(workers=True) as messages:
        elsewhere(run)
        elsewhere(say, rtx, "by a worker")
        say(rtx, "here")
        assert messages.errors == ["by a worker", "here"]


def test_the_memory_of_activations_is_read_from_what_tensorrt_says(rtx: Library) -> None:
    with rtx.collect() as messages:
        assert messages.activation_bytes is None
        rtx.logger.log(rtx.module.ILogger.Severity.INFO, "Total Activation Memory: 8263680 bytes")
    assert messages.activation_bytes == 8263680


def test_messages_become_one_line_of_bounded_length() -> None:
    assert readable("Invalid Node - a\n  wrong types\n[catchCudaError] no driver\n") == "Invalid Node - a wrong types"
    assert readable("[catchCudaError] no driver") == "[catchCudaError] no driver"
    assert len(readable("x" * 5000)) == 1000
