"""A process that meets a bundle whose plans do not fit, as a program of its own:

    python -m tests.support.rebuilder FOLDER TARGET [LAST WORDS]

Its GPU is a fake. With the target tensorrt plans are words; with tensorrt-rtx they are compiled for real. It says
"ready", waits for a line, and prints which engines it compiled. LAST WORDS is Python that is run before each engine is
written.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from tests.doubles.fake_cuda import FakeCuda
from tests.doubles.fake_tensorrt import FakeTensorRT
from tests.support.compiled import FakeBuilder
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.tensorrt import compiler
from vexpress_rt.backends.tensorrt.library import Library
from vexpress_rt.backends.tensorrt.plan_store import find_plans
from vexpress_rt.bundle.bundle import Bundle


def main(folder: str, target: str, last_words: str = "") -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    runtime._runtime = FakeCuda()
    built: list[str] = []
    build: Any = compiler.build_engine
    if target == "tensorrt":
        build = FakeBuilder()
        sys.modules["tensorrt"] = FakeTensorRT(runtime._runtime)  # type: ignore[assignment]
        Library.polygraphy = Library.collect  # type: ignore[assignment, method-assign] # any context will do

    def building(onnx: Any, spec: Any, *arguments: Any) -> Any:
        exec(last_words, {"name": spec.name, "folder": folder})
        built.append(spec.name)
        return build(onnx, spec, *arguments)

    compiler.build_engine = building
    bundle = Bundle.open(folder)
    print("ready", flush=True)
    sys.stdin.readline()
    find_plans(bundle)
    print(*built, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
