"""One input of the fuzzer: what it is made of, and how it is kept in a file."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Case:
    """suffix: of the file's name, as `.wav`.  content: its bytes."""

    suffix: str
    content: bytes


class Reader(Protocol):
    """One kind of input: makes seeds, makes hostile inputs of them, and reads an input as a user's call would.

    A reader is made once a child process, with a folder of its own for whatever it needs beside the input.

    memory: MB that an input may take in any case, where that is more than is allowed.
    noisy: how files begin whose library prints on stderr what it finds, and cannot be asked not to.
    """

    memory: int
    noisy: tuple[bytes, ...]

    def seeds(self) -> Sequence[Case]:
        """Well-formed inputs. Slow, so that they are made once and kept."""
        ...

    def make(self, chance: random.Random, seeds: Sequence[Case]) -> Case:
        """A hostile input. Depends on `chance` and `seeds` alone."""
        ...

    def read(self, path: Path) -> None:
        """Read the input as the package's callers do.

        Returns for an input that is taken, raises an error of the package's tree for one that is refused. Any other
        exception is a failure; AssertionError says that what was read breaks a promise.
        """
        ...


def chance_of(seed: int, reader: str, number: int) -> random.Random:
    """The randomness of one input, so that it can be made again without those before it."""
    return random.Random(f"{seed} {reader} {number}")


def kept_name(reader: str, seed: int, number: int, suffix: str) -> str:
    """File name of an input that failed: the reader can be told from it."""
    return f"{reader}-{seed}-{number}{suffix}"


def reader_of(path: Path) -> str:
    """The reader that a kept file is for."""
    return path.name.partition("-")[0]
