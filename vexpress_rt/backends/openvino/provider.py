"""The provider "openvino": ONNX files, compiled by OpenVINO for the CPU, an Intel GPU or an NPU.

Engines on the CPU are compiled once and stored in the user's cache (`compiled_cache.py`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from vexpress_rt.backends.base import Engine, SharedExecutor
from vexpress_rt.backends.openvino import library
from vexpress_rt.backends.openvino.compiled_cache import CachedEngine
from vexpress_rt.backends.openvino.engine import OpenVinoEngine, compile_onnx
from vexpress_rt.backends.openvino.model import imported_spec
from vexpress_rt.backends.openvino.options import CPU, DEVICES, FULL, PRECISIONS, EngineOptions, check_options
from vexpress_rt.backends.openvino.self_test import SelfTest, check_reduced_precision
from vexpress_rt.backends.provider import EngineLoader, Progress, Provider, check_has_graphs, check_unchanged
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import GUIDERS, EngineSpec
from vexpress_rt.bundle.target import ONNXRUNTIME, OPENVINO
from vexpress_rt.errors import BundleDamagedError
from vexpress_rt.utils.cpus import ThreadLimit

# Engines that run for each window or frame, and whose kernels the self-test covers.
_REDUCED = (*GUIDERS.values(), "denoiser", "denoiser_cond", "vae_decoder")


class OpenVinoProvider(Provider):
    """OpenVINO, which compiles ONNX files for the CPU, an Intel GPU or an NPU when they are loaded."""

    name = "openvino"
    advantage = "it runs graphs on the CPU and on Intel's devices"
    targets = (OPENVINO.name, ONNXRUNTIME.name)
    precisions = ONNXRUNTIME.precisions
    devices = DEVICES
    computes_in = PRECISIONS
    maps_weights = True
    loading_memory = 6.0  # measured: 2.0 to 2.9 for float32 files; those of --compact are widened to twice their size
    tunable = True

    def open(
        self,
        bundle: Bundle,
        *,
        device: str | None = None,
        precision: str | None = None,
        rebuild: str = "auto",
        progress: Progress | None = None,
        supported_only: bool = False,
    ) -> OpenVinoLoader:
        """See `Provider.open`. Engines are compiled at their first use, so `rebuild` has no effect.

        Reduced precision is tested first (`self_test`). If it fails, engines compute in float32.
        """
        check_has_graphs(bundle, "OpenVINO", self.precisions)
        options = EngineOptions(device or DEVICES[0], precision or PRECISIONS[0])
        check_options(options.device, options.precision)
        if options.precision == FULL:
            return OpenVinoLoader(bundle, options)
        tested = check_reduced_precision(
            library.import_library(), library.compiler(), options.device, options.configuration(),
            bundle.manifest.model, bundle.manifest.shape,
        )  # fmt: skip
        if tested.passed:
            return OpenVinoLoader(bundle, options)
        check_options(options.device, FULL)
        return OpenVinoLoader(bundle, replace(options, precision=FULL), (options.precision, tested))

    def check_installed(self, target: str) -> None:
        """See `Provider.check_installed`."""
        library.import_library()

    def describe_library(self, target: str) -> str:
        """See `Provider.describe_library`."""
        return f"OpenVINO {library.version()}"

    def describe_device(self, limit: ThreadLimit, device: str | None = None) -> str:
        """See `Provider.describe_device`."""
        device = device or DEVICES[0]
        return f"{device} ({library.device_name(device)}), {limit.describe()}"


class OpenVinoLoader(EngineLoader):
    """A loader of engines from their graphs.

    Args:
        bundle: The bundle.
        options: Device and precision, checked for this machine.
        failed: The requested precision and its self-test, if that failed; else None.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions, failed: tuple[str, SelfTest] | None = None) -> None:
        self._bundle = bundle
        self._options = options
        self._failed = failed

    def load(
        self,
        name: str,
        *,
        threads: int | None = None,
        executor: SharedExecutor | None = None,
        share_weights: bool = False,
    ) -> Engine:
        """See `EngineLoader.load`. OpenVINO packs weights for each engine, so `share_weights` has no effect."""
        bundle = self._bundle
        bundle.require([name])
        options = engine_options(name, bundle.specs.get(name), replace(self._options, threads=threads))
        cached = CachedEngine(bundle, name, options)
        if (imported := self._import(name, cached)) is not None:
            return imported
        with cached.compiling():
            if (imported := self._import(name, cached)) is not None:  # another process has compiled it meanwhile
                return imported
            path = bundle.engine_path(name)
            compiled, spec = self._compile(name, path, bundle.specs.get(name), options)
            engine = check_unchanged(OpenVinoEngine.check(compiled, path, name, spec), bundle, name)
            cached.store(compiled)
        return engine

    def describe_precision(self) -> str:
        """See `EngineLoader.describe_precision`."""
        own, used = self._bundle.manifest.precision, self._options.precision
        if self._failed is not None:
            requested, test = self._failed
            return f"{used}, because {requested} failed its self-test: {test.describe()}"
        return used if used == own else f"{used} (the bundle is in {own})"

    def _import(self, name: str, cached: CachedEngine) -> OpenVinoEngine | None:
        """Return an engine from the user's cache; None if there is none, or if it has other inputs or outputs."""
        if (compiled := cached.find()) is None:
            return None
        spec = self._bundle.specs.get(name)
        if spec is not None:
            spec = imported_spec(compiled, spec)
        try:
            return OpenVinoEngine.check(compiled, self._bundle.folder / name, name, spec)
        except BundleDamagedError:
            cached.discard()
            return None

    def _compile(
        self, name: str, path: Path, spec: EngineSpec | None, options: EngineOptions
    ) -> tuple[Any, EngineSpec | None]:
        """Return the compiled model of an engine whose graph and weights were checked: see `compile_onnx`."""
        return compile_onnx(path, name, spec, options)


def engine_options(name: str, spec: EngineSpec | None, options: EngineOptions) -> EngineOptions:
    """Return the options of one engine.

    On the CPU, only engines that run for each window or frame compute in reduced precision. The others run once per
    photo or speech: float32 costs little there, and brings 0.5 to 4 dB. On other devices, which may have no float32,
    all have the same precision, but for engines with dynamic sizes, which run on the CPU: NPUs have no dynamic sizes,
    and Intel GPUs compile for each new size.

    Args:
        name: The engine's name.
        spec: Its inputs and outputs; None for the face detector, whose sizes are dynamic.
        options: The options of the bundle's engines.
    """
    dynamic = spec is None or any(None in tensor.shape for tensor in spec.inputs)
    if options.device != CPU and not dynamic:
        return options
    return replace(options, device=CPU, precision=options.precision if name in _REDUCED else FULL)
