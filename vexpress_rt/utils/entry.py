"""Start and exit of a command: Ctrl-C during its imports, missing standard streams, exhausted memory.

This module imports as little as possible, because Ctrl-C is unhandled until it runs.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

INTERRUPTED = 130  # 128 + SIGINT


class Stopped(KeyboardInterrupt):
    """A signal arrived.

    It is a subclass because Python records a bare KeyboardInterrupt that leaves `exec`, which imports use, and then
    exits by SIGINT even though the exception was handled.
    """


def raise_stopped(number: int, frame: FrameType | None) -> None:
    """Handle SIGINT as Python does, but with an exception that Python does not record: see `Stopped`."""
    raise Stopped


def run_command(command: Callable[[], int], interrupted: str = "interrupted; nothing partial is left") -> int:
    """Run `command` and return its exit code. The command imports its modules itself, so that Ctrl-C is handled then.

    Args:
        command: Returns an exit code.
        interrupted: The line to print on Ctrl-C.

    Returns:
        The exit code of `command`; 130 after Ctrl-C, 1 if memory runs out, each with a line on stderr.
    """
    installed = False
    try:
        try:
            installed = handle_interrupts()
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
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.unraisablehook = sys.__unraisablehook__


def handle_interrupts() -> bool:
    """Make Ctrl-C raise Stopped.

    Returns:
        Whether the handler was installed. It is not outside the main thread, nor where SIGINT is ignored or has another
        handler than Python's.
    """
    try:
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            return False
        signal.signal(signal.SIGINT, raise_stopped)
    except ValueError:  # not the main thread
        return False
    sys.unraisablehook = _raise_again
    # Python restores the system's handler when it exits, which would end a command that has finished by the signal.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    return True


def _raise_again(found: sys.UnraisableHookArgs) -> None:
    """Send SIGINT again if its exception was raised in a destructor, where Python prints and drops it."""
    if not isinstance(found.exc_value, Stopped):
        sys.__unraisablehook__(found)
        return
    import threading

    timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT))  # once the destructor has returned
    timer.daemon = True
    timer.start()


def print_error(text: str) -> None:
    """Print a line on stderr; a missing or closed stderr drops it."""
    try:  # noqa: SIM105  (contextlib takes time to import)
        print(text, file=sys.stderr, flush=True)
    except (AttributeError, OSError, ValueError):
        pass


def open_standard_streams() -> None:
    """Open the null device in place of each standard stream that the process was started without.

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
