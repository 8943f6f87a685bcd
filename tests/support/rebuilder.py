"""A command that opens a bundle whose plans do not fit its stand-in GPU, and ends gracefully on signals:

    python -m tests.support.rebuilder FOLDER TARGET [HOOK]

For the target tensorrt, plans are text files; for tensorrt-rtx they are compiled. The command prints "ready", waits for
a line, compiles the plans, and prints the names of the compiled engines. HOOK is Python code that runs before each
engine is written.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from tests.doubles.fake_builder import FakeBuilder
from tests.doubles.fake_cuda import FakeCuda
from tests.doubles.fake_tensorrt import FakeTensorRT
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.tensorrt import builder
from vexpress_rt.backends.tensorrt.library import Library
from vexpress_rt.backends.tensorrt.plan_store import find_plans
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.utils.signals import GracefulShutdown, Interrupted


def main(folder: str, target: str, hook: str = "") -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    runtime._runtime = FakeCuda()
    built: list[str] = []
    build: Any = builder.build_engine
    if target == "tensorrt":
        build = FakeBuilder()
        sys.modules["tensorrt"] = FakeTensorRT(runtime._runtime)  # type: ignore[assignment]
        Library.polygraphy = Library.collect  # type: ignore[assignment, method-assign] # any context will do

    def building(onnx: Any, spec: Any, *arguments: Any) -> Any:
        exec(hook, {"name": spec.name, "folder": folder})
        built.append(spec.name)
        return build(onnx, spec, *arguments)

    builder.build_engine = building
    bundle = Bundle.open(folder)
    print("ready", flush=True)
    sys.stdin.readline()
    with GracefulShutdown():
        find_plans(bundle)
    print(*built, flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Interrupted:
        raise SystemExit(130) from None
