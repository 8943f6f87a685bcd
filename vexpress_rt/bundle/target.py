"""The targets of a build: the libraries that run the engines of a bundle, and how they differ."""

from __future__ import annotations

from dataclasses import dataclass

from vexpress_rt.bundle.engine_spec import ONLY_TENSORRT, PRECISIONS
from vexpress_rt.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Target:
    """A library that engines are built for.

    Attributes:
        name: The name in manifests and options.
        title: The display name.
        compiled: Whether the library runs plans that are compiled from the ONNX files, and not the ONNX files.
        precisions: The precisions that it computes in, keys of `PRECISIONS`.
        sines_as_input: Whether the denoisers take the sinusoidal timestep embedding as an input: a library that
            reduces the precision of whole graphs would compute the sines of rounded angles.
        builds_without_gpu: Whether a machine without a GPU can build the engines. Plans that are built so are portable.
        portable_gpus: Description of the GPUs that run portable plans; empty for a library without plans.
        portable_minimum: The lowest compute capability that runs portable plans; None for no such limit.
    """

    name: str
    title: str
    compiled: bool
    precisions: tuple[str, ...]
    builds_without_gpu: bool
    sines_as_input: bool = False
    portable_gpus: str = ""
    portable_minimum: tuple[int, int] | None = None

    def runs_portable_plans(self, capability: str) -> bool:
        """Return whether a GPU of a compute capability, such as "9.0", runs portable plans."""
        return self.portable_minimum is None or tuple(map(int, capability.split("."))) >= self.portable_minimum


ONNXRUNTIME = Target(
    name="onnxruntime",
    title="ONNX Runtime",
    compiled=False,
    precisions=tuple(precision for precision in PRECISIONS if precision != ONLY_TENSORRT),
    builds_without_gpu=True,
)
OPENVINO = Target(
    name="openvino",
    title="OpenVINO",
    compiled=False,
    precisions=("fp32",),
    builds_without_gpu=True,
    sines_as_input=True,
)
TENSORRT = Target(
    name="tensorrt",
    title="TensorRT",
    compiled=True,
    precisions=tuple(PRECISIONS),
    builds_without_gpu=False,
    portable_gpus="GPUs from Ampere (8.0) on",
    portable_minimum=(8, 0),
)
TENSORRT_RTX = Target(
    name="tensorrt-rtx",
    title="TensorRT for RTX",
    compiled=True,
    precisions=tuple(PRECISIONS),
    builds_without_gpu=True,
    portable_gpus="RTX GPUs",
)
# The preferred compiler first.
TARGETS = {target.name: target for target in (ONNXRUNTIME, OPENVINO, TENSORRT, TENSORRT_RTX)}
COMPILED_TARGETS = tuple(name for name, target in TARGETS.items() if target.compiled)


def check_precision(precision: str, target: str) -> None:
    """Check that engines of a precision can be built for a target.

    Args:
        precision: A key of `PRECISIONS`.
        target: A key of `TARGETS`.

    Raises:
        ConfigError: They cannot.
    """
    if precision not in TARGETS[target].precisions:
        expected = " or ".join(TARGETS[target].precisions)
        others = ", ".join(name for name, other in TARGETS.items() if precision in other.precisions)
        raise ConfigError(
            f"precision is {precision} with the target {target}; expected {expected} with it, or {precision} with one "
            f"of the targets {others}: choose another --precision or --target"
        )
