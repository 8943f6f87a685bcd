"""Files of tensors, read without executing anything they contain."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from export.errors import DOWNLOAD_COMMAND, CheckpointError

SHOWN = 8  # names listed in a complaint


def find_file(folder: Path, *names: str) -> Path:
    """The first of `names` that exists in `folder`. Raises CheckpointError naming all of them."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(
        f"{folder} has no {' or '.join(names)}: complete the checkpoint with {DOWNLOAD_COMMAND}, "
        "or make a synthetic one with python -m export.checkpoint --preset tiny --output DIR"
    )


class _SafetensorsFile(Mapping[str, Tensor]):
    """Tensors of a safetensors file, each read when asked for."""

    def __init__(self, path: Path):
        self._file = safe_open(path, framework="pt")
        self._names = dict.fromkeys(self._file.keys())

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._names:
            raise KeyError(key)
        return self._file.get_tensor(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Tensors of a .safetensors or a torch file by name; their bytes are mapped, not loaded.

    Torch files are read with weights_only=True: nothing but tensors and plain containers is ever built.
    Raises CheckpointError for a damaged file or one that holds anything else.
    """
    try:
        loaded = _SafetensorsFile(path) if path.suffix == ".safetensors" else _load(path)
    except Exception as error:  # what damaged bytes make of a pickle or an archive is any exception at all
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(f"{path} cannot be read as tensors ({reason[:200]}): fetch the file again") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds {type(loaded).__name__}, expected a dictionary of tensors by name")
    if isinstance(loaded, dict):
        for name, value in loaded.items():
            if not isinstance(name, str) or not isinstance(value, Tensor):
                raise CheckpointError(f"{path} holds {type(value).__name__} as {name!r}, expected tensors by name")
    return loaded


def _load(path: Path) -> Any:
    with warnings.catch_warnings():  # torch warns of its own classes when it reads files older than torch 1.6,
        warnings.simplefilter("ignore")
        if not zipfile.is_zipfile(path):  # which are no archives and cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def load_strict(
    module: nn.Module, tensors: Mapping[str, Tensor], source: str, optional: frozenset[str] = frozenset()
) -> None:
    """Give `module`, made on the meta device, the values of `tensors`, cast to the dtypes that it has.

    Where no cast is needed the module shares the memory of `tensors`, else it has its own.
    A tensor whose name is in `optional` may be missing, and becomes zeros; it may not be misshapen.
    Raises CheckpointError naming what is missing, unexpected or misshapen in `source`.
    """
    wanted = module.state_dict()
    found = {name: tensors[name] for name in wanted if name in tensors}
    complaints = {
        "missing": [name for name in wanted if name not in found and name not in optional],
        "unexpected": sorted(set(tensors) - set(wanted)),
        "misshapen": [
            f"{name} is {tuple(value.shape)}, expected {tuple(wanted[name].shape)}"
            for name, value in found.items()
            if value.shape != wanted[name].shape
        ],
        "of another kind": [
            f"{name} is {value.dtype} {value.layout}, expected dense floating-point numbers"
            for name, value in found.items()
            if not value.is_floating_point() or value.layout != torch.strided
        ],
    }
    if any(complaints.values()):
        listed = "; ".join(f"{len(rows)} {what}: {brief(rows)}" for what, rows in complaints.items() if rows)
        raise CheckpointError(f"{source} does not fit the configuration: {listed}")
    # One tensor that is not copied would keep the whole file mapped, and the pages that were read in memory.
    copy = any(value.dtype != wanted[name].dtype for name, value in found.items())
    values = {
        name: found[name].to(like.dtype, copy=copy) if name in found else torch.zeros(like.shape, dtype=like.dtype)
        for name, like in wanted.items()
    }
    module.load_state_dict(values, assign=True)


def brief(names: Sequence[str]) -> str:
    """The first of `names`, for a complaint."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
