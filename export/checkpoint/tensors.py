"""Read files of tensors, without executing code that they contain, and load them into modules."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from export.errors import DOWNLOAD_COMMAND, CheckpointError

MAX_NAMES = 8  # in an error message
_LONGEST_NAME = 200  # characters of a name there


def find_file(folder: Path, *names: str) -> Path:
    """Find a file that can have several names.

    Args:
        folder: The directory.
        names: The names, in order of preference.

    Raises:
        CheckpointError: The directory has none of them.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(
        f"{folder} has no {' or '.join(names)}: complete the checkpoint with {DOWNLOAD_COMMAND}, "
        "or make a synthetic one with python -m export.checkpoint --preset tiny --output DIR"
    )


class _SafetensorsFile(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each read when it is accessed."""

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
    """Map the tensors of a file into memory.

    Torch files are read with `weights_only=True`, which builds only tensors and plain containers.

    Args:
        path: A .safetensors file or a torch file.

    Returns:
        The tensors by name.

    Raises:
        CheckpointError: The file is damaged, or holds anything else than tensors by name.
    """
    return named_tensors(path, load_file(path))


def load_file(path: Path) -> Any:
    """Load a file as `read_tensors` does, whatever it holds.

    Args:
        path: A .safetensors file or a torch file.

    Returns:
        The content; tensors are mapped into memory.

    Raises:
        CheckpointError: The file is damaged, or has objects other than tensors and plain containers.
    """
    try:
        return _SafetensorsFile(path) if path.suffix == ".safetensors" else _load(path)
    except pickle.UnpicklingError as error:  # torch's message recommends to load the file without this check
        named = re.search(r"GLOBAL ([\w.]{1,200})", str(error))
        found = f"it refers to {named[1]}" if named else "its pickle is damaged"
        raise CheckpointError(
            f"{path} cannot be read as tensors ({found}, and nothing of it was run): fetch the file again, or save it "
            "with tensors and plain containers alone"
        ) from error
    except Exception as error:  # damaged pickles and archives can raise any exception
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(f"{path} cannot be read as tensors ({reason[:200]}): fetch the file again") from error


def named_tensors(path: Path, loaded: Any) -> Mapping[str, Tensor]:
    """Check that the content of a file, or its `state_dict`, is tensors by name, and return them.

    Args:
        path: The file, for messages.
        loaded: The content.

    Raises:
        CheckpointError: It holds anything else.
    """
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
    with warnings.catch_warnings():  # torch warns about its own classes when it reads a file of torch < 1.6;
        warnings.simplefilter("ignore")
        if not zipfile.is_zipfile(path):  # such files are not archives and cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def load_strict(
    module: nn.Module, tensors: Mapping[str, Tensor], source: str, optional: frozenset[str] = frozenset()
) -> None:
    """Load tensors into a module, which needs all of them and no others.

    If no tensor has to be cast, the module shares their memory, otherwise it has its own.

    Args:
        module: A module on the meta device. Its dtypes are kept.
        tensors: Tensors by name.
        source: Description of the files, for error messages.
        optional: Names of tensors that may be missing; missing ones become zeros.

    Raises:
        CheckpointError: Tensors are missing, unexpected or misshapen, or are not dense floating-point numbers.
    """
    wanted = module.state_dict()
    found = {name: tensors[name] for name in wanted if name in tensors}
    problems = {
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
            if not _is_dense(value)
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{len(rows)} {what}: {first_names(rows)}" for what, rows in problems.items() if rows)
        raise CheckpointError(f"{source} does not fit the configuration: {listed}")
    # A single tensor that is not copied would keep the whole file mapped, with all its pages that were read.
    copy = any(value.dtype != wanted[name].dtype for name, value in found.items())
    values = {
        name: found[name].to(like.dtype, copy=copy) if name in found else torch.zeros(like.shape, dtype=like.dtype)
        for name, like in wanted.items()
    }
    module.load_state_dict(values, assign=True)


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Check that tensors have neither NaN nor infinity.

    Args:
        tensors: Tensors by name, dense floating-point numbers.
        source: Description of the files, for error messages.

    Raises:
        CheckpointError: A value is not finite. The message names the tensors.
    """
    if wrong := [name for name, value in tensors.items() if not _is_finite(value)]:
        raise CheckpointError(
            f"{source} has NaN or infinity in {len(wrong)} of {len(tensors)} tensors: {first_names(wrong)}; its "
            "training diverged, or the file is damaged: choose an earlier step, or fetch the file again"
        )


def _is_dense(value: Tensor) -> bool:
    """Return whether a tensor holds floating-point numbers, each in memory of its own."""
    if not value.is_floating_point() or value.layout != torch.strided:
        return False
    return (
        value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )  # else a small file is a huge tensor


def _is_finite(value: Tensor) -> bool:
    if not value.numel():
        return True
    native = value if value.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64) else value.float()
    return all(bool(bound.isfinite()) for bound in torch.aminmax(native))  # allocates nothing; NaN is both bounds


def first_names(names: Sequence[str]) -> str:
    """Join the first names of a list for an error message.

    Args:
        names: Any number of names.
    """
    return ", ".join(name[:_LONGEST_NAME] for name in names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")
