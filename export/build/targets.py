"""The default target of a build: the best one that this machine can build and run."""

from __future__ import annotations

from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.tensorrt import library as tensorrt_library
from vexpress_rt.backends.tensorrt.library import Library
from vexpress_rt.bundle.engine_spec import ONLY_TENSORRT
from vexpress_rt.bundle.target import COMPILED_TARGETS, ONNXRUNTIME, TENSORRT_RTX
from vexpress_rt.errors import BackendError, BackendMissingError, ConfigError


def best_target(precision: str) -> tuple[str, str]:
    """Choose a target that can be built here and that this machine runs best.

    The order is TensorRT on a GPU that it supports, TensorRT for RTX, ONNX Runtime. Without a GPU the choice is ONNX
    Runtime, although TensorRT for RTX could compile plans: they would not run here. Only TensorRT computes in bfloat16,
    so for that precision the choice is any library that compiles here.

    Args:
        precision: A key of `PRECISIONS`.

    Returns:
        The target, and the reason for it.

    Raises:
        ConfigError: No library here builds engines of that precision.
    """
    libraries, reasons = _libraries()
    try:
        runtime.check()
        name, capability = runtime.name_and_capability()
    except BackendError as error:
        return _without_gpu(precision, libraries, str(error).rpartition(": ")[0])  # without the remedy
    gpu = f"{name} ({capability[0]}.{capability[1]})"
    for library in libraries:
        if library.is_made_for(capability):
            return library.target, f"{library.name} and {gpu} found"
    reasons += [f"{library.name} is not made for it" for library in libraries]
    if precision == ONLY_TENSORRT:
        return _bfloat16_target(libraries, f"{gpu} found, but {'; '.join(reasons)}")
    return ONNXRUNTIME.name, f"{gpu} found, but {'; '.join(reasons)}"


def _without_gpu(precision: str, libraries: list[Library], reason: str) -> tuple[str, str]:
    elsewhere = [library for library in libraries if library.builds_without_gpu]
    if precision == ONLY_TENSORRT:
        return _bfloat16_target(libraries, reason)
    hint = f"; --target {elsewhere[0].target} compiles for RTX GPUs elsewhere" if elsewhere else ""
    return ONNXRUNTIME.name, reason + hint


def _bfloat16_target(libraries: list[Library], reason: str) -> tuple[str, str]:
    for library in libraries:
        if library.builds_without_gpu:
            return library.target, f"{library.name} builds bfloat16 for other machines; {reason}"
    raise ConfigError(
        f"precision is {ONLY_TENSORRT}, which TensorRT alone computes in, and no library here builds it ({reason}): "
        f"install `vexpress-rt[{TENSORRT_RTX.name}]`, or choose another --precision"
    )


def _libraries() -> tuple[list[Library], list[str]]:
    """Return the libraries that build on this machine, the best first, and the reasons against the others."""
    found, reasons = [], []
    for target in COMPILED_TARGETS:
        try:
            found.append(tensorrt_library.builder(target))
        except BackendMissingError as error:
            reasons.append(str(error))
    return found, reasons
