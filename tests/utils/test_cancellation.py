"""A wait in a background thread ends when its result is no longer needed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from vexpress_rt.errors import CancelledError
from vexpress_rt.utils.cancellation import cancellable, check_cancelled


def test_only_a_cancelled_block_ends_its_waits() -> None:
    check_cancelled()
    with cancellable(lambda: False):
        check_cancelled()
        with cancellable(lambda: True), pytest.raises(CancelledError, match="no longer needed"):
            check_cancelled()
        check_cancelled()
    check_cancelled()


def test_other_threads_are_not_cancelled() -> None:
    with cancellable(lambda: True), ThreadPoolExecutor(1) as pool:
        pool.submit(check_cancelled).result()
