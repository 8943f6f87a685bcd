"""Memory that a process keeps, so that PyTorch's times are its best and steady."""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h: what mallopt sets, and to what.
_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD = -3, -1, -2
_SETTINGS = {_MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 256 << 20}  # bytes; the largest there are


def keep_memory() -> bool:
    """Let malloc keep what is freed; whether this machine's can.

    PyTorch in eager mode allocates every result anew. glibc gives large ones back to the system when they are freed, or
    does not, as the heap happens to lie: a window-step of the small model took 100 ms in one process and 165 in the
    next, 60 of them for 28,000 page faults. So it takes 112 in each. ONNX Runtime keeps its memory by itself.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) for name, value in _SETTINGS.items())
