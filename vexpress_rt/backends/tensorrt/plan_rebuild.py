"""Plans of a bundle for the machine at hand, compiled from its graphs: once, whoever else wants them meanwhile.

Everything is made in a folder of its own inside the bundle's, and comes into its place file by file, the manifest last.
What a process leaves there that was killed, the next one removes.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from vexpress_rt.backends.tensorrt.compiler import Compiler, machine
from vexpress_rt.backends.tensorrt.options import EngineOptions, audio_range
from vexpress_rt.backends.tensorrt.staging import replaced, workshop
from vexpress_rt.bundle.bundle import WORKING, Bundle, file_entry
from vexpress_rt.bundle.compilation import PLAN, Compilation, with_newest
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR
from vexpress_rt.bundle.manifest import BUILD_COMMAND, MANIFEST, FileEntry, Manifest, read_manifest, write_manifest
from vexpress_rt.errors import BackendError, ConfigError, OutputError
from vexpress_rt.utils.file_lock import locked
from vexpress_rt.utils.signals import cleaned_up_first

LOCK = f"{WORKING}.lock"
Progress = Callable[[str, int, int], object]

_log = logging.getLogger("vexpress_rt")


class Told:
    """A `progress` that keeps what it raised first, so that that is not taken for a failure of the work.

    failure: what it raised, or None.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.failure: BaseException | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        try:
            self._progress(stage, done, total)
        except BaseException as error:
            if self.failure is None:
                self.failure = error
            raise


def compile_plans(bundle: Bundle, settled: Callable[[Bundle], bool], why: str, progress: Progress) -> Bundle:
    """Add plans for this machine to a bundle, made with the options of its newest ones; gives it as it is then.

    settled: whether a bundle has plans for this machine. It is asked once the lock is held, for another process may
    have made them in the meantime.  why: what is wrong, for people.
    progress: called with a stage, what is done and the total, from any thread; what it raises ends the work, and is
    raised as it is.

    Raises BackendMissingError without Polygraphy; BackendError naming the command where the bundle keeps no graphs, and
    for what cannot be compiled; ConfigError for recorded options that are none; OutputError where the folder cannot be
    written; BundleDamagedError for a damaged graph, and where the bundle was replaced by another meanwhile. Whatever
    happens, the bundle is as it was, or has the plans.
    """
    if not bundle.manifest.onnx:
        raise BackendError(
            f"{why}, and it keeps no graphs to compile plans from (--no-onnx): build it again on this machine with "
            f"`{build_command(bundle)}`"
        )
    options = recorded_options(bundle.manifest)
    compiler = Compiler.here(bundle.manifest.target, options, bundle.folder)
    if not compiler.compilation.fits(machine(compiler.library)):  # a GPU before Ampere, with portable plans asked for
        compiler = Compiler.here(bundle.manifest.target, replace(options, hardware_compatible=False), bundle.folder)
    told = Told(progress)
    try:
        return _compiled_alone(bundle, compiler, settled, why, told)
    except Exception:
        if told.failure is None:
            raise
    raise told.failure  # as it is, whatever else it led to


def _compiled_alone(
    bundle: Bundle, compiler: Compiler, settled: Callable[[Bundle], bool], why: str, progress: Progress
) -> Bundle:
    try:
        with cleaned_up_first(), _alone(bundle.folder, progress):
            current = _reopened(bundle)
            if not settled(current):
                _compile(current, compiler, why, progress)
                current = _reopened(bundle)
                if not settled(current):
                    raise replaced(bundle.folder)
            return current
    except OutputError as error:
        command = f"vexpress-rt compile {shlex.quote(str(bundle.folder))}"
        raise OutputError(
            f"{why}, and no plans can be added: {error}; or run `{command}` as somebody who may write there, or use a "
            "copy of the bundle"
        ) from error


def recorded_options(manifest: Manifest) -> EngineOptions:
    """Those of the newest plans, so that others are the same build elsewhere. Raises ConfigError if they are none."""
    if not manifest.compiled:
        return EngineOptions(ranges={"N": audio_range(manifest.model)})
    return EngineOptions.from_text(manifest.compiled[-1].options)


def build_command(bundle: Bundle) -> str:
    """The command that builds a bundle as this one was built. Where the weights are, a bundle does not know."""
    manifest, shape = bundle.manifest, bundle.manifest.shape
    parts = [BUILD_COMMAND, shlex.quote(str(bundle.folder)), f"--precision {manifest.precision}"]
    parts += [f"--target {manifest.target} --height {shape.height} --width {shape.width} --frames {shape.frames}"]
    parts += ["--allow-odd-sizes"] * manifest.allow_odd_sizes + ["--no-onnx"] * (not manifest.onnx)
    with suppress(ConfigError):
        options, usual = recorded_options(manifest), EngineOptions()
        if options.optimization_level != usual.optimization_level:
            parts.append(f"--optimization-level {options.optimization_level}")
        if options.workspace_bytes is not None:
            parts.append(f"--workspace {options.workspace_bytes / 2**30!r}")
        parts += ["--hardware-compatible"] * options.hardware_compatible
    return " ".join(parts)


def needed(manifest: Manifest) -> list[str]:
    """The engines that have to have a plan. The face detector runs without one as well."""
    return [name for name in manifest.engines if name != FACE_DETECTOR]


@contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[None]:
    """While nobody else compiles plans for the bundle; says so where that takes waiting."""
    stage, waited = "wait for another process", False

    def waiting() -> None:
        nonlocal waited
        if not waited:
            _log.warning("another process compiles plans in %s: waiting for it", folder)
        waited = True
        progress(stage, 0, 1)

    with locked(folder / LOCK, waiting):
        if waited:
            progress(stage, 1, 1)
        yield


def _compile(bundle: Bundle, compiler: Compiler, why: str, progress: Progress) -> None:
    old = next((one for one in bundle.manifest.compiled if one.key == compiler.compilation.key), compiler.compilation)
    sound = {name: plan for name, plan in old.plans.items() if bundle.is_sound(plan, thorough=True)}
    lacking = [name for name in needed(bundle.manifest) if name not in sound]
    _log.warning("%s: compiling %s engines, once; this takes minutes", why, len(lacking))
    with workshop(bundle.folder) as shop:
        _clear(bundle, [compiler.compilation.plan_name(name) for name in lacking])
        bar = _Bar(bundle, lacking, progress)
        made: dict[str, str] = {}
        for name in lacking:
            graph = _apart(bundle, name, shop.path)
            with bar.engine(name) as tell:
                made[name], info = compiler.compile(graph, bundle.specs[name], shop.path, tell)
            bundle.check_unchanged(name)
            _log.info("plan of %s: %.1f MB in %.1f s", name, info.bytes / 1e6, info.seconds)
        files = {plan: file_entry(shop.path / plan) for plan in made.values()}
        if read_manifest(bundle.folder) != bundle.manifest:
            raise replaced(bundle.folder)
        manifest = _with_plans(bundle.manifest, replace(compiler.compilation, plans=sound | made), files)
        write_manifest(shop.path, manifest)
        shop.hand_over([*files, MANIFEST], sorted(bundle.manifest.files.keys() - manifest.files.keys()))


def _with_plans(manifest: Manifest, compilation: Compilation, files: dict[str, FileEntry]) -> Manifest:
    """The manifest with a compilation as its newest, without the files of those that make room for it."""
    compiled = with_newest(manifest.compiled, compilation)
    dropped = _plans(manifest.compiled) - _plans(compiled)
    kept = {name: entry for name, entry in manifest.files.items() if name not in dropped}
    return replace(manifest, compiled=compiled, files=dict(sorted((kept | files).items())))


def _plans(compiled: tuple[Compilation, ...]) -> set[str]:
    return {plan for one in compiled for plan in one.plans.values()}


def _clear(bundle: Bundle, plans: list[str]) -> None:
    """Remove what a process left behind that was killed in the middle, as only the holder of the lock may.

    Raises OutputError, rather now than when all is compiled, for a folder where one of `plans` has to lie.
    """
    manifest = bundle.manifest
    for path in bundle.folder.glob(f"*{PLAN}"):
        engine, _, key = path.stem.partition(".")
        if path.is_dir() and not path.is_symlink():
            if path.name in plans:
                raise OutputError(f"{path} is a folder, and a plan has to lie there: remove it")
        elif engine in manifest.engines and re.fullmatch(r"[0-9a-f]{8}", key) and path.name not in manifest.files:
            path.unlink(missing_ok=True)


def _apart(bundle: Bundle, name: str, shop: Path) -> Path:
    """The graph of an engine, verified, in a folder of nothing but its files.

    A graph can name any file beside it as its weights, and TensorRT reads that file. A verified graph names only files
    of the manifest, and this folder contains no others.
    """
    bundle.engine_path(name)
    folder, entry = shop / name, bundle.manifest.engines[name]
    folder.mkdir()
    for file in entry.files:
        (folder / file).symlink_to((bundle.folder / file).resolve())
    return folder / entry.file


def _reopened(bundle: Bundle) -> Bundle:
    """The bundle as it is by now. Raises BundleDamagedError if it is another."""
    current = Bundle.open(bundle.folder)
    if current.identity != bundle.identity:
        raise replaced(bundle.folder)
    return current


class _Bar:
    """Percent of all engines, each counting as its graph and weights weigh."""

    def __init__(self, bundle: Bundle, names: list[str], progress: Progress) -> None:
        files, engines = bundle.manifest.files, bundle.manifest.engines
        self._sizes = {name: sum(files[file].bytes for file in engines[name].files) for name in names}
        self._total = max(1, sum(self._sizes.values()))
        self._progress = progress
        self._done = 0

    @contextmanager
    def engine(self, name: str) -> Iterator[Callable[[float], object]]:
        """A function for what is done of an engine, 0 to 1."""
        try:
            yield lambda fraction: self._tell(self._done + fraction * self._sizes[name])
        except BackendError:
            self._tell(self._done)  # whoever ended the build by a signal says so here, and not that the build failed
            raise
        self._done += self._sizes[name]

    def _tell(self, done: float) -> None:
        self._progress("compile", int(100 * done / self._total), 100)
