"""Build a bundle: `python -m export.build --weights DIR --precision fp32 --output engines/NAME`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from export.build.builder import build
from export.build.options import BuildOptions
from export.build.targets import best_target
from export.checkpoint.trained_files import COMPONENTS, STAGES, TrainingChoice
from export.command import print_progress, run
from vexpress_rt.backends.tensorrt.options import EngineOptions
from vexpress_rt.bundle.engine_spec import PRECISIONS, VideoShape
from vexpress_rt.bundle.target import TARGETS
from vexpress_rt.errors import ConfigError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Command-line arguments; None for those of the process.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m export.build", description="Build a bundle of engines.")
    parser.add_argument(
        "--weights", type=Path, default=Path("model_ckpts"), help="checkpoint directory (default: model_ckpts)"
    )
    parser.add_argument(
        "--output", type=Path, help="folder of the bundle (default: engines/ and a name made of the options)"
    )
    parser.add_argument(
        "--precision",
        choices=list(PRECISIONS),
        default="fp32",
        help="precision of weights and activations (default: fp32)",
    )
    text = "library that will run the engines (default: the best that this machine can build and run)"
    parser.add_argument("--target", choices=tuple(TARGETS), help=text)
    parser.add_argument("--height", type=int, default=512, help="height of the videos in pixels (default: 512)")
    parser.add_argument("--width", type=int, default=512, help="width of the videos in pixels (default: 512)")
    parser.add_argument("--frames", type=int, default=24, help="frames of a context window (default: 24)")
    parser.add_argument("--engine", nargs="+", default=[], metavar="NAME", help="build only these and keep the others")
    parser.add_argument("--allow-odd-sizes", action="store_true", help="allow any multiple of a VAE cell as a size")
    text = "store fp32 weights that float16 holds exactly as float16, for the same results from a smaller bundle"
    parser.add_argument("--compact", action="store_true", help=text)
    training = parser.add_argument_group("weights of one's own training, over those of --weights")
    text = "folder of a training run or of one of its stages, by the public training code or by export.pocket.train"
    training.add_argument("--run", type=Path, metavar="DIR", help=text)
    text = "stage of the training; at stage 1, voice and motion are off (default: the latest of the run)"
    training.add_argument("--stage", type=int, choices=STAGES, help=text)
    text = "step of the stage (default: the newest one for which the stage has all its networks)"
    training.add_argument("--step", type=int, metavar="N", help=text)
    text = f"weights of a network, which take precedence over --run: {', '.join(COMPONENTS)}"
    training.add_argument("--part", nargs="+", action="extend", default=[], metavar="NETWORK=FILE", help=text)
    tensorrt = parser.add_argument_group("TensorRT")
    tensorrt.add_argument("--workspace", type=float, metavar="GIB", help="limit of a kernel's scratch memory")
    tensorrt.add_argument(
        "--optimization-level", type=int, default=3, metavar="0-5", help="0 tries fewest kernels, 5 most (default: 3)"
    )
    text = "compile plans for all GPUs from Ampere on, not just the one here; slower"
    tensorrt.add_argument("--hardware-compatible", action="store_true", help=text)
    text = "timings that later builds reuse (default: a file beside the bundle for each GPU and version)"
    tensorrt.add_argument("--timing-cache", type=Path, metavar="FILE", help=text)
    text = "keep only the hashes of the ONNX files; the bundle then runs only on this GPU and version"
    tensorrt.add_argument("--no-onnx", dest="onnx", action="store_false", help=text)
    given = parser.parse_args(arguments)
    return run(lambda: _build(given))


def _build(given: argparse.Namespace) -> None:
    tensorrt = EngineOptions(
        optimization_level=given.optimization_level,
        workspace_bytes=None if given.workspace is None else _bytes(given.workspace),
        hardware_compatible=given.hardware_compatible,
        timing_cache=given.timing_cache,
    )
    target = given.target
    if target is None:
        target, reason = best_target(given.precision)
        print_progress(f"target {target}: {reason}")
    training = TrainingChoice(given.run, given.stage, given.step, _parts(given.part))
    if training and given.output is None:
        raise ConfigError(
            "--run or --part is given without --output, whose default is the bundle of the directory's weights: add "
            "--output engines/NAME"
        )
    shape, engines = VideoShape(given.height, given.width, given.frames), tuple(given.engine)
    options = BuildOptions(
        shape, given.precision, target, given.allow_odd_sizes, engines, tensorrt, given.onnx, given.compact, training
    )
    build(given.weights, given.output or options.default_output(), options, print_progress)


def _parts(given: Sequence[str]) -> dict[str, Path]:
    """Return file by network of the values of --part."""
    parts: dict[str, Path] = {}
    for text in given:
        network, _, file = text.partition("=")
        if not file:
            raise ConfigError(f"--part is {text!r}; expected NETWORK=FILE with one of {', '.join(COMPONENTS)}")
        if network in parts:
            raise ConfigError(f"--part names {network} twice, {parts[network]} and {file}: leave one out")
        parts[network] = Path(file)
    return parts


def _bytes(workspace: float) -> int:
    if not math.isfinite(workspace * 2**30):
        raise ConfigError(f"--workspace is {workspace}; expected GiB, at least 2**-10, or nothing: no limit")
    return round(workspace * 2**30)


if __name__ == "__main__":
    raise SystemExit(main())
