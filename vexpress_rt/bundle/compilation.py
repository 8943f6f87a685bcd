"""What TensorRT made of a bundle's graphs, on which machine and with which options: a record of the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from reprlib import repr as brief
from typing import Any

from vexpress_rt.bundle.untrusted_json import malformed, record

TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}  # the libraries, by target
PORTABLE = "portable"
PLAN = ".plan"  # what the names of plans end with, and of nothing else in a bundle
_AMPERE = (8, 0)  # the compute capability from which on TensorRT's portable plans run
COMPILATIONS_LIMIT = 16  # of a bundle; each may take as much disk as the weights
TEXT_LIMIT = 4096  # characters
_KINDS: dict[str, type] = {
    "library": str, "version": str, "gpu": str, "capability": str, "options": str, "options_sha256": str, "plans": dict,
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """What plans have to fit: a version of their library, and a GPU's name and compute capability, as "9.0"."""

    version: str
    gpu: str
    capability: str


@dataclass(frozen=True, kw_only=True)
class Compilation:
    """Plans: the files that a TensorRT library runs.

    library: the target, `tensorrt` or `tensorrt-rtx`.  version: of the library; no other version reads its plans.
    gpu: the name of the GPU, or PORTABLE where plans run on others, too.  capability: its compute capability, as "9.0";
    empty where portable.
    options: of the compiler, as JSON text.
    plans: file by engine, for some or all of the bundle's engines.
    """

    library: str
    version: str
    gpu: str
    capability: str
    options: str
    plans: Mapping[str, str] = field(default_factory=dict)

    @property
    def options_sha256(self) -> str:
        """Of the text of the options: 64 hexadecimal digits."""
        return _sha256(self.options)

    @property
    def key(self) -> str:
        """8 hexadecimal digits of everything but the plans."""
        return _sha256("\n".join([self.library, self.version, self.gpu, self.capability, self.options_sha256]))[:8]

    def plan_name(self, engine: str) -> str:
        """The file for an engine's plan. Those of several compilations can lie side by side."""
        return f"{engine}.{self.key}{PLAN}"

    def fits(self, machine: Machine) -> bool:
        """Whether its plans run there. That of another GPU of the same capability is not tried: NVIDIA warns of it."""
        if self.version != machine.version:
            return False
        if self.gpu != PORTABLE:
            return (self.gpu, self.capability) == (machine.gpu, machine.capability)
        return self.library != "tensorrt" or tuple(map(int, machine.capability.split("."))) >= _AMPERE

    def describe(self) -> str:
        """For whom they are, in words: `NVIDIA H100 (9.0), TensorRT 11.4.0`."""
        gpu = f"{self.gpu} ({self.capability})"
        if self.gpu == PORTABLE:
            gpu = "GPUs from Ampere (8.0) on" if self.library == "tensorrt" else "RTX GPUs"
        return f"{gpu}, {TITLES[self.library]} {self.version}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values. The hash of the options is among them, for whoever compares bundles."""
        return {**asdict(self), "options_sha256": self.options_sha256}

    @classmethod
    def from_json(cls, data: object, where: str = "a compilation") -> Compilation:
        """The inverse of `to_json`. Raises BundleDamagedError saying what is wrong in `where`."""
        values = record(data, where, _KINDS)
        digest = values.pop("options_sha256")
        for name, text in values.items():
            if name != "plans" and len(text) > TEXT_LIMIT:
                malformed(f"{where} has a {name} of {len(text)} characters; expected at most {TEXT_LIMIT}")
            if name != "plans" and not text.isprintable():  # it is shown on terminals
                malformed(f"{where} has {name} = {brief(text)}; expected text that can be printed")
        if values["library"] not in TITLES:
            malformed(f"{where} has library = {brief(values['library'])}; expected {' or '.join(TITLES)}")
        result = cls(**values)
        if result.options_sha256 != digest:
            malformed(f"{where} has options of the sha256 {result.options_sha256}; expected {brief(digest)}")
        for engine, plan in result.plans.items():  # under another name it could lie where one of another machine has to
            if plan != result.plan_name(engine):
                malformed(f"{where} has the plan {brief(plan)}; expected {brief(result.plan_name(engine))}")
        return result


def with_newest(compiled: Iterable[Compilation], newest: Compilation) -> tuple[Compilation, ...]:
    """`newest` behind others, in the place of an older one of its key. The oldest make room for it."""
    others = [one for one in compiled if one.key != newest.key]
    return (*others[1 - COMPILATIONS_LIMIT :], newest)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
