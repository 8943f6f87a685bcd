"""The plans of a build: taken over from the previous bundle, or compiled from its graphs; none for ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vexpress_rt.backends.tensorrt.compiler import Compiler
from vexpress_rt.backends.tensorrt.options import EngineOptions, audio_range
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.compilation import Compilation, with_newest
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR, TARGETS, EngineSpec, ModelConfig


class Plans:
    """What a build has of plans so far.

    target: one of `specs.TARGETS`.  model: says how short a clip may be.  folder: where plans come to lie; timings of
    kernels are kept beside it.
    Raises BackendMissingError without the library; BackendError without a GPU where the library builds on none.
    """

    def __init__(
        self, target: str, options: EngineOptions, model: ModelConfig, folder: Path, previous: Bundle | None
    ) -> None:
        self._folder, self._previous = folder, previous
        self._compiler: Compiler | None = None
        self._kept: list[Compilation] = []  # of the previous bundle and other machines, with what is taken over of each
        self._ours: Compilation | None = None
        if target != TARGETS[0]:
            self._compiler = Compiler.here(target, replace(options, ranges={"N": audio_range(model)}), folder)
            self._ours = self._compiler.compilation
            old = () if previous is None else previous.manifest.compiled
            # Other machines keep what was compiled for them as it is asked for now; they would miss the rest in vain.
            alike = [one for one in old if (one.library, one.options) == (target, self._ours.options)]
            self._kept = [replace(one, plans={}) for one in with_newest(alike, self._ours)[:-1]]

    def has(self, name: str) -> bool:
        """Whether the engine needs no plan, or the previous bundle has it undamaged. That of an older graph counts."""
        if self._ours is None or name == FACE_DETECTOR:
            return True
        plan = self._previous_plans(self._ours).get(name)
        return self._previous is not None and plan is not None and self._previous.is_sound(plan, thorough=True)

    def take_over(self, name: str) -> list[str]:
        """Keep the plans that the previous bundle has of an engine whose graph did not change: their files."""
        if self._previous is None or self._ours is None:
            return []
        taken: list[str] = []
        self._kept = [self._taken(one, name, taken) for one in self._kept]
        self._ours = self._taken(self._ours, name, taken)
        return taken

    def compile(self, name: str, graph: Path, spec: EngineSpec) -> str:
        """Compile an engine from its file `graph`; gives a line on it."""
        assert self._compiler is not None
        assert self._ours is not None
        plan, info = self._compiler.compile(graph, spec, self._folder)
        self._ours = replace(self._ours, plans={**self._ours.plans, name: plan})
        memory = "" if info.activation_bytes is None else f", {info.activation_bytes / 1e6:.0f} MB of activations"
        return f"{self._compiler.library.name}: {info.bytes / 1e6:.1f} MB in {info.seconds:.1f} s{memory}"

    def compilations(self) -> tuple[Compilation, ...]:
        """For the manifest: that of this machine last."""
        return (*(one for one in self._kept if one.plans), *([self._ours] if self._ours else []))

    def _taken(self, compilation: Compilation, name: str, taken: list[str]) -> Compilation:
        plan = self._previous_plans(compilation).get(name)
        assert self._previous is not None
        thorough = compilation is self._ours  # what other machines have, they look at themselves
        if plan is None or not self._previous.is_sound(plan, thorough=thorough):
            return compilation
        taken.append(plan)
        return replace(compilation, plans={**compilation.plans, name: plan})

    def _previous_plans(self, compilation: Compilation) -> dict[str, str]:
        old = () if self._previous is None else self._previous.manifest.compiled
        return next((dict(one.plans) for one in old if one.key == compilation.key), {})
