"""Small engines, built and run for real on a GPU, in a process of their own: Polygraphy serves one library in each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.support.onnx_graphs import FLOAT, save_attention, save_open, save_relu
from tests.support.paths import ROOT
from vexpress_rt.backends.cuda.executor import Executor
from vexpress_rt.backends.onnxruntime import engine as onnxruntime
from vexpress_rt.backends.tensorrt import engine as tensorrt
from vexpress_rt.backends.tensorrt import library as tensorrt_library
from vexpress_rt.backends.tensorrt.builder import build_engine
from vexpress_rt.backends.tensorrt.options import EngineOptions, Range


def start(target: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`check` in a new process; fails with it."""
    command = [sys.executable, "-m", "tests.support.real_engines", target, str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def check(target: str, folder: Path) -> None:
    """Build engines in a folder, run them on the GPU, and hold them against ONNX Runtime's CPU."""
    library, rng = tensorrt_library.load(target), np.random.default_rng(0)
    options = EngineOptions(ranges={"N": Range(2, 100, 1000)})
    specs = {"relu": save_relu(folder / "relu.onnx"), "open": save_open(folder / "open.onnx", "N")}
    specs["attention"] = save_attention(folder / "attention.onnx", FLOAT, 32)
    with Executor() as executor:
        for name, spec in specs.items():
            build_engine(folder / f"{name}.onnx", spec, folder / f"{name}.engine", library, options)
            with (
                tensorrt.load(folder / f"{name}.engine", spec, target=target, executor=executor) as engine,
                onnxruntime.load(folder / f"{name}.onnx", spec) as reference,
            ):
                for count in (10, 10, 10, 1000):
                    shapes = {t.name: tuple(count if size is None else size for size in t.shape) for t in spec.inputs}
                    inputs = {n: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}
                    kept, expected = engine.run(inputs, keep_on_device=True), reference.run(inputs)
                    for output, tensor in kept.items():
                        assert not isinstance(tensor, np.ndarray)
                        np.testing.assert_allclose(tensor.numpy(), expected[output], rtol=1e-2, atol=1e-2)


if __name__ == "__main__":
    check(sys.argv[1], Path(sys.argv[2]))
