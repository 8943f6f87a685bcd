"""Ctrl-C, SIGTERM and SIGHUP: graceful shutdown of commands, and work that a signal must not cut short.

Only commands install signal handlers: `handle_interrupts` from their first line on, and `GracefulShutdown` around their
work. Library code leaves the handlers of the process alone and calls `run_uninterrupted`.

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
    from typing import Any, Self, TypeVar

    T = TypeVar("T")

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows lacks the last
_POLL = 0.05  # seconds: a signal that another thread receives does not wake the main thread


class Interrupted(KeyboardInterrupt):
    """A signal arrived.

    It is a subclass of KeyboardInterrupt because Python records a bare KeyboardInterrupt that leaves `exec`, which
    imports use, and then exits by SIGINT even though the exception was handled.
    """


def raise_interrupted(number: int, frame: FrameType | None) -> None:
    """Raise `Interrupted`; a signal handler."""
    raise Interrupted


def handle_interrupts() -> bool:
    """Make Ctrl-C raise Interrupted from now on.

    Returns:
        Whether the handler was installed. It is not installed outside the main thread, nor where SIGINT is
        ignored or has another handler than Python's.
    """
    try:
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            return False
        signal.signal(signal.SIGINT, raise_interrupted)
    except ValueError:  # not the main thread
        return False
    sys.unraisablehook = _raise_again
    # Python restores the system's handler when it exits: the signal would then end a command that has finished.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    return True


def restore_interrupts() -> None:
    """Undo `handle_interrupts`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = sys.__unraisablehook__


def _raise_again(found: sys.UnraisableHookArgs) -> None:
    """Send SIGINT again if its exception was raised in a destructor, where Python prints and drops it."""
    if not isinstance(found.exc_value, Interrupted):
        sys.__unraisablehook__(found)
        return
    import threading

    timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT))  # once the destructor has returned
    timer.daemon = True
    timer.start()


class GracefulShutdown:
    """The signal handlers of a command while it works: SIGINT, SIGTERM and SIGHUP end it after its clean-up.

    An exception from a signal handler can be raised anywhere: in the middle of an import, where it is swallowed or
    leaves a library that crashes later, or in clean-up. A command that works in steps therefore sets `at_steps`: the
    first signal only sets `number`, and `check`, which the command calls between two steps, raises Interrupted; a
    second signal raises it at once. Other commands get the exception with every signal.

    Ignored signals (nohup) and handlers of the calling program stay as they are. Outside the main thread, where Python
    installs no handlers, nothing changes.

    Attributes:
        number: The first signal that arrived; None before that.
    """

    def __init__(self, *, at_steps: bool = False) -> None:
        self.number: int | None = None
        self._at_steps = at_steps
        self._raised = False
        self._stderr = _descriptor(sys.stderr)  # not 2, which may be another file in a process without stderr
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        try:
            for name in SIGNALS:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) in _REPLACEABLE:
                    self._previous[number] = signal.signal(number, self._handle)
        except ValueError:  # not the main thread
            pass
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """The exit code of a command that was interrupted: 128 + the first signal's number, or SIGINT's before one."""
        return 128 + (self.number or signal.SIGINT)

    def check(self) -> None:
        """Raise Interrupted if a signal arrived."""
        if self.number is not None:
            self._raised = True
            raise Interrupted

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first = self.number is None
        if first:
            self.number = number
        if not self._at_steps:
            raise Interrupted
        if not first:
            if not self._raised:  # a third signal does not interrupt the clean-up
                self.check()
        elif self._stderr is not None:
            try:  # noqa: SIM105  (contextlib takes time to import)
                # Not through sys.stderr, which the signal may have interrupted.
                os.write(self._stderr, b"\nstopping after this step; once more stops at once\n")
            except OSError:
                pass


_REPLACEABLE = (signal.SIG_DFL, signal.default_int_handler, raise_interrupted)  # Python's and this module's


def _descriptor(stream: Any) -> int | None:
    try:
        return stream.fileno()  # type: ignore[no-any-return]
    except (AttributeError, OSError, ValueError):
        return None


def run_uninterrupted(function: Callable[[], T], cancel: Callable[[], object] | None = None) -> T:
    """Call a function that the exception of a signal handler must not cut short.

    This is for clean-up, and for C++ code that calls back into Python, where an exception ends the process. Python runs
    signal handlers in the main thread. There, the function is called in a helper thread while the main thread waits;
    the exception of a handler, such as KeyboardInterrupt, is raised when the function has ended. In other threads the
    function is simply called.

    Args:
        function: The work.
        cancel: Makes `function` return early. It is called, perhaps repeatedly, when a handler has raised.

    Returns:
        The result of `function`.

    Raises:
        BaseException: The exception of a handler or of `function`; if both raised, that of the handler, with the other
            one as its context.
    """
    import threading

    if threading.current_thread() is not threading.main_thread():
        return function()
    call = _Call(function)
    interruption: BaseException | None = None
    try:
        threading.Thread(target=call.run, name="vexpress_rt_uninterrupted").start()
    except RuntimeError:  # the system starts no more threads, or the interpreter exits
        call.run()
    except BaseException as error:  # a handler's, whether or not the thread runs
        interruption = error
        call.run()
    while not call.done:
        try:
            call.finished.acquire(timeout=_POLL)
        except BaseException as error:
            interruption = interruption or error
        if interruption is not None and cancel is not None:
            cancel()
    try:
        if interruption is not None:
            interruption.__context__ = call.error
            raise interruption
        if call.error is not None:
            raise call.error
        return call.result  # type: ignore[no-any-return]
    finally:
        del call, interruption  # a traceback refers to this frame


class _Call:
    """One call of a function, made by the first thread that calls `run`.

    Attributes:
        done: Whether the call has ended.
        finished: A lock that is held until the call ends. An Event would not work: a handler's exception inside its
            `wait` can leave it locked.
        result: The function's return value.
        error: The function's exception, or None.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        import threading

        self.done = False
        self.finished = threading.Lock()
        self.finished.acquire()
        self.result: Any = None
        self.error: BaseException | None = None
        self._function = function
        self._claim = threading.Lock()

    def run(self) -> None:
        if not self._claim.acquire(blocking=False):
            return
        try:
            self.result = self._function()
        except BaseException as error:
            self.error = error
        finally:
            self.done = True
            self.finished.release()
