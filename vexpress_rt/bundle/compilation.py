"""The record of compiled plans in a manifest: the machine, the options and the files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from reprlib import repr as brief
from typing import Any

from vexpress_rt.bundle.target import COMPILED_TARGETS, TARGETS
from vexpress_rt.bundle.untrusted_json import malformed, record

PORTABLE = "portable"
PLAN = ".plan"  # suffix of plans, and of no other files of a bundle
COMPILATIONS_LIMIT = 16  # per bundle; each can take as much disk space as the weights
TEXT_LIMIT = 4096  # characters
_KINDS: dict[str, type] = {
    "library": str, "version": str, "gpu": str, "capability": str, "options": str, "options_sha256": str, "plans": dict,
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """A machine that runs plans.

    Attributes:
        version: Version of the TensorRT library.
        gpu: Name of the GPU.
        capability: Its compute capability, such as "9.0".
    """

    version: str
    gpu: str
    capability: str


@dataclass(frozen=True, kw_only=True)
class Compilation:
    """Plans of one compilation: the files that a TensorRT library runs.

    Attributes:
        library: The target, `tensorrt` or `tensorrt-rtx`.
        version: Version of the library. Other versions cannot read the plans.
        gpu: Name of the GPU, or PORTABLE for plans that run on other GPUs as well.
        capability: Compute capability of the GPU, such as "9.0"; empty for portable plans.
        options: Options of the compiler, as JSON text.
        plans: File name by engine, for some or all of the bundle's engines.
    """

    library: str
    version: str
    gpu: str
    capability: str
    options: str
    plans: Mapping[str, str] = field(default_factory=dict)

    @property
    def options_sha256(self) -> str:
        """The sha256 of the options: 64 hexadecimal digits."""
        return _sha256(self.options)

    @property
    def key(self) -> str:
        """8 hexadecimal digits that identify the compilation: a hash of everything but the plans."""
        return _sha256("\n".join([self.library, self.version, self.gpu, self.capability, self.options_sha256]))[:8]

    def plan_name(self, engine: str) -> str:
        """Return the file name of an engine's plan, which differs between compilations."""
        return f"{engine}.{self.key}{PLAN}"

    def fits(self, machine: Machine) -> bool:
        """Return whether the plans run on a machine.

        Plans of another GPU with the same compute capability do not count: NVIDIA advises against running them.

        Args:
            machine: The version and the GPU, from `builder.describe_machine`.
        """
        if self.version != machine.version:
            return False
        if self.gpu != PORTABLE:
            return (self.gpu, self.capability) == (machine.gpu, machine.capability)
        return TARGETS[self.library].runs_portable_plans(machine.capability)

    def describe(self) -> str:
        """Return the machine as text: `NVIDIA H100 (9.0), TensorRT 11.4.0`."""
        library = TARGETS[self.library]
        gpu = library.portable_gpus if self.gpu == PORTABLE else f"{self.gpu} ({self.capability})"
        return f"{gpu}, {library.title} {self.version}"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with the hash of the options, which makes bundles easy to compare."""
        return {**asdict(self), "options_sha256": self.options_sha256}

    @classmethod
    def from_json(cls, data: object, where: str = "a compilation") -> Compilation:
        """Read the result of `to_json`.

        Args:
            data: The parsed JSON.
            where: Its place in the manifest, for messages.

        Raises:
            BundleDamagedError: The data is malformed; the message names the fault.
        """
        values = record(data, where, _KINDS)
        digest = values.pop("options_sha256")
        for name, text in values.items():
            if name != "plans" and len(text) > TEXT_LIMIT:
                malformed(f"{where} has a {name} of {len(text)} characters; expected at most {TEXT_LIMIT}")
            if name != "plans" and not text.isprintable():  # it is shown on terminals
                malformed(f"{where} has {name} = {brief(text)}; expected text that can be printed")
        if values["library"] not in COMPILED_TARGETS:
            malformed(f"{where} has library = {brief(values['library'])}; expected {' or '.join(COMPILED_TARGETS)}")
        result = cls(**values)
        if result.options_sha256 != digest:
            malformed(f"{where} has options of the sha256 {result.options_sha256}; expected {brief(digest)}")
        for engine, plan in result.plans.items():  # another name could be that of another compilation's plan
            if plan != result.plan_name(engine):
                malformed(f"{where} has the plan {brief(plan)}; expected {brief(result.plan_name(engine))}")
        return result


def with_newest(compiled: Iterable[Compilation], newest: Compilation) -> tuple[Compilation, ...]:
    """Append a compilation to those of a manifest.

    Args:
        compiled: The compilations so far, the newest last.
        newest: The compilation to append. It replaces one with the same key.

    Returns:
        The newest `COMPILATIONS_LIMIT` compilations, the newest last.
    """
    others = [one for one in compiled if one.key != newest.key]
    return (*others[1 - COMPILATIONS_LIMIT :], newest)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
