"""Messages of TensorRT: warnings go to `logging`, errors to the collector of their thread."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Sequence
from typing import Any

_ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+) bytes")
_NO_GPU = "catchCudaError"  # without a GPU, one more error follows each error of TensorRT
_log = logging.getLogger(__name__)


class Messages:
    """Collected messages; made by `Library.collect`.

    Attributes:
        thread: The thread whose messages are collected.
        workers: Whether messages of threads without a collector are collected as well.
        errors: The errors, in order.
        activation_bytes: Activation memory of the last engine, bytes; None if it was not reported.
    """

    def __init__(self, *, workers: bool = False) -> None:
        self.thread = threading.get_ident()
        self.workers = workers
        self.errors: list[str] = []
        self.activation_bytes: int | None = None

    def text(self) -> str:
        """Return the distinct errors on one line, without those that only follow from a missing GPU."""
        return "; ".join(dict.fromkeys(readable(error) for error in _without_follow_ups(self.errors)))


def readable(text: str) -> str:
    """Return a TensorRT message on one line of at most 1000 characters."""
    return " ".join(" ".join(_without_follow_ups(text.splitlines())).split())[:1000]


def make_logger(module: Any, title: str) -> Any:
    """Return a TensorRT logger. Warnings go to `logging`; errors go to a collector, or to `logging` without one.

    Args:
        module: TensorRT's Python module.
        title: The library's display name.
    """
    severity = module.ILogger.Severity

    class Logger(module.ILogger):  # type: ignore[misc] # of type Any
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.collectors: list[Messages] = []

        def log(self, level: Any, text: str) -> None:
            if level == severity.VERBOSE:  # a large network logs a hundred thousand of them
                return
            with contextlib.suppress(Exception):  # C++ calls this, where an exception would end the process
                collectors = self._collectors()
                if level == severity.INFO:
                    if found := _ACTIVATIONS.search(text):
                        for messages in collectors:
                            messages.activation_bytes = int(found[1])
                elif level == severity.WARNING:
                    _log.warning("%s: %s", title, readable(text))
                elif collectors:
                    for messages in collectors:
                        messages.errors.append(text)
                else:
                    _log.error("%s: %s", title, readable(text))

        def _collectors(self) -> list[Messages]:
            collectors, thread = list(self.collectors), threading.get_ident()
            own = [messages for messages in collectors if messages.thread == thread]
            return own or [messages for messages in collectors if messages.workers]

    return Logger()


def _without_follow_ups(lines: Sequence[str]) -> Sequence[str]:
    return [line for line in lines if _NO_GPU not in line] or lines
