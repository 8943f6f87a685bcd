"""The providers "cuda" and "cpu": ONNX files, run by ONNX Runtime on a GPU or on the CPU."""

from __future__ import annotations

import os
from abc import abstractmethod

from vexpress_rt.backends.base import Engine, SharedExecutor
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.cuda.executor import Executor
from vexpress_rt.backends.onnxruntime import cuda_engine, engine
from vexpress_rt.backends.provider import EngineLoader, Progress, Provider, check_has_graphs, check_unchanged
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.target import ONNXRUNTIME, OPENVINO
from vexpress_rt.utils.cpus import ThreadLimit


class _OnnxRuntimeProvider(Provider):
    """Checks of a bundle that hold for ONNX Runtime on any device."""

    targets = (ONNXRUNTIME.name, OPENVINO.name)  # graphs of neither are compiled, and both run here
    precisions = ONNXRUNTIME.precisions

    def open(
        self,
        bundle: Bundle,
        *,
        device: str | None = None,
        precision: str | None = None,
        rebuild: str = "auto",
        progress: Progress | None = None,
        supported_only: bool = False,
    ) -> EngineLoader:
        """See `Provider.open`. Nothing is compiled ahead of time, so `rebuild` and `progress` have no effect."""
        check_has_graphs(bundle, "ONNX Runtime", self.precisions)
        return self._open(bundle)

    @abstractmethod
    def _open(self, bundle: Bundle) -> EngineLoader:
        """Check the device and return the loader of a bundle that has graphs."""

    def describe_library(self, target: str) -> str:
        """See `Provider.describe_library`."""
        return f"ONNX Runtime {engine.version()}"


class CudaProvider(_OnnxRuntimeProvider):
    """ONNX Runtime's CUDA execution provider, which runs ONNX files on a GPU."""

    name = "cuda"
    advantage = "there is a GPU, and an ONNX Runtime that can use it"
    on_gpu = True

    def _open(self, bundle: Bundle) -> EngineLoader:
        runtime.check()
        cuda_engine.check_installed()
        return _CudaLoader(bundle)

    def check_installed(self, target: str) -> None:
        """See `Provider.check_installed`."""
        cuda_engine.check_installed()

    def describe_device(self, limit: ThreadLimit, device: str | None = None) -> str:
        """See `Provider.describe_device`."""
        return runtime.describe()

    def make_executor(self) -> Executor:
        """See `Provider.make_executor`."""
        return Executor()


class CpuProvider(_OnnxRuntimeProvider):
    """ONNX Runtime on the CPU, which runs ONNX files."""

    name = "cpu"
    advantage = "it is always available"
    maps_weights = True
    tunable = True
    loading_memory = 6.0  # measured: 1.0 to 3.1 for float32 files, up to 5.7 for those of --compact, which are widened

    def _open(self, bundle: Bundle) -> EngineLoader:
        return _CpuLoader(bundle)

    def check_installed(self, target: str) -> None:
        """See `Provider.check_installed`."""
        engine.version()

    def describe_device(self, limit: ThreadLimit, device: str | None = None) -> str:
        """See `Provider.describe_device`."""
        return f"CPU with {os.cpu_count()} cores, {limit.describe()}"


class _CudaLoader(EngineLoader):
    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def load(
        self,
        name: str,
        *,
        threads: int | None = None,
        executor: SharedExecutor | None = None,
        share_weights: bool = False,
    ) -> Engine:
        """See `EngineLoader.load`. Weights are copied to the GPU, so `share_weights` has no effect."""
        assert executor is None or isinstance(executor, Executor)  # see `CudaProvider.make_executor`
        bundle = self._bundle
        loaded = cuda_engine.load(bundle.engine_path(name), bundle.specs.get(name), threads=threads, executor=executor)
        return check_unchanged(loaded, bundle, name)


class _CpuLoader(EngineLoader):
    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def load(
        self,
        name: str,
        *,
        threads: int | None = None,
        executor: SharedExecutor | None = None,
        share_weights: bool = False,
    ) -> Engine:
        """See `EngineLoader.load`."""
        return load_on_cpu(self._bundle, name, threads, share_weights=share_weights)


def load_on_cpu(bundle: Bundle, name: str, threads: int | None, *, share_weights: bool = False) -> Engine:
    """Load the engine `name` of a bundle from its graph, to run on the CPU.

    Args:
        bundle: The bundle.
        name: The engine's name.
        threads: CPU threads of one operator; None for one per core.
        share_weights: Map weights of a file that several engines have in common; see `engine.load`.

    Raises:
        BundleError: The bundle lacks the engine, or its files are damaged or change while they are loaded.
        BackendError: ONNX Runtime refuses the graph, or memory runs out.
    """
    share = share_weights and bundle.shares_weights(name)
    loaded = engine.load(bundle.engine_path(name), bundle.specs.get(name), threads=threads, share_weights=share)
    return check_unchanged(loaded, bundle, name)
