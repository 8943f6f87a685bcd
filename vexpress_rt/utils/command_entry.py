"""Start and exit of a command: Ctrl-C during its imports, missing standard streams, exhausted memory.

This module imports as little as possible, because Ctrl-C is unhandled until it runs.
"""

from __future__ import annotations

import os
import sys

from vexpress_rt.utils import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

INTERRUPTED = 130  # 128 + SIGINT


def run_command(command: Callable[[], int], interrupted: str = "interrupted; nothing partial is left") -> int:
    """Run a command and return its exit code.

    The command imports its modules itself, so that Ctrl-C is handled during imports.

    Args:
        command: Returns an exit code.
        interrupted: The line to print on Ctrl-C.

    Returns:
        The exit code of `command`; 130 after Ctrl-C, 1 if memory runs out, each with a line on stderr.
    """
    installed = False
    try:
        try:
            installed = signals.handle_interrupts()
            open_standard_streams()
            return command()
        except KeyboardInterrupt:
            print_error(interrupted)
            return INTERRUPTED
        except (ImportError, MemoryError, OSError, RuntimeError) as error:
            from vexpress_rt.utils.memory_errors import explain, ran_out

            if not ran_out(error):
                raise
            print_error(f"error: {explain(error)}")
            return 1
    finally:
        if installed:
            signals.restore_interrupts()


def print_error(text: str) -> None:
    """Print escaped text on stderr; a missing or closed stderr drops it."""
    try:  # noqa: SIM105  (contextlib takes time to import)
        print(escape(text, sys.stderr), file=sys.stderr, flush=True)
    except (AttributeError, OSError, ValueError):
        pass


def escape(text: str, stream: TextIO | None) -> str:
    """Escape control characters, which a terminal could obey, and characters that the stream cannot encode.

    Names and texts of untrusted files can hold such characters. Line breaks stay.

    Args:
        text: The text.
        stream: The stream to print to.
    """
    printable = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return printable.encode(encoding, "backslashreplace").decode(encoding)


def open_standard_streams() -> None:
    """Open the null device in place of each missing standard stream.

    Otherwise the next open file, perhaps a video, would get the descriptor of the missing stream, and the messages that
    a library prints on stderr would end up in that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened == number:
                os.set_inheritable(number, True)
            else:
                os.dup2(opened, number)
                os.close(opened)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None or getattr(stream, "closed", False):
            null = open(os.devnull, mode, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            setattr(sys, name, null)
