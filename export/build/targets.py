"""What to build for where nobody said: the best target that this machine can build."""

from __future__ import annotations

from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.tensorrt import library as tensorrt_library
from vexpress_rt.backends.tensorrt.library import Library
from vexpress_rt.bundle.engine_spec import ONLY_TENSORRT, TARGETS
from vexpress_rt.errors import BackendError, BackendMissingError, ConfigError


def best_target(precision: str) -> tuple[str, str]:
    """The target for engines of a precision, and why that, for people.

    It is one that can be built here, and that the same machine runs best: TensorRT on a GPU that it is made for, then
    TensorRT for RTX, else ONNX Runtime. Without a GPU that is ONNX Runtime although TensorRT for RTX could compile
    plans: they would not run here. bfloat16 is for TensorRT alone: for that, whatever compiles will do.

    Raises ConfigError where nothing here builds engines of that precision.
    """
    libraries, lacks = _libraries()
    try:
        runtime.check()
        name, capability = runtime.name_and_capability()
    except BackendError as error:
        return _without_gpu(precision, libraries, str(error).rpartition(": ")[0])  # less the remedy: all is well
    gpu = f"{name} ({capability[0]}.{capability[1]})"
    for library in libraries:
        if library.is_made_for(capability):
            return library.target, f"{library.name} and {gpu} found"
    lacks += [f"{library.name} is not made for it" for library in libraries]
    if precision == ONLY_TENSORRT:
        return _narrow(libraries, f"{gpu} found, but {'; '.join(lacks)}")
    return TARGETS[0], f"{gpu} found, but {'; '.join(lacks)}"


def _without_gpu(precision: str, libraries: list[Library], why: str) -> tuple[str, str]:
    elsewhere = [library for library in libraries if library.builds_without_gpu]
    if precision == ONLY_TENSORRT:
        return _narrow(libraries, why)
    hint = f"; --target {elsewhere[0].target} compiles for RTX GPUs elsewhere" if elsewhere else ""
    return TARGETS[0], why + hint


def _narrow(libraries: list[Library], why: str) -> tuple[str, str]:
    for library in libraries:
        if library.builds_without_gpu:
            return library.target, f"{library.name} builds bfloat16 for other machines; {why}"
    raise ConfigError(
        f"precision is {ONLY_TENSORRT}, which TensorRT alone computes in, and nothing here builds for that ({why}): "
        f"install `vexpress-rt[{TARGETS[2]}]`, or choose another --precision"
    )


def _libraries() -> tuple[list[Library], list[str]]:
    """Those that build on this machine, the best first; and what keeps the others from it."""
    found, lacks = [], []
    for target in TARGETS[1:]:
        try:
            found.append(tensorrt_library.builder(target))
        except BackendMissingError as error:
            lacks.append(str(error))
    return found, lacks
