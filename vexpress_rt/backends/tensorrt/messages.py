"""What TensorRT says: warnings go to `logging`, errors to whoever collects them in the thread that they are said in."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Sequence
from typing import Any

_ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+) bytes")
_AFTERMATH = "catchCudaError"  # without a GPU, every complaint of TensorRT's is followed by one that there is no GPU
_log = logging.getLogger(__name__)


class Messages:
    """What TensorRT said while this collected. errors: in order.  activation_bytes: of the last engine, or None.

    thread: what is said in it comes here.  workers: whether what is said in threads where nobody collects does, too.
    """

    def __init__(self, *, workers: bool = False) -> None:
        self.thread = threading.get_ident()
        self.workers = workers
        self.errors: list[str] = []
        self.activation_bytes: int | None = None

    def text(self) -> str:
        """The errors on one line, each once, without those that merely follow from the lack of a GPU."""
        return "; ".join(dict.fromkeys(readable(error) for error in _telling(self.errors)))


def readable(text: str) -> str:
    """A message of TensorRT's on one line, at most 1000 characters."""
    return " ".join(" ".join(_telling(text.splitlines())).split())[:1000]


def make_logger(module: Any, title: str) -> Any:
    """A TensorRT logger: warnings go to `logging`, errors to whoever collects them and else to `logging` too."""
    severity = module.ILogger.Severity

    class Logger(module.ILogger):  # type: ignore[misc] # of type Any
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.collectors: list[Messages] = []

        def log(self, level: Any, text: str) -> None:
            if level == severity.VERBOSE:  # a hundred thousand for a large network
                return
            with contextlib.suppress(Exception):  # an exception would end the process: C++ calls this and knows none
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
            every, thread = list(self.collectors), threading.get_ident()
            return [one for one in every if one.thread == thread] or [one for one in every if one.workers]

    return Logger()


def _telling(lines: Sequence[str]) -> Sequence[str]:
    return [line for line in lines if _AFTERMATH not in line] or lines
