"""How much faster the denoiser engine is than PyTorch in eager mode running upstream's algorithm, on the CPU.

    python -m benchmarks.cpu.denoiser --preset half --threads 2 --rounds 9

Same weights, same inputs, 128 x 128 pixels, windows of 8 frames, both halves of guidance: one call each in turn, in one
process. Prints medians of wall-clock and of processor time (with one thread the latter hardly depends on what else the
machine does), and how far the results differ.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.cpu.upstream import UpstreamDenoiser
from export.architecture import Architecture
from export.engines import make_engine
from export.graph import WeightsFile
from export.models.denoising_unet import DenoisingUNet, reference_keys_values
from export.networks import NETWORKS
from export.parity import random_inputs, relative_error
from export.pocket.architecture import POCKET
from export.presets import PRESETS
from export.to_onnx import to_onnx
from vexpress_rt.backends import Array
from vexpress_rt.backends.onnxruntime import load
from vexpress_rt.specs import VideoShape, engine_specs

Call = Callable[[], list[Array]]
SHAPE = VideoShape(128, 128, 8)
WARM_UP = 2  # calls of each that do not count


def calls(architecture: Architecture, threads: int, folder: Path) -> dict[str, Call]:
    """What to compare, the baseline first: each gives the unconditional and the conditional prediction."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    unet = NETWORKS["denoising_unet"](architecture).eval()
    assert isinstance(unet, DenoisingUNet)
    spec = engine_specs(architecture.model_config(), SHAPE)["denoiser"]
    to_onnx(
        make_engine(spec, {"denoising_unet": unet}, torch.float32),
        folder / "denoiser.onnx",
        WeightsFile(folder / "denoiser.weights"),
    )
    engine = load(folder / "denoiser.onnx", spec, threads=threads)
    inputs = dict(zip((t.name for t in spec.inputs), random_inputs(spec), strict=True))
    common = [torch.from_numpy(x) for name, x in inputs.items() if "/" not in name]
    keys = {name.partition("/")[2]: x for name, x in inputs.items() if name.startswith("reference_key/")}
    features = {name: torch.randn(1, k.shape[1], k.shape[0] * k.shape[2]) for name, k in keys.items()}
    with torch.inference_mode():
        for name, (key, value) in reference_keys_values(unet, features).items():
            inputs[f"reference_key/{name}"] = key.contiguous().numpy()
            inputs[f"reference_value/{name}"] = value.contiguous().numpy()
    upstream = UpstreamDenoiser(unet)

    def eager() -> list[Array]:
        with torch.inference_mode():
            return [x.numpy() for x in upstream(*common, features)]

    return {"PyTorch, eager, upstream's way": eager, "engine": lambda: list(engine.run(inputs).values())}


def measure(made: dict[str, Call], rounds: int) -> None:
    """Run all in turn, and print."""
    results = {name: call() for name, call in made.items()}
    first, *others = results.values()
    error = max(relative_error(a, b) for other in others for a, b in zip(other, first, strict=True))
    walls: dict[str, list[float]] = {name: [] for name in made}
    busy: dict[str, list[float]] = {name: [] for name in made}
    for index in range(1 - WARM_UP, rounds):
        for name, call in made.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            if index >= 0:
                walls[name].append(time.perf_counter() - wall)
                busy[name].append(time.process_time() - cpu)
    base = next(iter(made))
    for name in made:
        wall, cpu = statistics.median(walls[name]), statistics.median(busy[name])
        print(
            f"{name:32} {wall * 1e3:9.1f} ms, x {statistics.median(walls[base]) / wall:.2f}; processor time "
            f"{cpu * 1e3:9.1f} ms, x {statistics.median(busy[base]) / cpu:.2f}"
        )
    ratios = np.array(walls[base]) / np.array(walls[list(made)[-1]])
    print(
        f"pairs: x {np.median(ratios):.2f} (quartiles {np.quantile(ratios, 0.25):.2f}, {np.quantile(ratios, 0.75):.2f})"
    )
    print(f"largest difference over the largest value: {error:.1e}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare the denoiser engine with eager PyTorch on the CPU.")
    presets = {**PRESETS, "pocket": POCKET}
    parser.add_argument("--preset", choices=sorted(presets), default="half")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        measure(calls(presets[options.preset], options.threads, Path(folder)), options.rounds)


if __name__ == "__main__":
    main()
