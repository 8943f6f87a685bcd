"""The compared ways of computing a model, by their names in the report's JSON."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vexpress_rt.errors import VExpressError
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


def open_generators(
    bundle: Path | None, names: Iterable[str], threads: int, stack: ExitStack
) -> tuple[dict[str, Generator], dict[str, str]]:
    """Open a generator for each of RUNTIMES that this machine can run.

    Args:
        bundle: The bundle; None for the one that ships.
        names: Names in RUNTIMES.
        threads: CPU threads.
        stack: Closes the generators.

    Returns:
        Generators by name, and the reasons of those that are missing.

    Raises:
        VExpressError: The provider `cpu` cannot open the bundle.
    """
    generators, missing = dict[str, Generator](), dict[str, str]()
    for name in names:
        try:
            provider, precision = RUNTIMES[name].provider, RUNTIMES[name].precision
            generator = Generator(bundle, provider=provider, precision=precision, threads=threads)
            generators[name] = stack.enter_context(generator)
        except VExpressError as error:
            if name == CPU:
                raise
            missing[name] = str(error)
    return generators, missing


def has_bf16(cpu: CpuModel) -> bool:
    """Return whether a CPU has bfloat16 arithmetic; without it, PyTorch's autocast is slower than float32."""
    return bool(BF16_FLAGS & cpu.flags)


def described_precision(generator: Generator) -> str:
    """Return the precision that a generator says it has, which a failed self-test of reduced precision changes."""
    lines = generator.describe().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("precision:"))
