"""Text on standard streams: escaped, flushed, and dropped where there is no stream."""

from __future__ import annotations

import io
from typing import TextIO

from vexpress_rt.utils.command_entry import escape


def open_stream(stream: TextIO | None) -> TextIO:
    """Return `stream`, or a stream that drops all text if it is None (pythonw, a closed descriptor) or closed."""
    return _Dropped() if stream is None or getattr(stream, "closed", False) else stream


class _Dropped(io.StringIO):
    """A text stream that drops all text."""

    def write(self, text: str) -> int:
        return len(text)


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # an object that only has `write`, or a closed stream
        return False


def say(text: str, stream: TextIO) -> None:
    """Print escaped text and flush.

    Args:
        text: The text.
        stream: The stream to print to.

    Raises:
        OSError: The stream cannot be written.
    """
    print(escape(text, stream), file=stream, flush=True)


def duration(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss, rounded."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
