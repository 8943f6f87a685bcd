"""A checkpoint directory -> a bundle of engines.

    python -m export.build --weights DIR --precision fp32 --output engines/NAME

Everything is written into a folder beside the output, which takes its name when complete; an interrupted build leaves
the old bundle, or none. Engines whose weights and options did not change are taken over from the old bundle.
"""

from __future__ import annotations

import argparse
import math
import os.path
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from export.build.options import BuildOptions
from export.build.staging import staged
from export.build.targets import best_target
from export.command import run, tell
from export.errors import ExportError
from vexpress_rt.backends.tensorrt.options import EngineOptions
from vexpress_rt.bundle.bundle import WORKING, Bundle
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR, PRECISIONS, TARGETS, VideoShape
from vexpress_rt.bundle.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from vexpress_rt.config import GenerationConfig
from vexpress_rt.errors import BundleError, ConfigError
from vexpress_rt.utils.cpus import usable_cpus

if TYPE_CHECKING:
    from export.build.assembly import Assembly, Report

NOTES = "README.md"  # what people wrote about a bundle; a rebuild keeps it
SUFFIXES = (".onnx", ".weights", ".plan")  # of the files of a bundle whose manifest cannot be read


def build(weights: Path, output: Path, options: BuildOptions, report: Report = lambda _: None) -> Manifest:
    """Build the bundle `output` from the checkpoint directory `weights`.

    Raises CheckpointError; ConfigError for sizes that the model, or what it recommends, does not allow, an output that
    holds something else, or timings inside it; ExportError for an engine that differs from its torch module;
    OutputError if the disk refuses something. In all cases `output` is as it was.
    """
    import torch  # takes seconds, in which Ctrl-C must still exit with one line

    from export.build.assembly import Assembly
    from export.build.parity import HEADER
    from export.checkpoint.reader import Checkpoint

    torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))  # PyTorch ignores the CPU quota
    checkpoint = Checkpoint(weights)
    options.shape.check(checkpoint.architecture.model_config(), allow_odd_sizes=options.allow_odd_sizes)
    GenerationConfig().settle(checkpoint.architecture.recommended, options.shape.frames)
    with staged(output) as (folder, commit):
        _check_timings(options.compiling.timing_cache, output)
        previous = _previous(output, options)
        assembly = Assembly(checkpoint, options, folder, previous, report)
        names, stale = assembly.plan()
        if previous is not None and not stale and assembly.is_same(names):
            report(f"{output} is up to date: all {len(names)} engines are unchanged")
            return previous.manifest
        _fill(assembly, names, stale)
        manifest = assembly.manifest()
        write_manifest(folder, manifest)
        if (output / NOTES).is_file():
            shutil.copyfile(output / NOTES, folder / NOTES)
        commit()
    if assembly.rows:
        report("\n".join(["", HEADER, *(row.row() for row in assembly.rows), ""]))
    report(f"{output} is complete: {sum(f.bytes for f in manifest.files.values()) / 1e6:.1f} MB")
    return manifest


def _fill(assembly: Assembly, names: list[str], stale: set[str]) -> None:
    for index, name in enumerate(names, start=1):
        label = f"[{index}/{len(names)}] {name}:"
        if name not in stale:
            assembly.take_over(name, label)
        elif name == FACE_DETECTOR:
            assembly.report(f"{label} copying")
            assembly.copy_detector()
        else:
            assembly.make(name, label)


def _previous(output: Path, options: BuildOptions) -> Bundle | None:
    """The bundle in `output`; None if there is none, or one whose manifest cannot be read.

    Its files are not checked yet: each is when it is to be taken over. Raises ConfigError if the folder holds anything
    that is no bundle's, for a build replaces it as a whole.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    if not (output / MANIFEST).is_file():
        raise ConfigError(f"{output} exists and is no bundle of engines: choose another --output or remove it first")
    try:
        bundle = Bundle(output, read_manifest(output))
    except BundleError as error:
        bundle, reason = None, error
    known = {MANIFEST, NOTES, *(bundle.manifest.files if bundle else ())}
    files = (path for path in output.iterdir() if path.name not in known and not path.name.startswith(WORKING))
    if foreign := sorted(path.name for path in files if path.is_dir() or path.suffix not in SUFFIXES):
        raise ConfigError(
            f"{output} holds {', '.join(foreign[:5])}, which is no part of a bundle: choose another --output or move "
            "it elsewhere"
        )
    if bundle is None and options.engines:
        raise ExportError(f"no engine can be added to {output}: {reason}: build all engines, without --engine")
    return bundle


def _check_timings(timings: Path | None, output: Path) -> None:
    if timings is not None and Path(os.path.realpath(timings)).is_relative_to(os.path.realpath(output)):
        raise ConfigError(
            f"the timings ({timings}) would be inside the bundle {output}, which a build replaces as a whole: choose "
            "another --timing-cache, or leave it out: they are then kept beside the bundle"
        )


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m export.build", description="Build a bundle of engines.")
    parser.add_argument("--weights", type=Path, default=Path("model_ckpts"), help="checkpoint directory (model_ckpts)")
    parser.add_argument("--output", type=Path, help="folder of the bundle (engines/ and a name made of the options)")
    parser.add_argument("--precision", choices=list(PRECISIONS), default="fp32", help="of weights and activations")
    words = "what will run the engines (the best that this machine can build and run)"
    parser.add_argument("--target", choices=TARGETS, help=words)
    parser.add_argument("--height", type=int, default=512, help="pixels")
    parser.add_argument("--width", type=int, default=512, help="pixels")
    parser.add_argument("--frames", type=int, default=24, help="of a context window")
    parser.add_argument("--engine", nargs="+", default=[], metavar="NAME", help="build these alone; others are kept")
    parser.add_argument("--allow-odd-sizes", action="store_true", help="allow any multiple of a VAE cell")
    words = "store fp32 weights that float16 holds exactly as float16, for the same results from a smaller bundle"
    parser.add_argument("--compact", action="store_true", help=words)
    compiling = parser.add_argument_group("TensorRT")
    compiling.add_argument("--workspace", type=float, metavar="GIB", help="limit of a kernel's scratch memory")
    compiling.add_argument("--optimization-level", type=int, default=3, metavar="0-5", help="5 tries most kernels (3)")
    words = "for all GPUs from Ampere on, not just the one here; slower"
    compiling.add_argument("--hardware-compatible", action="store_true", help=words)
    words = "timings that later builds reuse (beside the bundle, one for each GPU and version)"
    compiling.add_argument("--timing-cache", type=Path, metavar="FILE", help=words)
    words = "keep nothing of the ONNX files but their hashes; the bundle then runs on this GPU and version alone"
    compiling.add_argument("--no-onnx", dest="onnx", action="store_false", help=words)
    given = parser.parse_args(arguments)
    return run(lambda: _build_as_asked(given))


def _build_as_asked(given: argparse.Namespace) -> None:
    compiling = EngineOptions(
        optimization_level=given.optimization_level,
        workspace_bytes=None if given.workspace is None else _bytes(given.workspace),
        hardware_compatible=given.hardware_compatible,
        timing_cache=given.timing_cache,
    )
    target = given.target
    if target is None:
        target, why = best_target(given.precision)
        tell(f"target {target}: {why}")
    shape, engines = VideoShape(given.height, given.width, given.frames), tuple(given.engine)
    options = BuildOptions(
        shape, given.precision, target, given.allow_odd_sizes, engines, compiling, given.onnx, given.compact
    )
    build(given.weights, given.output or options.default_output(), options, tell)


def _bytes(workspace: float) -> int:
    if not math.isfinite(workspace * 2**30):
        raise ConfigError(f"--workspace is {workspace}; expected GiB, at least 2**-10, or nothing: no limit")
    return round(workspace * 2**30)
