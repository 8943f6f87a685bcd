"""How a command begins and ends, from before its imports: Ctrl-C, standard streams that are missing, and memory.

Imports as little as it can, since nothing answers Ctrl-C before it runs.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

INTERRUPTED = 130  # 128 + SIGINT


class Stopped(KeyboardInterrupt):
    """A signal came. Of a type of its own, because Python notes a bare KeyboardInterrupt that leaves `exec`, as imports
    use it, and then ends by SIGINT though the exception was handled.
    """


def stopped(number: int, frame: FrameType | None) -> None:
    """Handle SIGINT as Python does, by an exception that it does not note."""
    raise Stopped


def run_command(command: Callable[[], int], interrupted: str = "interrupted; nothing partial is left") -> int:
    """What `command` returns, which imports what it needs itself.

    130 if Ctrl-C ends it, and 1 if memory runs out, also during those imports; either is told in a line.
    """
    ours = False
    try:
        try:
            ours = heed_interrupts()
            open_standard_streams()
            return command()
        except KeyboardInterrupt:
            tell_error(interrupted)
            return INTERRUPTED
        except (ImportError, MemoryError, OSError, RuntimeError) as error:
            from vexpress_rt.memory import explain, ran_out

            if not ran_out(error):
                raise
            tell_error(f"error: {explain(error)}")
            return 1
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.unraisablehook = sys.__unraisablehook__


def heed_interrupts() -> bool:
    """Let Ctrl-C raise Stopped; whether it does now: not in other threads than the main one, nor where it is ignored or
    somebody else handles it.
    """
    try:
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            return False
        signal.signal(signal.SIGINT, stopped)
    except ValueError:  # not the main thread
        return False
    sys.unraisablehook = _raise_again
    return True


def _raise_again(found: sys.UnraisableHookArgs) -> None:
    """Send a signal once more whose exception came up in a destructor, where Python prints and drops it."""
    if not isinstance(found.exc_value, Stopped):
        sys.__unraisablehook__(found)
        return
    import threading

    timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT))  # not from here, which is the destructor
    timer.daemon = True
    timer.start()


def tell_error(text: str) -> None:
    """Print a line on stderr, wherever that leads."""
    try:  # noqa: SIM105  (contextlib takes time to import)
        print(text, file=sys.stderr, flush=True)
    except (AttributeError, OSError, ValueError):
        pass


def open_standard_streams() -> None:
    """Open the null device in the place of each standard stream that the process was started without.

    What is printed there is lost, and no error. Without this the next file to be opened, a video perhaps, would get the
    number of the missing stream, and what a library prints on standard error would land in that file.
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
