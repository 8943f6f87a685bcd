"""Files of tensors, read without executing anything they contain."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from export.errors import CheckpointError

SHOWN = 8  # names listed in a complaint


def find_file(folder: Path, *names: str) -> Path:
    """The first of `names` that exists in `folder`. Raises CheckpointError naming all of them."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(
        f"{folder} has no {' or '.join(names)}: complete the checkpoint directory, "
        "or make a synthetic one with python -m export.checkpoint --preset tiny --output DIR"
    )


class _SafetensorsFile(Mapping[str, Tensor]):
    """Tensors of a safetensors file, each read when asked for."""

    def __init__(self, path: Path):
        self._file = safe_open(path, framework="pt")
        self._names = list(self._file.keys())

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
        if path.suffix == ".safetensors":
            return _SafetensorsFile(path)
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:  # files older than torch 1.6 are no archives and cannot be mapped
            if "mmap" not in str(error):
                raise
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path} cannot be read as tensors ({reason[:200]}): fetch the file again") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise CheckpointError(f"{path} holds {type(loaded).__name__}, expected a dictionary of tensors by name")
    return loaded


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], source: str, optional: frozenset[str]) -> None:
    """Give `module`, made on the meta device, the values of `tensors`, cast to the dtypes that it has.

    A tensor whose name is in `optional` may be missing (it becomes zeros) or misshapen in no case.
    Raises CheckpointError naming what is missing, unexpected or misshapen in `source`.
    """
    wanted = module.state_dict()
    missing = sorted(name for name in wanted if name not in tensors and name not in optional)
    unexpected = sorted(set(tensors) - set(wanted))
    found = {name: tensors[name] for name in wanted if name in tensors}
    misshapen = [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in found
        if found[name].shape != wanted[name].shape
    ]
    complaints = [
        f"{len(rows)} {what}: {', '.join(rows[:SHOWN])}{', ...' if len(rows) > SHOWN else ''}"
        for what, rows in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if rows
    ]
    if complaints:
        raise CheckpointError(f"{source} does not fit the configuration: " + "; ".join(complaints))
    values = {
        name: found[name].to(like.dtype) if name in found else torch.zeros(like.shape, dtype=like.dtype)
        for name, like in wanted.items()
    }
    module.load_state_dict(values, assign=True)
