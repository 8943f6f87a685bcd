"""An input of the fuzzer, the interface of readers, and the names of kept files."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Case:
    """An input.

    Attributes:
        suffix: Suffix of the file name, such as ".wav".
        content: Bytes of the file.
    """

    suffix: str
    content: bytes


class Reader(Protocol):
    """One kind of input: makes seeds, makes hostile inputs from them, and reads an input as a user's call would.

    Each child process creates its reader once, with a folder of its own for other files.

    Attributes:
        memory: Least memory limit of this reader in MB.
        noisy: First bytes of files whose library prints messages on stderr that cannot be turned off.
    """

    memory: int
    noisy: tuple[bytes, ...]

    def seeds(self) -> Sequence[Case]:
        """Return well-formed inputs; they are made once and kept, because this is slow."""
        ...

    def make(self, chance: random.Random, seeds: Sequence[Case]) -> Case:
        """Return a hostile input that depends only on `chance` and `seeds`."""
        ...

    def read(self, path: Path) -> None:
        """Read the input as the package's callers do.

        It returns for an accepted input and raises an error of the package's tree for a refused one. Any other
        exception is a failure; AssertionError means that the result breaks a documented property.
        """
        ...


def chance_of(seed: int, reader: str, number: int) -> random.Random:
    """Return the random generator of one input, so that it can be made without the ones before it."""
    return random.Random(f"{seed} {reader} {number}")


def kept_name(reader: str, seed: int, number: int, suffix: str) -> str:
    """Return the file name of an input that fails; it begins with the reader."""
    return f"{reader}-{seed}-{number}{suffix}"


def reader_of(path: Path) -> str:
    """Return the reader of a kept file."""
    return path.name.partition("-")[0]
