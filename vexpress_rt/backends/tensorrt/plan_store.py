"""The plans of a bundle that run on this machine; `plan_rebuild` compiles them where there are none."""

from __future__ import annotations

import shlex
from pathlib import Path

from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.provider import Progress, not_compiled_error
from vexpress_rt.backends.tensorrt import library as tensorrt_library
from vexpress_rt.backends.tensorrt.builder import describe_machine
from vexpress_rt.backends.tensorrt.plan_rebuild import build_command, engines_with_plans, rebuild_plans
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.compilation import Compilation, Machine
from vexpress_rt.bundle.target import TARGETS
from vexpress_rt.errors import BackendError, BundleDamagedError, PlansMissingError
from vexpress_rt.utils.project_links import EXPORTER


def find_plans(
    bundle: Bundle,
    rebuild: str = "auto",
    progress: Progress | None = None,
    *,
    thorough: bool = False,
    supported_only: bool = False,
) -> Plans:
    """Find the plans of a bundle for this machine, or compile them.

    Args:
        bundle: The bundle.
        rebuild: One of `config.REBUILD`. "auto" compiles plans, once, which takes minutes, if none fits this machine or
            if some are missing or of the wrong size. "never" makes that an error that names the command.
        progress: Called while plans are compiled: stage, done, total; from any thread.
        thorough: Compare the hashes of all plans now, and not only when each is loaded.
        supported_only: Refuse a GPU that the library is not made for, even if it may run there.

    Raises:
        ConfigError: The bundle was not built for TensorRT, or its recorded options are invalid.
        BackendMissingError: TensorRT is not installed, or Polygraphy where plans have to be compiled.
        BackendError: There is no GPU, or it is refused, or compiling failed.
        PlansMissingError: Plans would have to be compiled, and `rebuild` is "never".
        OutputError: Plans cannot be written to the bundle.
        BundleDamagedError: A graph is damaged, or another bundle has replaced this one.
    """
    target = bundle.manifest.target
    if not TARGETS[target].compiled:
        raise not_compiled_error(bundle)
    runtime.check()
    library = tensorrt_library.load(target)
    if supported_only and (unsupported_reason := library.unsupported_reason(*runtime.name_and_capability())):
        raise BackendError(f"{unsupported_reason}, or try this one with provider='tensorrt'")
    return Plans(bundle, describe_machine(library), rebuild, progress, thorough=thorough)


class Plans:
    """The plans of a bundle for this machine; made by `find_plans`.

    Attributes:
        bundle: The bundle, opened again whenever plans were compiled.
        compilation: The compilation that holds these plans.
    """

    def __init__(
        self, bundle: Bundle, machine: Machine, rebuild: str, progress: Progress | None, *, thorough: bool
    ) -> None:
        self.bundle = bundle
        self._machine = machine
        self._rebuild = rebuild
        self._progress = progress or (lambda stage, done, total: None)
        self.compilation = self._find_or_rebuild(thorough=thorough)

    def path(self, name: str) -> Path:
        """Return the plan of an engine after comparing its hash; damaged plans are compiled again.

        Args:
            name: The engine's name in the bundle.

        Raises:
            BundleNotFoundError: The bundle has no such engine.
            BundleDamagedError: The new plan is damaged as well.
            VExpressError: Compiling failed, or `rebuild` is "never"; see `find_plans`.
        """
        try:
            return self.bundle.plan_path(name, self.compilation)
        except BundleDamagedError:
            self.compilation = self._find_or_rebuild(thorough=True)
        return self.bundle.plan_path(name, self.compilation)

    def _find_or_rebuild(self, *, thorough: bool) -> Compilation:
        """Return the newest usable compilation, made now if there is none."""
        found = self._newest_usable(self.bundle, thorough=thorough)
        if found is None:
            reason = self._missing_reason(thorough=thorough)
            if self._rebuild == "never":
                raise PlansMissingError(
                    f"{reason}, and rebuild='never' forbids compiling plans now: do so with "
                    f"{self._command()} on this machine, or use rebuild='auto'"
                )

            def has_plans(bundle: Bundle) -> bool:
                return self._newest_usable(bundle, thorough=thorough) is not None

            self.bundle = rebuild_plans(self.bundle, has_plans, reason, self._progress)
            found = self._newest_usable(self.bundle, thorough=thorough)
            assert found is not None  # `rebuild_plans` checked it
        return found

    def _newest_usable(self, bundle: Bundle, *, thorough: bool) -> Compilation | None:
        fitting = (one for one in reversed(bundle.manifest.compiled) if one.fits(self._machine))
        return next((one for one in fitting if not _damaged_engines(bundle, one, thorough=thorough)), None)

    def _missing_reason(self, *, thorough: bool) -> str:
        """Return why the bundle's plans cannot be used on this machine."""
        compiled = self.bundle.manifest.compiled
        if fitting := [one for one in compiled if one.fits(self._machine)]:
            damaged = ", ".join(_damaged_engines(self.bundle, fitting[-1], thorough=thorough))
            return f"the plans of {damaged} in {self.bundle.folder} are missing or damaged"
        library = TARGETS[self.bundle.manifest.target].title
        here = f"this is {self._machine.gpu} ({self._machine.capability}), {library} {self._machine.version}"
        if not compiled:
            return f"{self.bundle.folder} has no plans"
        others = f", and for {len(compiled) - 1} others" if len(compiled) > 1 else ""
        return f"{self.bundle.folder} is compiled for {compiled[-1].describe()}{others}; {here}"

    def _command(self) -> str:
        """Return the command that makes plans for this machine."""
        if not self.bundle.manifest.onnx:
            return f"`{build_command(self.bundle)}` {EXPORTER}"
        return f"`vexpress-rt compile {shlex.quote(str(self.bundle.folder))}`"


def _damaged_engines(bundle: Bundle, compilation: Compilation, *, thorough: bool) -> list[str]:
    """Return the engines whose plan is missing or damaged."""
    plans = compilation.plans
    return [
        name for name in engines_with_plans(bundle.manifest)
        if name not in plans or not bundle.is_sound(plans[name], thorough=thorough)
    ]  # fmt: skip
