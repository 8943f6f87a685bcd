"""The TensorRT plans of a build: reused from the previous bundle, or compiled from its graphs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vexpress_rt.backends.tensorrt.builder import Compiler
from vexpress_rt.backends.tensorrt.options import EngineOptions, audio_range
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.compilation import Compilation, with_newest
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR, EngineSpec, ModelConfig
from vexpress_rt.bundle.target import TARGETS


class Plans:
    """The plans that a build has so far. For ONNX Runtime there are none."""

    def __init__(
        self, target: str, options: EngineOptions, model: ModelConfig, folder: Path, previous: Bundle | None
    ) -> None:
        """Load the compiler of the target.

        Args:
            target: A key of `TARGETS`.
            options: Options of TensorRT.
            model: Configuration of the model, which decides the shortest recording that the audio encoder takes.
            folder: The staging directory. Plans are written into it; timings of kernels are kept beside it.
            previous: The bundle that the build replaces.

        Raises:
            BackendMissingError: The library of the target is not installed.
            BackendError: There is no GPU, and the library cannot build without one.
        """
        self._folder, self._previous = folder, previous
        self._compiler: Compiler | None = None
        # Compilations of the previous bundle for other machines, with those of their plans that are reused.
        self._others: list[Compilation] = []
        self._ours: Compilation | None = None
        if TARGETS[target].compiled:
            self._compiler = Compiler.here(target, replace(options, ranges={"N": audio_range(model)}), folder)
            self._ours = self._compiler.compilation
            old = () if previous is None else previous.manifest.compiled
            # Other machines keep plans of the present options. Plans of other options would never be looked for.
            same_options = [one for one in old if (one.library, one.options) == (target, self._ours.options)]
            self._others = [replace(one, plans={}) for one in with_newest(same_options, self._ours)[:-1]]

    def has(self, name: str) -> bool:
        """Return whether the engine needs no plan, or the previous bundle has an undamaged plan of it, of any graph."""
        if self._ours is None or name == FACE_DETECTOR:
            return True
        plan = self._previous_plans(self._ours).get(name)
        return self._previous is not None and plan is not None and self._previous.is_sound(plan, thorough=True)

    def reuse(self, name: str) -> list[str]:
        """Keep the plans that the previous bundle has of an engine whose graph did not change.

        Args:
            name: Name of the engine.

        Returns:
            The names of the plans' files.
        """
        if self._previous is None or self._ours is None:
            return []
        reused: list[str] = []
        self._others = [self._with_plan(one, name, reused) for one in self._others]
        self._ours = self._with_plan(self._ours, name, reused)
        return reused

    def compile(self, name: str, graph: Path, spec: EngineSpec) -> str:
        """Compile an engine.

        Args:
            name: Name of the engine.
            graph: ONNX file of the engine.
            spec: Specification of the engine.

        Returns:
            A line of progress: size, time and memory of the plan.
        """
        assert self._compiler is not None
        assert self._ours is not None
        plan, info = self._compiler.compile(graph, spec, self._folder)
        self._ours = replace(self._ours, plans={**self._ours.plans, name: plan})
        memory = "" if info.activation_bytes is None else f", {info.activation_bytes / 1e6:.0f} MB of activations"
        return f"{self._compiler.library.name}: {info.bytes / 1e6:.1f} MB in {info.seconds:.1f} s{memory}"

    def compilations(self) -> tuple[Compilation, ...]:
        """Return the compilations for the manifest, with the one of this machine last."""
        return (*(one for one in self._others if one.plans), *([self._ours] if self._ours else []))

    def _with_plan(self, compilation: Compilation, name: str, reused: list[str]) -> Compilation:
        plan = self._previous_plans(compilation).get(name)
        assert self._previous is not None
        thorough = compilation is self._ours  # other machines check their own plans
        if plan is None or not self._previous.is_sound(plan, thorough=thorough):
            return compilation
        reused.append(plan)
        return replace(compilation, plans={**compilation.plans, name: plan})

    def _previous_plans(self, compilation: Compilation) -> dict[str, str]:
        old = () if self._previous is None else self._previous.manifest.compiled
        return next((dict(one.plans) for one in old if one.key == compilation.key), {})
