"""Fingerprints: hashes of everything that an exported engine depends on."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

# Modules of `export` that decide what an exported graph computes.
SOURCES = (
    "checkpoint/config_files",
    "checkpoint/layout",
    "checkpoint/reader",
    "checkpoint/tensors",
    "checkpoint/trained_files",
    "checkpoint/training_states",
    "networks/*",
    "onnx/*",
)


def combine(*parts: object) -> str:
    """Return the sha256 over the representations of `parts`, in hexadecimal digits."""
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()


@cache
def of_code() -> str:
    """Return the sha256 over the sources that decide what a graph computes and the versions of their libraries."""
    files = sorted(path for pattern in SOURCES for path in Path(__file__).parents[1].glob(f"{pattern}.py"))
    return combine(*(path.read_bytes() for path in files), sorted(versions().items()))


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that take part in an export."""
    libraries = ("torch", "transformers", "onnx", "onnxruntime", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in libraries}}
