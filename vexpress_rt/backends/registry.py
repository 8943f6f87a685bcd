"""What runs a bundle's engines on this machine: TensorRT, ONNX Runtime on a GPU, or ONNX Runtime on the CPU."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass, field

from vexpress_rt import __version__
from vexpress_rt.backends.base import Engine
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.cuda.executor import Executor
from vexpress_rt.backends.onnxruntime import engine as onnxruntime
from vexpress_rt.backends.tensorrt import engine as tensorrt
from vexpress_rt.backends.tensorrt import library as tensorrt_library
from vexpress_rt.backends.tensorrt.plan_rebuild import Progress, Told
from vexpress_rt.backends.tensorrt.plan_store import Plans, find_plans
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR, ONLY_TENSORRT, TARGETS
from vexpress_rt.config import REBUILD, check_choice
from vexpress_rt.errors import BackendError, BundleDamagedError, ConfigError, OutputError, PlansMissingError
from vexpress_rt.types import FileStamp
from vexpress_rt.utils.cpus import ThreadLimit, describe_cpus, limit_threads

PROVIDERS = ("auto", "tensorrt", "cuda", "cpu")  # the best first

_log = logging.getLogger("vexpress_rt")


@dataclass(frozen=True)
class Choice:
    """name: `tensorrt`, `cuda` or `cpu`.  reason: why that, for people.  plans: what TensorRT runs."""

    name: str
    reason: str
    plans: Plans | None = field(default=None, compare=False)


def choose(provider: str, bundle: Bundle, rebuild: str = "auto", progress: Progress | None = None) -> Choice:
    """What is to run the engines of a bundle. Of PROVIDERS, "auto" takes the best that bundle and machine have.

    Most bundles hold ONNX files, so that those that were compiled for TensorRT run without it, too; "auto" warns then.
    It passes over TensorRT for RTX on a GPU that that is not made for; "tensorrt" tries it.
    rebuild, progress: for plans that have to be compiled first, as `find_plans` has it.

    Raises ConfigError for an unknown provider and for one that the bundle was not built for, BackendMissingError for
    one whose libraries are not installed, BackendError for one that needs a GPU where there is none;
    PlansMissingError, also for "auto", where TensorRT lacks nothing but plans and `rebuild` is "never"; and what else
    `find_plans` raises.
    """
    check_choice("provider", provider, PROVIDERS)
    check_choice("rebuild", rebuild, REBUILD)
    if provider != "auto":
        return Choice(provider, "asked for", _check(provider, bundle, rebuild, progress))
    lacks: dict[str, list[str]] = {}
    told = None if progress is None else Told(progress)
    for name in PROVIDERS[1:]:
        try:
            plans = _check(name, bundle, rebuild, told, suited=True)
        except PlansMissingError:
            raise  # who forbids to compile does not want minutes of a slower provider in its place
        except (ConfigError, BackendError, OutputError) as error:
            if told is not None and error is told.failure:
                raise
            lacks.setdefault(str(error), []).append(name)
            continue
        reason = "; ".join([_MERITS[name], *_told(lacks)])
        expected = name == "tensorrt" or bundle.manifest.target == TARGETS[0]
        _log.log(logging.INFO if expected else logging.WARNING, "provider %s: %s", name, reason)
        return Choice(name, reason, plans)
    raise ConfigError(f"nothing on this machine can run the bundle: {'; '.join(_told(lacks))}")


def load(
    choice: Choice, bundle: Bundle, name: str, threads: int | None, executor: Executor | None = None, *,
    share_weights: bool = False,
) -> Engine:  # fmt: skip
    """The engine `name` of a bundle, as was chosen.

    The face detector may lack a plan: its pictures come from the host and its faces go there, once a portrait, so
    that ONNX Runtime runs it on the CPU then.

    threads: of the CPU.  executor: on a GPU, what runs the bundle's engines one at a time; None makes one of its own.
    share_weights: on the CPU, of engines that have a file of weights in common, as `onnxruntime.load` has it.
    Raises BundleError and BackendError as the bundle and the backends do.
    """
    spec, plans = bundle.specs.get(name), choice.plans
    engine: Engine
    plan: str | None = None
    if plans is not None and (name != FACE_DETECTOR or name in plans.compilation.plans):
        path = plans.path(name)
        bundle, plan = plans.bundle, path.name
        engine = tensorrt.load(path, spec, target=bundle.manifest.target, executor=executor)
    elif choice.name == "cuda":
        engine = onnxruntime.load(bundle.engine_path(name), spec, threads=threads, provider="cuda", executor=executor)
    else:
        shared = share_weights and bundle.shares_weights(name)
        engine = onnxruntime.load(bundle.engine_path(name), spec, threads=threads, share_weights=shared)
    try:
        bundle.check_unchanged(name, plan)
    except BundleDamagedError:
        engine.close()
        raise
    return engine


class Engines:
    """A bundle's engines, each loaded when first asked for; those on a GPU share its streams and activation memory.

    Several threads may use it. Close it when nothing runs any more.

    threads: CPU threads. A number above `cpus.usable_cpus()` is lowered to it, with a warning. None for one per core.
    """

    def __init__(self, bundle: Bundle, choice: Choice, threads: int | None, *, share_weights: bool = False) -> None:
        self.bundle = bundle
        self.choice = choice
        self._limit = limit_threads(threads)
        self.threads = threads  # as requested: the backends and the median filter apply the limit themselves
        if self._limit.lowered:
            _log.warning(
                "threads is %s, but this process may use %s: using %s, because more threads would only wait",
                self._limit.requested, describe_cpus(self._limit.usable), self._limit.threads,
            )  # fmt: skip
        self._share_weights = share_weights
        self._loaded: dict[str, Engine] = {}
        self._stamps: dict[str, dict[str, FileStamp | None]] = {}  # of weights, when their engines were loaded
        self._executor: Executor | None = None
        self._lock = threading.Lock()
        self._closed = False

    def get(self, name: str) -> Engine:
        """The engine `name`.

        Raises as `load` does, BackendError after `close`, and BundleDamagedError if its weights were written to since
        it was loaded.
        """
        with self._lock:
            self._check_open()
            if name not in self._loaded:
                self._stamps[name] = self.bundle.weight_stamps(name)  # before, so that nothing slips in between
                self._loaded[name] = load(
                    self.choice, self.bundle, name, self.threads, self._shared(), share_weights=self._share_weights
                )
            elif self.choice.name == "cpu":  # others have copies
                self.bundle.check_unwritten(name, self._stamps[name])
            return self._loaded[name]

    def executor(self) -> Executor | None:
        """The executor that the engines on a GPU share; None on the CPU. Raises BackendError as `get` does."""
        with self._lock:
            self._check_open()
            return self._shared()

    def close(self) -> None:
        """Free the engines and what they share. Closing twice is allowed."""
        with self._lock:
            self._closed = True
            while self._loaded:
                self._loaded.popitem()[1].close()
            if self._executor is not None:
                self._executor.close()
                self._executor = None

    def _shared(self) -> Executor | None:
        """What engines on a GPU share; None on the CPU. `_lock` is held."""
        if self._executor is None and self.choice.name != "cpu":
            self._executor = Executor()
        return self._executor

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError("this Generator was closed: make a new one")

    def describe(self, latents: str) -> str:
        """A few lines: the bundle, its size and precision, what runs it and why, the device, versions.

        latents: where latents are between engines, for people.
        Raises BackendError if the device or the library cannot be asked any more.
        """
        manifest, shape = self.bundle.manifest, self.bundle.manifest.shape
        plans = f", plans for {self.choice.plans.compilation.describe()}" if self.choice.plans else ""
        facts = {
            "bundle": f"{self.bundle.folder}, identity {self.bundle.identity}",
            "built": f"for {manifest.target}{plans}",
            "size": f"{shape.height} x {shape.width} pixels (height x width), windows of {shape.frames} frames",
            "precision": manifest.precision,
            "provider": f"{self.choice.name} ({self.choice.reason})",
            "device": _device(self.choice.name, self._limit),
            "latents": latents,
            "versions": f"vexpress_rt {__version__}, {_library(self.choice.name, manifest.target)}",
        }
        return "\n".join(f"{name + ':':<10} {text}" for name, text in facts.items())


def _check(name: str, bundle: Bundle, rebuild: str, progress: Progress | None, *, suited: bool = False) -> Plans | None:
    """Raise what keeps a provider from running the bundle; gives its plans if it runs such."""
    if name == "tensorrt":
        return find_plans(bundle, rebuild, progress, suited=suited)
    if bundle.manifest.precision == ONLY_TENSORRT:  # also without graphs, of which others would not help
        raise ConfigError(
            "the bundle is in bfloat16, which ONNX Runtime does not compute in: use provider='tensorrt', or build one "
            "with --precision fp16"
        )
    if not bundle.manifest.onnx:
        raise ConfigError(
            "the bundle was built with --no-onnx and holds nothing that ONNX Runtime could run: use "
            "provider='tensorrt', or build it again without --no-onnx"
        )
    if name == "cuda":
        runtime.check()
        onnxruntime.check_cuda()
    return None


_MERITS = {
    "tensorrt": "the bundle is compiled for it and there is a GPU",
    "cuda": "there is a GPU, and an ONNX Runtime that can use it",
    "cpu": "it is always there",
}


def _told(lacks: dict[str, list[str]]) -> list[str]:
    return [f"not {' or '.join(names)}, since {why}" for why, names in lacks.items()]


def _device(name: str, limit: ThreadLimit) -> str:
    if name == "cpu":
        return f"CPU with {os.cpu_count()} cores, {limit.describe()}"
    title, (major, minor) = runtime.name_and_capability()
    free, total = runtime.memory()
    memory = f"{runtime.readable(free)} of {runtime.readable(total)} of memory free"
    return f"{title}, compute capability {major}.{minor}, {memory}"


def _library(name: str, target: str) -> str:
    return tensorrt_library.load(target).name if name == "tensorrt" else f"ONNX Runtime {onnxruntime.version()}"
