"""The model of this machine's CPU, a part of the keys of measurements and cached results."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vexpress_rt.utils.control_groups import read_text

_IMPLEMENTERS = {
    "0x41": "Arm",
    "0x48": "HiSilicon",
    "0x4e": "NVIDIA",
    "0x51": "Qualcomm",
    "0x61": "Apple",
    "0xc0": "Ampere",
}
_OMITTED = re.compile(r"\((?:R|TM|tm)\)|@.*|\bCPU\b|\b(?:\d+-Core )?Processor\b")
_WINDOWS = re.compile(r"Family (\d+) Model (\d+) Stepping (\d+)(?:, (\w+))?")


@dataclass(frozen=True)
class CpuModel:
    """A model of CPU.

    Attributes:
        name: The name that the CPU or the hypervisor gives, such as "AMD EPYC"; the architecture if there is none.
        vendor: The vendor, such as "AuthenticAMD"; empty if unknown.
        family: The family (on ARM the architecture's version); None if unknown.
        model: The model (on ARM the part number); None if unknown.
        stepping: The stepping (on ARM the revision); None if unknown.
        flags: Instruction sets and features by their names in Linux, such as "avx512_bf16"; empty where the system does
            not list them, which does not mean that the CPU has none.
    """

    name: str
    vendor: str = ""
    family: int | None = None
    model: int | None = None
    stepping: int | None = None
    flags: frozenset[str] = frozenset()

    def describe(self) -> str:
        """Return the CPU's display name, such as "AMD EPYC, family 25 model 17".

        Names alone do not tell CPUs apart: a hypervisor can name several generations "AMD EPYC".
        """
        labelled = (("family", self.family), ("model", self.model))
        numbers = [f"{label} {number}" for label, number in labelled if number is not None]
        return f"{self._short_name()}, {' '.join(numbers)}" if numbers else self._short_name()

    @property
    def key(self) -> str:
        """A hash of all attributes in 16 hexadecimal digits, for names of caches."""
        parts = (self.name, self.vendor, self.family, self.model, self.stepping, sorted(self.flags))
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    @property
    def slug(self) -> str:
        """The description as the name of a folder, such as "amd-epyc-family-25-model-17"."""
        return re.sub(r"[^a-z0-9]+", "-", self.describe().lower()).strip("-")

    def _short_name(self) -> str:
        return " ".join(_OMITTED.sub(" ", self.name).split()) or self.name


def cpu_model(root: Path = Path("/")) -> CpuModel:
    """Return the model of this machine's CPU.

    On Linux it is the first CPU of /proc/cpuinfo; elsewhere, and for entries that the file lacks, Python's `platform`.

    Args:
        root: The folder that contains /proc.
    """
    entries = _first_cpu(read_text(root / "proc/cpuinfo"))
    if "vendor_id" in entries or "model name" in entries:
        return CpuModel(
            name=entries.get("model name") or platform.machine() or "unknown CPU",
            vendor=entries.get("vendor_id", ""),
            family=_number(entries.get("cpu family")),
            model=_number(entries.get("model")),
            stepping=_number(entries.get("stepping")),
            flags=frozenset(entries.get("flags", "").split()),
        )
    if "cpu implementer" in entries:
        vendor = _IMPLEMENTERS.get(entries["cpu implementer"].lower(), f"implementer {entries['cpu implementer']}")
        return CpuModel(
            name=f"{vendor} {platform.machine()}".strip(),
            vendor=vendor,
            family=_number(entries.get("cpu architecture")),
            model=_number(entries.get("cpu part")),
            stepping=_number(entries.get("cpu revision")),
            flags=frozenset(entries.get("features", "").split()),
        )
    return _from_platform()


def _first_cpu(text: str) -> Mapping[str, str]:
    """Return the first CPU's entries in /proc/cpuinfo, with their names in lower case."""
    entries: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if not line.strip() and entries:
            break
        if colon:
            entries.setdefault(name.strip().lower(), value.strip())
    return entries


def _number(text: str | None) -> int | None:
    """Return a decimal or hexadecimal number; None for anything else, such as "unknown"."""
    try:
        return int(text or "", 0)
    except ValueError:
        return None


def _from_platform() -> CpuModel:
    """Return what Python knows: on Windows "Intel64 Family 6 Model 143 Stepping 8, GenuineIntel"."""
    text = platform.processor()
    if found := _WINDOWS.search(text):
        family, model, stepping = map(int, found.groups()[:3])
        name = text[: found.start()].strip() or platform.machine()
        return CpuModel(name, found[4] or "", family, model, stepping)
    return CpuModel(platform.machine() or text or "unknown CPU")
