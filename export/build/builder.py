"""Build a bundle of engines from a checkpoint directory.

Everything is written into a staging directory, which takes the name of the bundle when it is complete. An interrupted
build leaves the old bundle, or none. Engines whose weights and options did not change are taken from the old bundle.
"""

from __future__ import annotations

import os.path
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from export.build.options import BuildOptions
from export.errors import ExportError
from export.staging import staged
from vexpress_rt.bundle.bundle import WORKING, Bundle
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR
from vexpress_rt.bundle.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from vexpress_rt.config import check_recommendations
from vexpress_rt.errors import BundleError, ConfigError
from vexpress_rt.utils.cpus import usable_cpus

if TYPE_CHECKING:
    from export.build.assembly import Assembly, Report
    from export.checkpoint.reader import Checkpoint

NOTES = "README.md"  # a text about the bundle that its author may add; a build keeps it
SUFFIXES = (".onnx", ".weights", ".plan")  # of the files of a bundle whose manifest cannot be read


def build(weights: Path, output: Path, options: BuildOptions, report: Report = lambda _: None) -> Manifest:
    """Build a bundle. After an error, `output` is unchanged.

    Args:
        weights: A checkpoint directory in the official layout.
        output: The directory of the bundle. A bundle there is replaced, and its unchanged engines are reused.
        options: The options of the build.
        report: Called with a line of progress.

    Returns:
        The manifest of the bundle.

    Raises:
        CheckpointError: The checkpoint is incomplete or damaged, or weights of one's own training do not fit it.
        ConfigError: The model, or an option that it recommends, does not allow these sizes; `output` holds other files
            than a bundle; or the timing cache is inside `output`.
        ExportError: The results of an engine differ from those of its torch module.
        OutputError: `output` cannot be written.
    """
    import torch  # takes seconds; imported here, so that Ctrl-C meanwhile exits with one line

    from export.build.assembly import Assembly
    from export.build.parity import HEADER
    from export.checkpoint.reader import Checkpoint
    from export.checkpoint.trained_files import find_trained_files

    torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))  # PyTorch ignores the CPU quota
    checkpoint = Checkpoint(weights, find_trained_files(options.training))
    architecture = checkpoint.architecture
    options.shape.check(architecture.model_config(), allow_odd_sizes=options.allow_odd_sizes)
    check_recommendations(architecture.recommended, architecture.recommended_live, options.shape.frames)
    for line in _origins(checkpoint):
        report(line)
    with staged(output) as (staging, commit):
        _check_timing_cache(options.tensorrt.timing_cache, output)
        previous = _previous(output, options)
        assembly = Assembly(checkpoint, options, staging, previous, report)
        names, stale = assembly.plan()
        if previous is not None and not stale and assembly.is_same(names):
            report(f"{output} is up to date: all {len(names)} engines are unchanged")
            return previous.manifest
        _make_engines(assembly, names, stale)
        manifest = assembly.manifest()
        write_manifest(staging, manifest)
        if (output / NOTES).is_file():
            shutil.copyfile(output / NOTES, staging / NOTES)
        commit()
    if assembly.rows:
        report("\n".join(["", HEADER, *(row.row() for row in assembly.rows), ""]))
    report(f"{output} is complete: {sum(f.bytes for f in manifest.files.values()) / 1e6:.1f} MB")
    return manifest


def _origins(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield lines about the weights of one's own training: run, stage and step, and the file of every network."""
    record = checkpoint.training_record()
    if record is not None:
        yield f"weights: {record.describe()}"
        for component, path in checkpoint.origins().items():
            yield f"  {component:16} {path}"


def _make_engines(assembly: Assembly, names: list[str], stale: set[str]) -> None:
    for index, name in enumerate(names, start=1):
        label = f"[{index}/{len(names)}] {name}:"
        if name not in stale:
            assembly.reuse(name, label)
        elif name == FACE_DETECTOR:
            assembly.report(f"{label} copying")
            assembly.copy_detector()
        else:
            assembly.make(name, label)


def _previous(output: Path, options: BuildOptions) -> Bundle | None:
    """Open the bundle in `output`; None if there is none, or if its manifest cannot be read.

    Its files are checked when they are reused. Raises ConfigError if the directory holds anything that does not belong
    to a bundle, because a build replaces it as a whole.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    if not (output / MANIFEST).is_file():
        raise ConfigError(f"{output} exists and is not a bundle of engines: choose another --output or remove it first")
    try:
        bundle = Bundle(output, read_manifest(output))
    except BundleError as error:
        bundle, reason = None, error
    known = {MANIFEST, NOTES, *(bundle.manifest.files if bundle else ())}
    files = (path for path in output.iterdir() if path.name not in known and not path.name.startswith(WORKING))
    if foreign := sorted(path.name for path in files if path.is_dir() or path.suffix not in SUFFIXES):
        raise ConfigError(
            f"{output} holds {', '.join(foreign[:5])}, which is not part of a bundle: choose another --output or move "
            "it elsewhere"
        )
    if bundle is None and options.engines:
        raise ExportError(f"no engine can be added to {output}: {reason}: build all engines, without --engine")
    return bundle


def _check_timing_cache(timing_cache: Path | None, output: Path) -> None:
    if timing_cache is not None and Path(os.path.realpath(timing_cache)).is_relative_to(os.path.realpath(output)):
        raise ConfigError(
            f"the timings ({timing_cache}) would be inside the bundle {output}, which a build replaces as a whole: "
            "choose another --timing-cache, or leave it out: they are then kept beside the bundle"
        )
