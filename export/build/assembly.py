"""The steps of a build: which engines to make and which to reuse, and the manifest of the result."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from export.build import fingerprint
from export.build.compile import Plans
from export.build.options import BuildOptions
from export.build.parity import Parity, check
from export.checkpoint.layout import OWN_CONFIG
from export.checkpoint.reader import Checkpoint
from export.errors import ExportError
from export.onnx.engine_modules import ENGINE_NETWORKS, TORCH_DTYPES, Engine, make_engine
from export.onnx.float32_copy import float32_spec, write_float32_copy
from export.onnx.graph import WeightsFile, read_interface
from export.onnx.to_onnx import to_onnx
from vexpress_rt import __version__
from vexpress_rt.bundle.bundle import Bundle, file_entry, sha256_file
from vexpress_rt.bundle.engine_spec import (
    FACE_DETECTOR,
    PRECISIONS,
    EngineSpec,
    VideoShape,
    engine_specs,
)
from vexpress_rt.bundle.graph_check import check_graph_file
from vexpress_rt.bundle.manifest import EngineEntry, FileEntry, Manifest
from vexpress_rt.bundle.target import TARGETS
from vexpress_rt.bundle.weight_check import find_in_weights
from vexpress_rt.errors import BundleDamagedError, BundleError

# Engines that are graphs over the same weights: they share one weights file and are built together.
SHARED_WEIGHTS = {"denoiser": "denoiser.weights", "denoiser_cond": "denoiser.weights"}
# Parameters x positions of a latent x frames. An engine above this cost is checked at a smaller size.
CHECK_BUDGET = 1e12

DETECTOR_INTERFACE = (1, 9)  # inputs and outputs of SCRFD: scores, boxes and keypoints at three strides

Report = Callable[[str], None]


@dataclass
class Assembly:
    """The state of a build.

    Attributes:
        checkpoint: The weights.
        options: The options of the build.
        folder: The staging directory.
        previous: The bundle that the build replaces.
        report: Called with a line of progress.
        entries: Entries of the manifest for the engines that are complete, by name.
        files: Entries of the manifest for the files of reused engines, by name.
        parity: Relative errors by engine.
        rows: Results of the comparisons of this build.
        shared: Open weights files by name.
    """

    checkpoint: Checkpoint
    options: BuildOptions
    folder: Path
    previous: Bundle | None
    report: Report
    entries: dict[str, EngineEntry] = field(default_factory=dict)
    files: dict[str, FileEntry] = field(default_factory=dict)
    parity: dict[str, float | Mapping[str, float]] = field(default_factory=dict)
    rows: list[Parity] = field(default_factory=list)
    shared: dict[str, WeightsFile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model = self.checkpoint.architecture.model_config()
        self.specs = self._specs(self.options.shape)
        self.precision = PRECISIONS[self.options.precision]
        self.training = self.checkpoint.training_record()
        self.plans = Plans(self.options.target, self.options.tensorrt, self.model, self.folder, self.previous)

    def _specs(self, shape: VideoShape) -> dict[str, EngineSpec]:
        sines_as_input = TARGETS[self.options.target].sines_as_input
        return engine_specs(self.model, shape, self.options.precision, sines_as_input=sines_as_input)

    def engine(self, spec: EngineSpec, precision: str, computed_in: str | None = None) -> Engine:
        """Make the torch module of an engine.

        Args:
            spec: Specification of the engine.
            precision: Dtype that the weights of the checkpoint are rounded to, a key of `TORCH_DTYPES`.
            computed_in: Dtype of the weights and activations of the result; None: `precision`.
        """
        dtype, computed = TORCH_DTYPES[precision], TORCH_DTYPES[computed_in or precision]
        networks = {name: self.checkpoint.network(name, dtype) for name in ENGINE_NETWORKS[spec.name]}
        if computed != dtype:
            networks = {name: network.to(computed) for name, network in networks.items()}
        return make_engine(spec, networks, computed)

    def make(self, name: str, label: str) -> None:
        """Export an engine and compare it with its torch module; compile it if the target is TensorRT.

        Args:
            name: Name of the engine.
            label: Beginning of the progress lines.

        Raises:
            ExportError: The results of the engine differ from those of its torch module.
        """
        spec, start = self.specs[name], time.perf_counter()
        self.report(f"{label} exporting")
        path = self.folder / f"{name}.onnx"
        engine = self.engine(spec, self.precision)
        parameters = sum(p.numel() for p in engine.parameters())
        weights = self._export(engine, path, self._shared_weights(name))
        del engine  # the check needs the memory
        self.entries[name] = EngineEntry(
            file=path.name,
            data=() if weights is None else (weights.path.name,),
            weights_sha256=self.weights_sha256(name),
            fingerprint=self.fingerprint(name),
            inputs=spec.inputs,
            outputs=spec.outputs,
        )
        size = sum((self.folder / file).stat().st_size for file in self.entries[name].files) / 1e6
        self.report(f"{label} {size:.1f} MB in {time.perf_counter() - start:.1f} s, checking")
        self.rows.append(self._check(name, self._check_shape(spec, parameters), path, weights))
        self.parity[name] = self.rows[-1].error
        if TARGETS[self.options.target].compiled:
            self.report(f"{label} {self.plans.compile(name, path, spec)}")

    def _export(self, engine: Engine, path: Path, weights: WeightsFile | None) -> WeightsFile | None:
        return to_onnx(engine, path, weights, self.options.target, compact=self.options.compact)

    def _shared_weights(self, name: str) -> WeightsFile | None:
        file = SHARED_WEIGHTS.get(name)
        if file is not None and file not in self.shared:
            self.shared[file] = WeightsFile(self.folder / file)
        return None if file is None else self.shared[file]

    def _check(self, name: str, shape: VideoShape, path: Path, weights: WeightsFile | None) -> Parity:
        """Compare the exported engine at `path`; if `shape` is smaller, compare an engine of that size instead."""
        spec = self._specs(shape)[name]
        if spec == self.specs[name]:
            return self._compare(path, spec, _sizes(spec))
        smaller = path.with_suffix(".check.onnx")
        with nullcontext() if weights is None else weights.scratch():
            self._export(self.engine(spec, self.precision), smaller, weights)
            result = self._compare(smaller, spec, f"{_sizes(spec)} (smaller)")
        smaller.unlink()
        return result

    def _compare(self, path: Path, spec: EngineSpec, label: str) -> Parity:
        """Compare the graph at `path` with its torch module in float32.

        ONNX Runtime has no bfloat16 kernels for CPUs: there a copy of the graph that computes in float32 is compared,
        with a module whose weights are rounded to bfloat16.
        """
        precision = "float32" if spec.name == "audio_encoder" else self.precision
        if precision != "bfloat16":
            return check(lambda: self.engine(spec, "float32"), path, spec, precision, label)
        wide = path.with_suffix(".wide.onnx")
        write_float32_copy(path, wide)
        label += " (in float32, weights rounded to bfloat16)"
        result = check(lambda: self.engine(spec, precision, "float32"), wide, float32_spec(spec), precision, label)
        wide.unlink()
        return result

    def _check_shape(self, spec: EngineSpec, parameters: int) -> VideoShape:
        shape, cell = self.options.shape, self.model.vae_factor
        letters = {letter for tensor in (*spec.inputs, *spec.outputs) for letter in tensor.dims}
        frames = shape.frames if "F" in letters else 1
        positions = (shape.height // cell) * (shape.width // cell) if letters & {"H", "h"} else 1
        if parameters * positions * frames <= CHECK_BUDGET:
            return shape
        step = cell * 2 ** (len(self.model.block_out_channels) - 1)
        return VideoShape(min(shape.height, 2 * step), min(shape.width, step), min(shape.frames, 2))

    def fingerprint(self, name: str) -> str:
        """Return the hash of everything that an engine depends on."""
        if name == FACE_DETECTOR:
            detector = self.checkpoint.detector()
            return "" if detector is None else sha256_file(detector)
        options = (self.options.shape, self.options.precision, self.options.target, self.options.compact)
        return fingerprint.combine(self.specs[name], *self._digests(name), options, fingerprint.of_code())

    def weights_sha256(self, name: str) -> str:
        """Return the hash of the checkpoint's files that an engine is made of."""
        detector = self.checkpoint.detector() if name == FACE_DETECTOR else None
        return fingerprint.combine(*self._digests(name)) if detector is None else sha256_file(detector)

    def _digests(self, name: str) -> list[str]:
        return [self.checkpoint.digest(network) for network in ENGINE_NETWORKS[name]]

    def is_unchanged(self, name: str) -> bool:
        """Return whether the previous bundle has the engine undamaged and with the same fingerprint.

        In a bundle that keeps no graphs, the hash of the graph and an undamaged plan are enough.
        """
        if self.previous is None or not self.previous.has(name) or name not in (*self.specs, FACE_DETECTOR):
            return False
        if self.previous.manifest.engines[name].fingerprint != self.fingerprint(name):
            return False
        try:
            self.previous.engine_path(name)  # checks sizes and hashes
        except BundleError:
            return not self.options.onnx and name != FACE_DETECTOR and self.plans.has(name)
        return True

    def is_same(self, names: list[str]) -> bool:
        """Return whether the previous bundle has exactly these engines and their plans, and is of this version.

        Equal weights can come from another training run, whose name then has to be recorded.
        """
        old = None if self.previous is None else self.previous.manifest
        same = old is not None and (set(names), self.options.onnx) == (set(old.engines), old.onnx)
        same = same and (old.package, old.training) == (__version__, self.training)
        return same and all(self.plans.has(name) for name in names)

    def reuse(self, name: str, label: str) -> None:
        """Link an unchanged engine from the previous bundle, and compile it if that bundle has no plan of it.

        Args:
            name: Name of the engine.
            label: Beginning of the progress lines.
        """
        assert self.previous is not None
        self.entries[name] = entry = self.previous.manifest.engines[name]
        for file in (*entry.files, *self.plans.reuse(name)):
            self.files[file] = self.previous.manifest.files[file]
            if file not in self.previous.manifest.absent:
                _link(self.previous.folder / file, self.folder / file)
        if name in self.previous.manifest.parity:
            self.parity[name] = self.previous.manifest.parity[name]
        if self.plans.has(name):
            self.report(f"{label} unchanged")
        else:
            self.report(f"{label} its graph is unchanged, compiling")
            self.report(f"{label} {self.plans.compile(name, self.folder / entry.file, self.specs[name])}")

    def plan(self) -> tuple[list[str], set[str]]:
        """Return the engines that the bundle will have, in order, and the engines that must be made.

        Raises:
            ExportError: An engine of the previous bundle that would be kept is damaged or has other weights or options.
        """
        wanted = self._wanted()
        stale = {name for name in wanted if not self.is_unchanged(name)}
        files = {SHARED_WEIGHTS[name] for name in stale if name in SHARED_WEIGHTS}
        stale |= {name for name in wanted if SHARED_WEIGHTS.get(name) in files}
        kept = [] if self.previous is None else [n for n in self.previous.manifest.engines if n not in wanted]
        if self.options.engines:
            if unusable := [name for name in kept if not self.is_unchanged(name)]:
                raise ExportError(
                    f"{', '.join(unusable)} of the existing bundle are damaged or built from other weights or options: "
                    "build all engines, without --engine"
                )
            wanted += kept
        return [name for name in (*self.specs, FACE_DETECTOR) if name in wanted], stale

    def _wanted(self) -> list[str]:
        has_detector = self.checkpoint.detector() is not None
        if not self.options.engines:
            return [*self.specs, *([FACE_DETECTOR] if has_detector else [])]
        if absent := [name for name in self.options.engines if name not in (*self.specs, FACE_DETECTOR)]:
            raise ExportError(
                f"{self.checkpoint.folder} has no network for {', '.join(absent)}; it has guiders for "
                f"{', '.join(self.model.guiders) or 'no signal'}: leave out --engine {absent[0]}, or declare "
                f"the guider in {OWN_CONFIG}"
            )
        if FACE_DETECTOR in self.options.engines and not has_detector:
            raise ExportError(f"{self.checkpoint.folder} has no face detector: put insightface's det_10g.onnx there")
        shared = {SHARED_WEIGHTS[name] for name in self.options.engines if name in SHARED_WEIGHTS}
        return [n for n in (*self.specs, FACE_DETECTOR) if n in self.options.engines or SHARED_WEIGHTS.get(n) in shared]

    def copy_detector(self) -> None:
        """Copy the face detector, which is a finished graph, and record its inputs and outputs.

        Raises:
            ExportError: The file is not an SCRFD detector with keypoints, or the runtime refuses its graph.
        """
        source = self.checkpoint.detector()
        assert source is not None
        inputs, outputs = read_interface(source)
        if (len(inputs), len(outputs)) != DETECTOR_INTERFACE:
            raise ExportError(
                f"{source} has {len(inputs)} inputs and {len(outputs)} outputs; expected 1 and 9, those of SCRFD with "
                "keypoints: put insightface's det_10g.onnx there"
            )
        _check_graph(source, {})
        path = self.folder / f"{FACE_DETECTOR}.onnx"
        shutil.copyfile(source, path)
        self.entries[FACE_DETECTOR] = EngineEntry(
            file=path.name,
            weights_sha256=self.weights_sha256(FACE_DETECTOR),
            fingerprint=self.fingerprint(FACE_DETECTOR),
            inputs=inputs,
            outputs=outputs,
        )

    def manifest(self) -> Manifest:
        """Return the manifest of all made and reused engines. Graphs that the options do not keep are removed.

        Raises:
            ExportError: The runtime refuses a graph, or weights are not finite.
        """
        compiled = self.plans.compilations()
        names = {plan for compilation in compiled for plan in compilation.plans.values()}
        names |= {file for entry in self.entries.values() for file in entry.files}
        self.files |= {name: file_entry(self.folder / name) for name in sorted(names - set(self.files))}
        for entry in self.entries.values():
            if (path := self.folder / entry.file).exists():
                _check_graph(path, {name: self.files[name].bytes for name in entry.data})
        manifest = Manifest(
            package=__version__,
            versions=fingerprint.versions(),
            target=self.options.target,
            precision=self.options.precision,
            shape=self.options.shape,
            allow_odd_sizes=self.options.allow_odd_sizes,
            model=self.model,
            engines=self.entries,
            files=dict(sorted(self.files.items())),
            recommended=self.checkpoint.architecture.recommended,
            recommended_live=self.checkpoint.architecture.recommended_live,
            parity=self.parity,
            onnx=self.options.onnx,
            compiled=compiled,
            training=self.training,
        )
        for name in manifest.absent:
            (self.folder / name).unlink(missing_ok=True)
        return manifest


def _check_graph(path: Path, weights: dict[str, int]) -> None:
    """Raise ExportError for a graph or for weights that the runtime refuses."""
    try:
        with path.open("rb") as file:
            found = check_graph_file(file, weights)
    except BundleDamagedError as error:
        raise ExportError(
            f"the runtime refuses the graph {path}: {error}: if an engine needs this, allow it in "
            "vexpress_rt/bundle/graph_check.py"
        ) from error
    faults = {path.name: found.fault}
    for name, tensors in found.external.items():
        with (path.parent / name).open("rb") as file:
            faults[name] = find_in_weights(file, tensors)
    for name, fault in faults.items():
        if fault:
            raise ExportError(
                f"the weights of {path.stem} are damaged, or its training diverged: in {name} {fault}: "
                "build from a sound checkpoint"
            )


def _link(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy where hard links are impossible."""
    if target.exists():
        return
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _sizes(spec: EngineSpec) -> str:
    """Return the name and sizes of an engine's first input, for the table of errors."""
    first = spec.inputs[0]
    return f"{first.name} " + "x".join("any" if size is None else str(size) for size in first.shape)
