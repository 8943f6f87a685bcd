"""Plans built from ONNX files on this machine, by TensorRT through Polygraphy.

Networks are strongly typed: only the graph decides on precisions. `Compiler` makes the plans of a bundle, for
`export.build` and for `plan_rebuild`; `build_engine` builds one engine.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.tensorrt.library import Library, load
from vexpress_rt.backends.tensorrt.messages import Messages, readable
from vexpress_rt.backends.tensorrt.options import EngineOptions
from vexpress_rt.bundle.compilation import PORTABLE, Compilation, Machine
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec, interface_errors
from vexpress_rt.errors import BackendError, BundleDamagedError, ConfigError, OutputError, VExpressError
from vexpress_rt.utils.native_calls import native_call
from vexpress_rt.utils.project_links import EXPORTER
from vexpress_rt.utils.signals import run_uninterrupted

_log = logging.getLogger(__name__)
_OUT_OF_MEMORY = re.compile(r"out ?of ?memory|memory allocat|allocat\w* .*memory|bad_?alloc", re.IGNORECASE)
_TIMINGS_LIMIT = 1 << 30  # bytes; a larger file holds something else
_ONE_AT_A_TIME = threading.Lock()  # a build of the full model takes gigabytes; and Polygraphy's settings are global

BuildProgress = Callable[[float], object]  # the fraction that is done, 0 to 1; called from any thread


@dataclass(frozen=True)
class BuildInfo:
    """A finished build.

    Attributes:
        seconds: Its duration.
        bytes: Size of the engine's file.
        activation_bytes: GPU memory that the engine needs beside weights, inputs and outputs, for the largest shapes;
            None if TensorRT does not report it.
    """

    seconds: float
    bytes: int
    activation_bytes: int | None


@dataclass(frozen=True)
class Compiler:
    """A library with the options to build with; made by `Compiler.here`.

    Attributes:
        library: The TensorRT that builds.
        options: Options of each build.
        compilation: The record of the plans that it builds on this machine; it lists no plans yet.
    """

    library: Library
    options: EngineOptions
    compilation: Compilation

    @classmethod
    def here(cls, target: str, options: EngineOptions, bundle: Path) -> Compiler:
        """Return the compiler of a target on this machine.

        Args:
            target: `tensorrt` or `tensorrt-rtx`.
            options: Options of the builds.
            bundle: The bundle's folder. A timing cache is kept beside it unless `options` name a file.

        Raises:
            BackendMissingError: The library or Polygraphy is not installed.
            BackendError: There is no GPU, and the library needs one to build; or Polygraphy already works with the
                other library in this process.
        """
        library = load(target)
        if not library.builds_without_gpu and runtime.count() == 0:
            raise BackendError(
                f"{library.title} builds on the GPU that will run the engines, and none was found: build on that "
                "machine, or with --target tensorrt-rtx, which needs none"
            )
        with library.polygraphy():  # fails before an export that takes minutes
            pass
        if options.timing_cache is None and library.has_timing_cache:
            options = replace(options, timing_cache=_timing_cache(library, bundle))
        portable = library.is_portable(hardware_compatible=options.hardware_compatible)
        here = Machine(library.version, PORTABLE, "") if portable else describe_machine(library)
        return cls(
            library,
            options,
            Compilation(
                library=target,
                version=here.version,
                gpu=here.gpu,
                capability=here.capability,
                options=options.to_text(),
            ),
        )

    def compile(
        self, graph: Path, spec: EngineSpec, folder: Path, progress: BuildProgress | None = None
    ) -> tuple[str, BuildInfo]:
        """Build the plan of a graph in a folder.

        Args:
            graph: The ONNX file.
            spec: The inputs and outputs that the graph must have.
            folder: The folder for the plan.
            progress: Called with the fraction that is done, from any thread.

        Returns:
            The plan's file name in the folder, and the build.

        Raises:
            VExpressError: As `build_engine` does.
        """
        plan = self.compilation.plan_name(spec.name)
        return plan, build_engine(graph, spec, folder / plan, self.library, self.options, progress)


def describe_machine(library: Library) -> Machine:
    """Return the version and the GPU that plans of a library have to fit on this machine.

    Args:
        library: The library that runs the plans.

    Raises:
        BackendError: There is no GPU.
    """
    runtime.check()
    name, (major, minor) = runtime.name_and_capability()
    return Machine(library.version, name, f"{major}.{minor}")


def _timing_cache(library: Library, bundle: Path) -> Path | None:
    """Return the path of a timing cache, one per GPU and version, beside the bundle, so that it outlives it."""
    folder = bundle.resolve().parent
    if not os.access(folder, os.W_OK):
        return None
    machine = describe_machine(library)
    words = re.sub(r"[^A-Za-z0-9.]+", "-", f"{library.target} {machine.version} {machine.gpu}")
    return folder / f".timing-{words}.cache"


def build_engine(
    onnx: Path,
    spec: EngineSpec,
    output: Path,
    library: Library,
    options: EngineOptions | None = None,
    progress: BuildProgress | None = None,
) -> BuildInfo:
    """Build an engine from an ONNX file. Builds in one process run one after another.

    After an error, `output` is unchanged. Ctrl-C takes effect when TensorRT next reports progress, which
    may be at its end.

    Args:
        onnx: The graph. Its weight files must lie beside it.
        spec: The inputs and outputs that the graph must have.
        output: The engine's file, which is replaced.
        library: The TensorRT that builds.
        options: Options of the build; None for the defaults.
        progress: Called with the fraction that is done, from any thread. With TensorRT for RTX it soon reaches 0.8 and
            stays there for most of the time. Its exceptions end the build and are raised as they are.

    Raises:
        ConfigError: The library does not have an option.
        OutputError: `output` cannot be written.
        BundleDamagedError: The graph is missing, or has other inputs or outputs; the message names every one.
        BackendError: The library cannot parse the graph (the message names node and operator), or cannot build it.
    """
    started = time.perf_counter()
    if not onnx.is_file():
        raise BundleDamagedError(f"{onnx}, the graph of engine {spec.name}, is missing: export it again {EXPORTER}")
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):  # fails before a build of 20 minutes
        raise OutputError(f"{output} cannot be written: {output.parent} is no folder that can be written to")
    with _ONE_AT_A_TIME, library.collect(workers=True) as messages:
        engine = _Build(onnx, spec, library, options or EngineOptions(), progress).run(messages)
    size = _write(output, engine)
    return BuildInfo(time.perf_counter() - started, size, messages.activation_bytes)


class _Build:
    """One build. The network needs the builder, and for its weights the parser: both must outlive it."""

    def __init__(
        self, onnx: Path, spec: EngineSpec, library: Library, options: EngineOptions, progress: BuildProgress | None
    ) -> None:
        self._onnx, self._spec, self._library, self._options = onnx, spec, library, options
        self._progress = progress

    def run(self, messages: Messages) -> Any:
        """Return the serialized engine, an object with the buffer interface."""
        stopped = threading.Event()  # TensorRT calls the progress monitor, in which no signal handler may raise
        return run_uninterrupted(partial(self._build, messages, stopped), cancel=stopped.set)

    def _build(self, messages: Messages, stopped: threading.Event) -> Any:
        with self._library.polygraphy() as polygraphy:
            monitor = _make_monitor(self._library.module, self._progress, stopped.is_set)
            try:
                engine = self._run(polygraphy, monitor)
            except VExpressError:
                raise
            except Exception as error:  # exceptions of Polygraphy and pybind11 have no common base
                if monitor.failure is None:
                    raise self._failed(messages.text() or readable(str(error))) from error
            if monitor.failure is not None:
                raise monitor.failure
            return engine

    def _run(self, polygraphy: Any, monitor: Any) -> Any:
        builder, network = polygraphy.create_network(strongly_typed=True)
        config = self._configure(builder)
        config.progress_monitor = monitor
        parser = self._parse(network)
        self._check_interface(network)
        self._add_profile(polygraphy, builder, network, config)
        # Allows attention without a fused kernel. Where a fused kernel exists, the engine is the same, bit for bit.
        polygraphy.set_decomposable_attentions((builder, network, parser))
        with native_call():
            engine = polygraphy.engine_bytes_from_network((builder, network, parser), config)
        self._save_timings(config)
        monitor.report(1.0)
        return engine

    def _configure(self, builder: Any) -> Any:
        """Return a builder's configuration. Polygraphy's CreateConfig would set a timing cache for TensorRT for RTX."""
        library, options, module = self._library, self._options, self._library.module
        config = builder.create_builder_config()
        config.builder_optimization_level = options.optimization_level
        if options.workspace_bytes is not None:
            config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        (config.set_flag if options.tf32 else config.clear_flag)(module.BuilderFlag.TF32)  # on by default
        library.set_hardware(config, hardware_compatible=options.hardware_compatible)
        library.allow_capture(config)
        self._load_timings(config)
        return config

    def _parse(self, network: Any) -> Any:
        """Parse the graph; unlike Polygraphy's NetworkFromOnnxPath, name the node in an error."""
        parser = self._library.module.OnnxParser(network, self._library.logger)
        if not parser.parse_from_file(str(self._onnx)) or parser.num_errors:  # by path: weights are in other files
            messages = [_parser_message(parser.get_error(index)) for index in range(parser.num_errors)]
            raise BackendError(
                f"{self._library.name} cannot read engine {self._spec.name} from {self._onnx.resolve()}: "
                f"{'; '.join(messages) or 'it gives no reason'}: export the graph again, update "
                f"{self._library.title}, or build with --target onnxruntime {EXPORTER}"
            )
        return parser

    def _check_interface(self, network: Any) -> None:
        inputs = (network.get_input(index) for index in range(network.num_inputs))
        outputs = (network.get_output(index) for index in range(network.num_outputs))
        found = EngineSpec(self._spec.name, *(tuple(map(self._tensor, tensors)) for tensors in (inputs, outputs)))
        if wrong := interface_errors(found, self._spec):
            raise BundleDamagedError(
                f"{self._onnx.resolve()} is not the expected engine {self._spec.name}: {'; '.join(wrong)}: "
                f"export it again with `python -m export.build --engine {self._spec.name}` {EXPORTER}"
            )

    def _tensor(self, tensor: Any) -> TensorSpec:
        sizes = tuple(None if size < 0 else int(size) for size in tensor.shape)
        return TensorSpec(tensor.name, tuple(map(str, sizes)), sizes, self._library.dtype_name(tensor.dtype))

    def _add_profile(self, polygraphy: Any, builder: Any, network: Any, config: Any) -> None:
        """Set the sizes of open dims; a graph without such dims needs none."""
        profile = polygraphy.Profile()
        for tensor in self._spec.inputs:
            if None in tensor.shape:
                profile.add(tensor.name, *self._options.shapes(tensor))
        if not profile:
            return
        if config.add_optimization_profile(profile.fill_defaults(network).to_trt(builder, network)) < 0:
            raise ConfigError(f"engine {self._spec.name} cannot have the sizes {profile}: choose others")

    def _load_timings(self, config: Any) -> None:
        path = self._options.timing_cache
        if path is None or not self._library.has_timing_cache:
            return
        try:
            _check_timing_cache(path)
            cache = config.create_timing_cache(path.read_bytes())
            if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
                return
            _log.warning("%s is of another GPU or version of %s; a new one is started", path, self._library.title)
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning("no timings are read from %s, and the build takes longer: %s", path, error)
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)

    def _save_timings(self, config: Any) -> None:
        path = self._options.timing_cache
        if path is None or not self._library.has_timing_cache:
            return
        try:
            with contextlib.suppress(FileNotFoundError):
                _check_timing_cache(path)  # otherwise a device could be replaced
            _write(path, config.get_timing_cache().serialize())
        except (OutputError, OSError) as error:  # the engine is complete nonetheless
            _log.warning("%s", error)

    def _failed(self, reason: str) -> BackendError:
        remedy = f"update {self._library.title}, or build with --target onnxruntime {EXPORTER}"
        if _OUT_OF_MEMORY.search(reason):
            remedy = f"close other programs, or build with smaller --height and --width, or fewer --frames {EXPORTER}"
        if not self._library.builds_without_gpu:
            remedy += "; it builds only where there is a working NVIDIA GPU"
        return BackendError(f"{self._library.name} cannot build engine {self._spec.name}: {reason}: {remedy}")


def _parser_message(error: Any) -> str:
    node = f"node {error.node_name() or error.node()}"
    where = f"{node} ({error.node_operator()}): " if error.node_operator() else ""
    return where + readable(error.desc())


def _check_timing_cache(path: Path) -> None:
    """Raise OSError unless a path is a file of plausible size; reading a pipe or a device might never end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is a folder or a device; expected a file of timings: choose another")
    if found.st_size > _TIMINGS_LIMIT:
        raise OSError(f"{path} has {found.st_size} bytes; expected at most {_TIMINGS_LIMIT}: choose another file")


def _write(path: Path, content: Any) -> int:
    """Write a buffer to a file, completely or not at all, without a copy of it; return its size."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with memoryview(content) as view, part.open("xb") as file:
            file.write(view)
            file.flush()
            os.fsync(file.fileno())  # some file systems report a full disk only here
            size = view.nbytes
        os.replace(part, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}: check folder, permissions and free space") from error
    finally:
        part.unlink(missing_ok=True)
    return size


def _make_monitor(module: Any, progress: BuildProgress | None, stopped: Callable[[], bool]) -> Any:
    """Return a progress monitor that turns TensorRT's nested phases into one growing fraction, and can end the build.

    Its attribute `failure` is the exception of `progress` that ended the build, or None.
    """

    class Monitor(module.IProgressMonitor):  # type: ignore[misc] # of type Any
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self.failure: BaseException | None = None
            self._lock = threading.Lock()  # several threads of TensorRT may call
            self._phases: dict[str, list[Any]] = {}  # name: parent, steps, steps done
            self._reported = 0.0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            with self._lock:
                self._phases[name] = [parent, max(1, steps), 0]

        def step_complete(self, name: str, step: int) -> bool:
            with self._lock:
                if name in self._phases:
                    self._phases[name][2] = step + 1
                self.report(self._fraction(name))
            return self.failure is None and not stopped()

        def phase_finish(self, name: str) -> None:
            with self._lock:
                self._phases.pop(name, None)

        def _fraction(self, name: str | None) -> float:
            fraction = 0.0
            while name in self._phases:
                name, steps, done = self._phases[name]
                fraction = min(1.0, (done + fraction) / steps)
            return fraction

        def report(self, fraction: float) -> None:
            if progress is None or self.failure is not None or fraction < self._reported + 0.01:
                return
            self._reported = fraction
            try:
                progress(fraction)
            except BaseException as error:  # the caller is C++: the exception is raised after the build
                self.failure = error

    return Monitor()
