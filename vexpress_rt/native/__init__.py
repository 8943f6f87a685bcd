"""The 3x3x3 median in C++, with a reference implementation in NumPy of the same values.

`backend` says which of the two runs: "native", or "numpy" if the extension was not built. The environment variable
VEXPRESS_RT_NATIVE=0 forces the reference implementation, VEXPRESS_RT_NATIVE=1 requires C++; it is read at the first
import of this package.
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
SWITCH = "VEXPRESS_RT_NATIVE"


def _load_extension() -> ModuleType | None:
    choice = os.environ.get(SWITCH, "")
    if choice not in ("", "0", "1"):
        raise ConfigError(f"{SWITCH} is {choice!r}; expected 0 (NumPy), 1 (C++), or nothing (C++ where it was built)")
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
            f"install it again with a C++ compiler, or set {SWITCH}=0 to use NumPy"
        ) from error


_extension = _load_extension()
backend: Literal["native", "numpy"] = "numpy" if _extension is None else "native"


def median_3x3x3(previous: UInt8, current: UInt8, following: UInt8, *, threads: int | None = None) -> UInt8:
    """Return the middle one of three frames with each value replaced by the median of 27.

    The 27 values are those around it in time, rows and columns; colours are filtered separately. Beyond a border the
    picture is mirrored without repeating its edge (NumPy's "reflect"); a single row or column is its own mirror image.
    Other Python threads run meanwhile. See docs/model/specification.md, stage 10.

    Args:
        previous: (H, W, 3) uint8 RGB, H and W at least 1.
        current: (H, W, 3) uint8 RGB.
        following: (H, W, 3) uint8 RGB.
        threads: Bands of rows filtered at once, 1 to 1024, limited to the CPUs that this process may use; None uses
            all of them. NumPy always uses one.

    Returns:
        (H, W, 3) uint8.

    Raises:
        InputError: Shapes or dtypes are others.
        ConfigError: `threads` is out of range.
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
    """Return `median_3x3x3` of every frame of a clip, which is mirrored at its ends in time too.

    Args:
        frames: (L, H, W, 3) uint8, L at least 1.
        threads: As for `median_3x3x3`.

    Returns:
        (L, H, W, 3) uint8.

    Raises:
        InputError: Shape or dtype is another.
        ConfigError: `threads` is out of range.
    """
    return filter_clip(frames, lambda *triple: median_3x3x3(*triple, threads=threads))
