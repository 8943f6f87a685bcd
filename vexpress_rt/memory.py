"""Memory that ran out: how libraries say so, and what there is to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator

# As glibc, NumPy, OpenCV, FFmpeg, ONNX Runtime, TensorRT, CUDA and Python have it, in lower case.
_WORDS = (
    "allocate memory", "bad_alloc", "bad allocation", "out of memory", "outofmemory", "failed_allocation",
    "memory allocation", "insufficient memory", "failed to map segment", "unable to allocate", "can't start new thread",
    "can't allocate", "smaller than requested bytes",
)  # fmt: skip
_OTHER = ("static tls block",)  # "cannot allocate memory in static TLS block": too many libraries are loaded
REMEDY = (
    "close other programs, raise the limit on memory (ulimit -v, or the container's), or use a smaller bundle or "
    "shorter speech"
)


LIBRARIES = 800 << 20  # bytes of address space that NumPy, FFmpeg, OpenCV and ONNX Runtime take before any work


def check_limit() -> None:
    """Raise MemoryError if the limit on address space (ulimit -v) is too low for the libraries.

    Some of them crash then, and do not say why.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LIBRARIES:
        raise MemoryError(f"ulimit -v is {limit >> 20} MiB; the libraries take {LIBRARIES >> 20} MiB, an engine more")


def ran_out(error: BaseException) -> bool:
    """Whether an exception, or one that led to it, is about memory, or a limit on it or on threads."""
    return any(_says_so(one) for one in _causes(error))


def explain(error: BaseException) -> str:
    """A sentence about an exception that `ran_out` holds true of, for people."""
    said = next(one for one in _causes(error) if _says_so(one))
    details = " ".join(str(said).split())[:200]
    details = f" ({details})" if details else ""
    if "start new thread" in details:
        return (
            f"the system starts no more threads{details}, and nothing partial is left: raise the limit on memory "
            "(ulimit -v) or on processes (ulimit -u, or the container's), or close other programs"
        )
    if isinstance(said, ImportError):
        return f"memory ran out while libraries were loaded{details}: {REMEDY}"
    return f"memory ran out{details}, and nothing partial is left: {REMEDY}"


def _says_so(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    return any(words in text for words in _WORDS) and not any(words in text for words in _OTHER)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and not any(current is one for one in seen):
        seen.append(current)
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
