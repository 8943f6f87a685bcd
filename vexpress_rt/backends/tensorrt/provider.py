"""The provider "tensorrt": plans of TensorRT or TensorRT for RTX on a GPU."""

from __future__ import annotations

from vexpress_rt.backends.base import Engine, SharedExecutor
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.cuda.executor import Executor
from vexpress_rt.backends.onnxruntime.provider import load_on_cpu
from vexpress_rt.backends.provider import EngineLoader, Progress, Provider, check_unchanged
from vexpress_rt.backends.tensorrt import engine, library
from vexpress_rt.backends.tensorrt.plan_store import Plans, find_plans
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR
from vexpress_rt.bundle.target import COMPILED_TARGETS, TENSORRT
from vexpress_rt.utils.cpus import ThreadLimit


class TensorRTProvider(Provider):
    """TensorRT, which runs the plans of a compiled bundle; it compiles them first if none fits this machine."""

    name = "tensorrt"
    advantage = "the bundle is compiled for it and there is a GPU"
    targets = COMPILED_TARGETS
    precisions = TENSORRT.precisions  # and those of TensorRT for RTX
    on_gpu = True

    def open(
        self,
        bundle: Bundle,
        *,
        device: str | None = None,
        precision: str | None = None,
        rebuild: str = "auto",
        progress: Progress | None = None,
        supported_only: bool = False,
    ) -> PlanLoader:
        """See `Provider.open`."""
        return PlanLoader(bundle, find_plans(bundle, rebuild, progress, supported_only=supported_only))

    def check_installed(self, target: str) -> None:
        """See `Provider.check_installed`."""
        library.load(target)

    def describe_library(self, target: str) -> str:
        """See `Provider.describe_library`."""
        return library.load(target).name

    def describe_device(self, limit: ThreadLimit, device: str | None = None) -> str:
        """See `Provider.describe_device`."""
        return runtime.describe()

    def compile(self, bundle: Bundle, progress: Progress) -> str:
        """See `Provider.compile`."""
        return find_plans(bundle, progress=progress, thorough=True).compilation.describe()

    def make_executor(self) -> Executor:
        """See `Provider.make_executor`."""
        return Executor()


class PlanLoader(EngineLoader):
    """A loader of plans. If the face detector has none, ONNX Runtime runs it on the CPU.

    The detector runs once per portrait, with a picture and faces in host memory, so a plan for it gains little.

    Attributes:
        plans: The plans of the bundle for this machine.
    """

    def __init__(self, bundle: Bundle, plans: Plans) -> None:
        self._bundle = bundle
        self.plans = plans

    def load(
        self,
        name: str,
        *,
        threads: int | None = None,
        executor: SharedExecutor | None = None,
        share_weights: bool = False,
    ) -> Engine:
        """See `EngineLoader.load`."""
        assert executor is None or isinstance(executor, Executor)  # see `TensorRTProvider.make_executor`
        plans = self.plans
        if name == FACE_DETECTOR and name not in plans.compilation.plans:
            return load_on_cpu(self._bundle, name, threads, share_weights=share_weights)
        path = plans.path(name)
        bundle = plans.bundle  # after `path`, which may compile the plans again
        loaded = engine.load(path, bundle.specs.get(name), target=bundle.manifest.target, executor=executor)
        return check_unchanged(loaded, bundle, name, path.name)

    def describe_plans(self) -> str:
        """See `EngineLoader.describe_plans`."""
        return self.plans.compilation.describe()
