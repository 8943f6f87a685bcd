"""The plans of a bundle that run on this machine: those that are there, or else those that are compiled now."""

from __future__ import annotations

import shlex
from pathlib import Path

from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.tensorrt import library as tensorrt_library
from vexpress_rt.backends.tensorrt.compiler import machine
from vexpress_rt.backends.tensorrt.plan_rebuild import Progress, build_command, compile_plans, needed
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.compilation import TITLES, Compilation, Machine
from vexpress_rt.bundle.engine_spec import TARGETS
from vexpress_rt.bundle.manifest import BUILD_COMMAND
from vexpress_rt.errors import BackendError, BundleDamagedError, ConfigError, PlansMissingError


def find_plans(
    bundle: Bundle, rebuild: str = "auto", progress: Progress | None = None, *, thorough: bool = False,
    suited: bool = False,
) -> Plans:  # fmt: skip
    """The plans of a bundle for this machine.

    rebuild: of `config.REBUILD`: "auto" compiles them if there are none, or if some are missing or of another size than
    they should have, which takes minutes, once; "never" makes that an error that names the command.
    progress: told while plans are compiled: stage, done, total; from any thread.
    thorough: compare all hashes now, and not when a plan is asked for.
    suited: refuse a GPU that the library is not made for; it may run there nonetheless.

    Raises ConfigError for a bundle that was not built for TensorRT; BackendMissingError without the library;
    BackendError without a GPU, and for one that is refused; PlansMissingError with "never"; what `compile_plans` raises
    with "auto".
    """
    target = bundle.manifest.target
    if target == TARGETS[0]:
        raise ConfigError(
            f"the bundle is not compiled for TensorRT (its target is {target}): build it with "
            f"`{BUILD_COMMAND} {shlex.quote(str(bundle.folder))} --target tensorrt` (or tensorrt-rtx), or use "
            "provider='auto'"
        )
    runtime.check()
    library = tensorrt_library.load(target)
    if suited and (misfit := library.misfit(*runtime.name_and_capability())):
        raise BackendError(f"{misfit}, or try the one at hand with provider='tensorrt'")
    return Plans(bundle, machine(library), rebuild, progress, thorough)


class Plans:
    """Made by `find_plans`.  bundle: as it is once there are plans.  compilation: those that run here."""

    def __init__(self, bundle: Bundle, here: Machine, rebuild: str, progress: Progress | None, thorough: bool) -> None:
        self.bundle = bundle
        self._here = here
        self._rebuild = rebuild
        self._progress = progress or (lambda stage, done, total: None)
        self.compilation = self._settle(thorough)

    def path(self, name: str) -> Path:
        """The plan of the engine `name`, its hash compared. Damaged plans are compiled anew, unless that is forbidden.

        Raises BundleNotFoundError and BundleDamagedError as `Bundle.plan_path`, else as `find_plans`.
        """
        try:
            return self.bundle.plan_path(name, self.compilation)
        except BundleDamagedError:
            self.compilation = self._settle(thorough=True)
        return self.bundle.plan_path(name, self.compilation)

    def _settle(self, thorough: bool) -> Compilation:
        """The newest compilation that can be used, made if need be. thorough: compare hashes, not just sizes."""
        found = self._usable(self.bundle, thorough)
        if found is None:
            why = self._lack(thorough)
            if self._rebuild == "never":
                raise PlansMissingError(
                    f"{why}, and rebuild='never' forbids to compile plans now: do so with "
                    f"`{self._command()}` on this machine, or use rebuild='auto'"
                )

            def settled(bundle: Bundle) -> bool:
                return self._usable(bundle, thorough) is not None

            self.bundle = compile_plans(self.bundle, settled, why, self._progress)
            found = self._usable(self.bundle, thorough)
            assert found is not None  # compile_plans has asked
        return found

    def _usable(self, bundle: Bundle, thorough: bool) -> Compilation | None:
        fitting = (one for one in reversed(bundle.manifest.compiled) if one.fits(self._here))
        return next((one for one in fitting if not _broken(bundle, one, thorough)), None)

    def _lack(self, thorough: bool) -> str:
        """What keeps the bundle from being used here."""
        compiled = self.bundle.manifest.compiled
        if fitting := [one for one in compiled if one.fits(self._here)]:
            broken = ", ".join(_broken(self.bundle, fitting[-1], thorough))
            return f"the plans of {broken} in {self.bundle.folder} are missing or damaged"
        library = TITLES[self.bundle.manifest.target]
        here = f"this is {self._here.gpu} ({self._here.capability}), {library} {self._here.version}"
        if not compiled:
            return f"{self.bundle.folder} has no plans"
        others = f", and for {len(compiled) - 1} others" if len(compiled) > 1 else ""
        return f"{self.bundle.folder} is compiled for {compiled[-1].describe()}{others}; {here}"

    def _command(self) -> str:
        if not self.bundle.manifest.onnx:
            return build_command(self.bundle)
        return f"vexpress-rt compile {shlex.quote(str(self.bundle.folder))}"


def _broken(bundle: Bundle, compilation: Compilation, thorough: bool) -> list[str]:
    """The engines whose plan is not there, or not as it should be."""
    plans = compilation.plans
    return [
        name for name in needed(bundle.manifest)
        if name not in plans or not bundle.is_sound(plans[name], thorough=thorough)
    ]  # fmt: skip
