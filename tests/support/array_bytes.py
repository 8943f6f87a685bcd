"""Array files as bytes, well-formed and not."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import torch

POINTS = np.random.default_rng(0).uniform(0, 512, (7, 3, 2)).astype(np.float32)
ENCODE = b"c_codecs\nencode\n"
LATIN1 = b"X\x06\x00\x00\x00latin1"


def saved(value: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def as_torch(program: bytes, **members: bytes) -> bytes:
    """A torch.save'd file whose pickle is `program`."""
    return zipped({"kps/data.pkl": program} | {f"kps/{name}": data for name, data in members.items()})


def npy(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def npz(compressed: bool = False, **arrays: Any) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()
