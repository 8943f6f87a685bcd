"""Start and exit of the commands of `export`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType

from vexpress_rt.errors import VExpressError
from vexpress_rt.utils import command_entry
from vexpress_rt.utils.memory_errors import explain, ran_out
from vexpress_rt.utils.signals import GracefulShutdown, handle_interrupts

# Libraries that the extras `export` and `bench` install, whose absence is reported with the name of the extra.
EXPORT_LIBRARIES = frozenset({"torch", "transformers", "safetensors", "onnx", "huggingface_hub"})
BENCH_LIBRARIES = frozenset({"matplotlib"})


def run(work: Callable[[], object], interrupted: str = "interrupted") -> int:
    """Call `work` and return the exit code of the command.

    Args:
        work: The command itself.
        interrupted: The line to print after a signal.

    Returns:
        0; 128 + n after signal n, such as 130 after Ctrl-C and 143 after SIGTERM; 1 for a VExpressError or OSError,
        exhausted memory or a missing library. All but 0 print a line on stderr.
    """
    shutdown = GracefulShutdown()
    try:
        with shutdown:
            work()
    except (VExpressError, OSError) as error:
        command_entry.print_error(f"error: {explain(error) if _is_memory(error) else error}")
        return 1
    except (ImportError, MemoryError, RuntimeError) as error:
        message = _message(error)
        if message is None:
            raise
        command_entry.print_error(f"error: {message}")
        return 1
    except KeyboardInterrupt:
        command_entry.print_error(interrupted)
        return shutdown.exit_code
    return 0


def print_progress(line: str) -> None:
    """Print an escaped line, and flush the stream."""
    print(command_entry.escape(line, sys.stdout), flush=True)


def install_excepthook() -> None:
    """Make `python -m export.NAME` or `benchmarks.NAME` exit with one line instead of a traceback, even in its imports.

    This covers Ctrl-C, a missing library of the extras `export` and `bench`, and exhausted memory.
    """
    handle_interrupts()
    command_entry.open_standard_streams()
    sys.excepthook = _excepthook


def _excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        command_entry.print_error("interrupted")
        raise SystemExit(command_entry.INTERRUPTED)
    message = _message(error)
    if message is None:
        sys.__excepthook__(kind, error, traceback)
        return
    command_entry.print_error(f"error: {message}")
    raise SystemExit(1)


def _message(error: BaseException) -> str | None:
    """Return a message for a missing library or exhausted memory, None for other exceptions."""
    if isinstance(error, ModuleNotFoundError):
        library = (error.name or "").partition(".")[0]
        for names, extra, user in (
            (EXPORT_LIBRARIES, "export", "the exporter needs"),
            (BENCH_LIBRARIES, "bench", "benchmarks need"),
        ):
            if library in names:
                return (
                    f"{user} {error.name}, which is not installed: install the extra `{extra}`, in a checkout with "
                    f"`pip install '.[{extra}]'` (vexpress-rt[{extra}])"
                )
    return explain(error) if ran_out(error) else None


def _is_memory(error: BaseException) -> bool:
    return not isinstance(error, VExpressError) and ran_out(error)
