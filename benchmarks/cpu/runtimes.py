"""The compared ways of computing a model, by their names in the report's JSON."""

from __future__ import annotations

from dataclasses import dataclass

from vexpress_rt.pipeline.generator import Generator
from vexpress_rt.utils.cpu_model import CpuModel

PYTORCH, AUTOCAST = "pytorch", "pytorch bf16"
CPU, OPENVINO, OPENVINO_BF16 = "cpu", "openvino", "openvino bf16"
FAST = "cpu, fast"  # the provider `cpu` with the preset `fast`
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # on x86 and, the last, on ARM
AMX = "amx_bf16"


@dataclass(frozen=True)
class Runtime:
    """The provider and the precision of a `Generator`."""

    provider: str
    precision: str | None = None


RUNTIMES = {CPU: Runtime("cpu"), OPENVINO: Runtime("openvino", "fp32"), OPENVINO_BF16: Runtime("openvino", "bf16")}
TITLES = {
    PYTORCH: "PyTorch, fp32",
    AUTOCAST: "PyTorch, bf16 autocast",
    CPU: "`cpu`",
    FAST: "`cpu`, preset `fast`",
    OPENVINO: "`openvino`, fp32",
    OPENVINO_BF16: "`openvino`, bf16",
}  # in the order of the tables


def has_bf16(cpu: CpuModel) -> bool:
    """Return whether a CPU has bfloat16 arithmetic; without it, PyTorch's autocast is slower than float32."""
    return bool(BF16_FLAGS & cpu.flags)


def described_precision(generator: Generator) -> str:
    """Return the precision that a generator says it has, which a failed self-test of reduced precision changes."""
    lines = generator.describe().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("precision:"))
