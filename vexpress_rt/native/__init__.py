"""The 3x3x3 median filter in C++, and a reference implementation in NumPy with the same values.

`backend` tells which of the two runs: "native", or "numpy" if the extension was not built. The environment variable
VEXPRESS_RT_NATIVE=0 selects the reference implementation, VEXPRESS_RT_NATIVE=1 requires C++; the variable is read at
the first import of this package.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType
from typing import Literal

import numpy as np

from vexpress_rt.errors import BackendError, BackendMissingError, ConfigError
from vexpress_rt.native.median import check_triple, filter_clip, median_3x3x3_numpy, median_filter_numpy
from vexpress_rt.types import UInt8
from vexpress_rt.utils.cpus import limit_threads
from vexpress_rt.utils.memory_errors import REMEDY, ran_out
from vexpress_rt.utils.native_calls import native_call

__all__ = ["backend", "median_3x3x3", "median_3x3x3_numpy", "median_filter", "median_filter_numpy"]

EXTENSION = "vexpress_rt.native._native"
ENVIRONMENT_VARIABLE = "VEXPRESS_RT_NATIVE"


def _load_extension() -> ModuleType | None:
    choice = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if choice not in ("", "0", "1"):
        raise ConfigError(
            f"{ENVIRONMENT_VARIABLE} is {choice!r}; expected 0 (NumPy), 1 (C++), or nothing (C++ where it was built)"
        )
    if choice == "0":
        return None
    if importlib.util.find_spec(EXTENSION) is None and choice == "":
        return None
    try:
        return importlib.import_module(EXTENSION)
    except ImportError as error:
        if ran_out(error):
            raise BackendError(f"memory ran out while {EXTENSION} was loaded ({error}): {REMEDY}") from error
        raise BackendMissingError(
            f"the C++ module {EXTENSION} does not load ({error}); expected the one that installing the package builds: "
            f"install it again with a C++ compiler, or set {ENVIRONMENT_VARIABLE}=0 to use NumPy"
        ) from error


_extension = _load_extension()
backend: Literal["native", "numpy"] = "numpy" if _extension is None else "native"


def median_3x3x3(previous: UInt8, current: UInt8, following: UInt8, *, threads: int | None = None) -> UInt8:
    """Filter the middle one of three frames: replace each value by the median of the 27 around it.

    The 27 values are its neighbours in time, rows and columns, and itself; colours are filtered separately. Beyond a
    border the picture is mirrored without repeating its edge (NumPy's "reflect"); a single row or column is its own
    mirror image. The GIL is released meanwhile.

    Args:
        previous: (H, W, 3) uint8 RGB, H and W at least 1.
        current: (H, W, 3) uint8 RGB.
        following: (H, W, 3) uint8 RGB.
        threads: Number of threads, 1 to 1024, limited to the CPUs that this process may use; None uses all of them. The
            NumPy implementation always uses one.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: A frame has another shape or dtype.
        ConfigError: `threads` is out of range.

    Source: docs/model/specification.md, stage 10.
    """
    limit = limit_threads(threads)
    if _extension is None:
        return median_3x3x3_numpy(previous, current, following)
    triple = check_triple(previous, current, following)
    filtered = np.empty_like(triple[1])
    with native_call():
        _extension.median_3x3x3(*triple, out=filtered, threads=limit.threads)
    return filtered


def median_filter(frames: UInt8, *, threads: int | None = None) -> UInt8:
    """Filter every frame of a clip with `median_3x3x3`; in time, too, the clip is mirrored at its ends.

    Args:
        frames: (L, H, W, 3) uint8, L at least 1.
        threads: As for `median_3x3x3`.

    Returns:
        (L, H, W, 3) uint8.

    Raises:
        InputError: `frames` has another shape or dtype.
        ConfigError: `threads` is out of range.
    """
    return filter_clip(frames, lambda *triple: median_3x3x3(*triple, threads=threads))
