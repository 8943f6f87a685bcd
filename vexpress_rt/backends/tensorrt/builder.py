"""ONNX files to TensorRT engines, through Polygraphy: strongly typed, so that the graph alone decides on precisions."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vexpress_rt.backends.tensorrt.library import Library
from vexpress_rt.backends.tensorrt.messages import Messages, readable
from vexpress_rt.backends.tensorrt.options import EngineOptions
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec, interface_errors
from vexpress_rt.errors import BackendError, BundleDamagedError, ConfigError, OutputError, VExpressError
from vexpress_rt.utils.shutdown import native_call
from vexpress_rt.utils.signals import signals_deferred

_log = logging.getLogger(__name__)
_OUT_OF_MEMORY = re.compile(r"out ?of ?memory|memory allocat|allocat\w* .*memory|bad_?alloc", re.IGNORECASE)
_TIMINGS_LIMIT = 1 << 30  # bytes; what is larger holds something else
_ONE_AT_A_TIME = threading.Lock()  # a build of the full model takes gigabytes; and Polygraphy's settings are global

Progress = Callable[[float], object]


@dataclass(frozen=True)
class BuildInfo:
    """A build: how long it took, the size of the engine's file, and the memory that it needs on the GPU to run.

    activation_bytes: beside weights, inputs and outputs, for the largest shapes; None where TensorRT does not say.
    """

    seconds: float
    bytes: int
    activation_bytes: int | None


def build_engine(
    onnx: Path,
    spec: EngineSpec,
    output: Path,
    library: Library,
    options: EngineOptions | None = None,
    progress: Progress | None = None,
) -> BuildInfo:
    """Build the graph in the file `onnx` into the engine `output`, replacing what is there. One at a time in a process.

    Files with weights have to lie beside the graph. progress: called with what is done, 0 to 1, from any thread; with
    TensorRT for RTX it soon stands at 0.8 for most of the time. Whatever happens, `output` is complete or as it was.
    Ctrl-C takes effect when TensorRT next reports progress, which may be at its end.

    Raises ConfigError for options that the library does not have; OutputError if `output` cannot be written;
    BundleDamagedError if the graph is not there, or naming every input and output that is not as `spec` has it;
    BackendError naming node, operator and complaint for what the library cannot parse, or its reason for what it
    cannot build.
    """
    started = time.perf_counter()
    if not onnx.is_file():
        raise BundleDamagedError(f"{onnx}, the graph of engine {spec.name}, is missing: export it again")
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):  # known now rather than in 20 minutes
        raise OutputError(f"{output} cannot be written: {output.parent} is no folder that can be written to")
    with _ONE_AT_A_TIME, library.collect(workers=True) as messages:
        engine = _Build(onnx, spec, library, options or EngineOptions(), progress).run(messages)
    size = _write(output, engine)
    return BuildInfo(time.perf_counter() - started, size, messages.activation_bytes)


class _Build:
    """One build. TensorRT's objects lean on one another: network on parser, for its weights, and on builder."""

    def __init__(
        self, onnx: Path, spec: EngineSpec, library: Library, options: EngineOptions, progress: Progress | None
    ) -> None:
        self._onnx, self._spec, self._library, self._options = onnx, spec, library, options
        self._progress = progress

    def run(self, messages: Messages) -> Any:
        """The serialised engine, an object with the buffer interface."""
        with signals_deferred() as stopped, self._library.polygraphy() as polygraphy:
            monitor = _make_monitor(self._library.module, self._progress, stopped)
            try:
                engine = self._run(polygraphy, monitor)
            except VExpressError:
                raise
            except Exception as error:  # Polygraphy's and pybind11's, without a common base
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
        # A permission, not a wish: where a fused kernel exists it is taken, and the engine is the same to the bit.
        polygraphy.set_decomposable_attentions((builder, network, parser))
        with native_call():
            engine = polygraphy.engine_bytes_from_network((builder, network, parser), config)
        self._save_timings(config)
        monitor.tell(1.0)
        return engine

    def _configure(self, builder: Any) -> Any:
        """Not Polygraphy's CreateConfig: that always sets a timing cache, which TensorRT for RTX should not see."""
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
        """Not Polygraphy's NetworkFromOnnxPath: its error does not say which node the parser complained of."""
        parser = self._library.module.OnnxParser(network, self._library.logger)
        if not parser.parse_from_file(str(self._onnx)) or parser.num_errors:  # by path: weights lie in other files
            complaints = [_complaint(parser.get_error(index)) for index in range(parser.num_errors)]
            raise BackendError(
                f"{self._library.name} cannot read engine {self._spec.name} from {self._onnx.resolve()}: "
                f"{'; '.join(complaints) or 'it gives no reason'}: export the graph again, update "
                f"{self._library.title}, or build with `--target onnxruntime`"
            )
        return parser

    def _check_interface(self, network: Any) -> None:
        inputs = (network.get_input(index) for index in range(network.num_inputs))
        outputs = (network.get_output(index) for index in range(network.num_outputs))
        found = EngineSpec(self._spec.name, *(tuple(map(self._tensor, tensors)) for tensors in (inputs, outputs)))
        if wrong := interface_errors(found, self._spec):
            raise BundleDamagedError(
                f"{self._onnx.resolve()} is not the engine {self._spec.name} that is wanted: {'; '.join(wrong)}: "
                f"export it again with `python -m export.build --engine {self._spec.name}`"
            )

    def _tensor(self, tensor: Any) -> TensorSpec:
        sizes = tuple(None if size < 0 else int(size) for size in tensor.shape)
        return TensorSpec(tensor.name, tuple(map(str, sizes)), sizes, self._library.dtype_name(tensor.dtype))

    def _add_profile(self, polygraphy: Any, builder: Any, network: Any, config: Any) -> None:
        """Sizes of open dims; a graph without such needs none."""
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
            _check_timings(path)
            cache = config.create_timing_cache(path.read_bytes())
            if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
                return
            _log.warning("%s is of another GPU or version of %s; it begins anew", path, self._library.title)
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
                _check_timings(path)  # a device would be replaced
            _write(path, config.get_timing_cache().serialize())
        except (OutputError, OSError) as error:  # the engine is none the worse
            _log.warning("%s", error)

    def _failed(self, reason: str) -> BackendError:
        remedy = f"update {self._library.title}, or build with `--target onnxruntime`"
        if _OUT_OF_MEMORY.search(reason):
            remedy = "close other programs, or build with smaller sizes or fewer frames"
        if not self._library.builds_without_gpu:
            remedy += "; it builds only where there is a working NVIDIA GPU"
        return BackendError(f"{self._library.name} cannot build engine {self._spec.name}: {reason}: {remedy}")


def _complaint(error: Any) -> str:
    node = f"node {error.node_name() or error.node()}"
    where = f"{node} ({error.node_operator()}): " if error.node_operator() else ""
    return where + readable(error.desc())


def _check_timings(path: Path) -> None:
    """Raises OSError unless it is a file that may hold timings: a pipe or a device could be read for ever."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is a folder or a device; expected a file of timings: choose another")
    if found.st_size > _TIMINGS_LIMIT:
        raise OSError(f"{path} has {found.st_size} bytes; expected at most {_TIMINGS_LIMIT}: choose another file")


def _write(path: Path, content: Any) -> int:
    """Write a buffer to a file, whole or not at all; gives its size. No copy is made of it."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with memoryview(content) as view, part.open("xb") as file:
            file.write(view)
            file.flush()
            os.fsync(file.fileno())  # some file systems say only now that the disk is full
            size = view.nbytes
        os.replace(part, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}: check folder, permissions and free space") from error
    finally:
        part.unlink(missing_ok=True)
    return size


def _make_monitor(module: Any, progress: Progress | None, stopped: Callable[[], bool]) -> Any:
    """Turns TensorRT's nested phases, each of a number of steps, into one growing fraction; ends the build on request.

    failure: what `progress` raised, which ended the build, or None.
    """

    class Monitor(module.IProgressMonitor):  # type: ignore[misc] # of type Any
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self.failure: BaseException | None = None
            self._lock = threading.Lock()  # several threads of TensorRT's may call
            self._phases: dict[str, list[Any]] = {}  # name: parent, steps, steps done
            self._told = 0.0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            with self._lock:
                self._phases[name] = [parent, max(1, steps), 0]

        def step_complete(self, name: str, step: int) -> bool:
            with self._lock:
                if name in self._phases:
                    self._phases[name][2] = step + 1
                self.tell(self._fraction(name))
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

        def tell(self, fraction: float) -> None:
            if progress is None or self.failure is not None or fraction < self._told + 0.01:
                return
            self._told = fraction
            try:
                progress(fraction)
            except BaseException as error:  # C++ called this and knows no exceptions: raised after the build instead
                self.failure = error

    return Monitor()
