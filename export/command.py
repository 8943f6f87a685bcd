"""How a command of `export` begins and ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType

from vexpress_rt import entry
from vexpress_rt.errors import VExpressError
from vexpress_rt.memory import explain, ran_out

NEEDED = frozenset({"torch", "transformers", "safetensors", "onnx", "huggingface_hub"})  # by the extra `export`
DRAWING = frozenset({"matplotlib"})  # by the extra `bench`, for `benchmarks`, whose commands end as these do


def run(work: Callable[[], object], interrupted: str = "interrupted") -> int:
    """Do the work. The exit code: 0; 1 for an error of ours or the disk's, for memory that runs out and for a library
    that is not installed, and 130 for Ctrl-C, all told on stderr.
    """
    try:
        work()
    except (VExpressError, OSError) as error:
        entry.tell_error(f"error: {explain(error) if _is_memory(error) else error}")
        return 1
    except (ImportError, MemoryError, RuntimeError) as error:
        said = _said(error)
        if said is None:
            raise
        entry.tell_error(f"error: {said}")
        return 1
    except KeyboardInterrupt:
        entry.tell_error(interrupted)
        return entry.INTERRUPTED
    return 0


def tell(line: str) -> None:
    """Print a line of progress at once."""
    print(line, flush=True)


def guard() -> None:
    """Let `python -m export.NAME`, or `benchmarks.NAME`, end in a line, and not in a traceback, also while its module
    is imported: on Ctrl-C, without a library of the extras `export` and `bench`, and where memory runs out.
    """
    entry.heed_interrupts()
    entry.open_standard_streams()
    sys.excepthook = _end


def _end(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        entry.tell_error("interrupted")
        raise SystemExit(entry.INTERRUPTED)
    said = _said(error)
    if said is None:
        sys.__excepthook__(kind, error, traceback)
        return
    entry.tell_error(f"error: {said}")
    raise SystemExit(1)


def _said(error: BaseException) -> str | None:
    """A sentence for an exception that is no fault of the program, None for others."""
    if isinstance(error, ModuleNotFoundError):
        library = (error.name or "").partition(".")[0]
        for needed, extra, whose in ((NEEDED, "export", "the exporter needs"), (DRAWING, "bench", "benchmarks need")):
            if library in needed:
                return (
                    f"{error.name} is not installed, which {whose}: install the extra `{extra}`, in a checkout with "
                    f"`pip install '.[{extra}]'` (vexpress-rt[{extra}])"
                )
    return explain(error) if ran_out(error) else None


def _is_memory(error: BaseException) -> bool:
    return not isinstance(error, VExpressError) and ran_out(error)
