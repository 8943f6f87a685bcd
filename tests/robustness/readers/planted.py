"""Readers with planted faults of each kind, for tests of the fuzzer itself."""

from __future__ import annotations

import ctypes
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.robustness.cases import Case, Reader
from vexpress_rt.errors import InputError


class _Planted:
    """A reader with a fault on a third of the inputs; it refuses another third and accepts the rest."""

    memory = 0
    noisy = ()

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def seeds(self) -> Sequence[Case]:
        return [Case(".bin", b"seed")]

    def make(self, chance: random.Random, seeds: Sequence[Case]) -> Case:
        return Case(".bin", bytes([chance.randrange(3)]) + seeds[0].content)

    def read(self, path: Path) -> None:
        kind = path.read_bytes()[0]
        if kind == 0:
            self.fail(path)
        if kind == 1:
            raise InputError("the planted input is refused; expected another: try the next")

    def fail(self, path: Path) -> None:
        raise NotImplementedError


class _Sound(_Planted):
    def fail(self, path: Path) -> None:
        """Do nothing."""


class _Crash(_Planted):
    def fail(self, path: Path) -> None:
        ctypes.string_at(1)


class _Exit(_Planted):
    def fail(self, path: Path) -> None:
        os._exit(0)


class _Busy(_Planted):
    def fail(self, path: Path) -> None:
        while True:
            pass


class _Asleep(_Planted):
    def fail(self, path: Path) -> None:
        time.sleep(3600)


class _Hog(_Planted):
    def fail(self, path: Path) -> None:
        hog = bytearray(os.urandom(1 << 20) * 200)
        del hog


class _Foreign(_Planted):
    def fail(self, path: Path) -> None:
        raise KeyError("planted")


class _Opens(_Planted):
    def fail(self, path: Path) -> None:
        (path.parents[1] / "canary" / "secret.txt").read_bytes()


class _OpensInC(_Planted):
    def fail(self, path: Path) -> None:
        library = ctypes.CDLL(None)
        descriptor = library.open(os.fsencode(path.parents[1] / "canary" / "secret.txt"), os.O_RDONLY)
        os.close(descriptor)


class _Leaves(_Planted):
    def fail(self, path: Path) -> None:
        (path.parent / "left.part").write_bytes(b"half")


class _Prints(_Planted):
    def fail(self, path: Path) -> None:
        print("libplanted: warning: header too short", file=sys.stderr, flush=True)


class _Leaks(_Planted):
    def fail(self, path: Path) -> None:
        for _ in range(8):
            os.dup(0)


class _Talks(_Planted):
    def fail(self, path: Path) -> None:
        raise InputError("word " * 10_000)


READERS: dict[str, Callable[[Path], Reader]] = {
    "planted_none": _Sound, "planted_crash": _Crash, "planted_exit": _Exit, "planted_busy": _Busy,
    "planted_asleep": _Asleep, "planted_hog": _Hog, "planted_foreign": _Foreign, "planted_opens": _Opens,
    "planted_opens_in_c": _OpensInC, "planted_leaves": _Leaves, "planted_prints": _Prints, "planted_leaks": _Leaks,
    "planted_talks": _Talks,
}  # fmt: skip
