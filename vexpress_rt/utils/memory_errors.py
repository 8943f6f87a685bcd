"""Out-of-memory errors: the messages of libraries, and the remedies."""

from __future__ import annotations

import errno
from collections.abc import Iterator

# Messages of glibc, NumPy, OpenCV, FFmpeg, ONNX Runtime, OpenVINO, TensorRT, CUDA and Python, in lower case.
_WORDS = (
    "allocate memory", "bad_alloc", "bad allocation", "out of memory", "outofmemory", "failed_allocation",
    "memory allocation", "insufficient memory", "failed to map segment", "unable to allocate", "can't start new thread",
    "can't allocate", "failed to allocate", "smaller than requested bytes",
)  # fmt: skip
_UNRELATED = ("static tls block",)  # "cannot allocate memory in static TLS block": too many libraries are loaded
REMEDY = (
    "close other programs, raise the limit on memory (ulimit -v, or the container's), or use a smaller bundle or "
    "shorter speech"
)
THREADS_REMEDY = (
    "raise the limit on memory (ulimit -v) or on processes (ulimit -u, or the container's), or close other programs"
)
LIBRARIES = 800 << 20  # bytes of address space that NumPy, FFmpeg, OpenCV and ONNX Runtime take when they are loaded


def check_limit() -> None:
    """Check that the limit on address space (ulimit -v) suffices for the libraries: some crash otherwise.

    Raises:
        MemoryError: The limit is below `LIBRARIES`.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LIBRARIES:
        raise MemoryError(f"ulimit -v is {limit >> 20} MiB; the libraries take {LIBRARIES >> 20} MiB, an engine more")


def ran_out(error: BaseException) -> bool:
    """Return whether an exception or one of its causes reports exhausted memory or a limit on memory or threads.

    Args:
        error: Any exception.
    """
    return any(_reports_exhaustion(one) for one in _causes(error))


def explain(error: BaseException) -> str:
    """Return an error message for an exception for which `ran_out` is true."""
    reported = next(one for one in _causes(error) if _reports_exhaustion(one))
    details = " ".join(str(reported).split())[:200]
    details = f" ({details})" if details else ""
    if "start new thread" in details:
        return f"the system starts no more threads{details}, and nothing partial is left: {THREADS_REMEDY}"
    if isinstance(reported, ImportError):
        return f"memory ran out while libraries were loaded{details}: {REMEDY}"
    return f"memory ran out{details}, and nothing partial is left: {REMEDY}"


def _reports_exhaustion(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    return any(words in text for words in _WORDS) and not any(words in text for words in _UNRELATED)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and not any(current is one for one in seen):
        seen.append(current)
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
