"""Rebuilding of plans: they are compiled on this machine from a bundle's graphs, and added to the bundle.

One process at a time rebuilds plans; others that need the same plans wait for it and use them. Plans are compiled
in a staging directory inside the bundle's folder. Finished files are moved from there one by one, the manifest last.
Files that a killed process left are removed by the next one.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from vexpress_rt.backends.provider import Progress, ProgressGuard
from vexpress_rt.backends.tensorrt.builder import Compiler, describe_machine
from vexpress_rt.backends.tensorrt.options import EngineOptions, audio_range
from vexpress_rt.bundle.bundle import WORKING, Bundle, file_entry
from vexpress_rt.bundle.compilation import PLAN, Compilation, with_newest
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR
from vexpress_rt.bundle.manifest import BUILD_COMMAND, MANIFEST, FileEntry, Manifest, read_manifest, write_manifest
from vexpress_rt.errors import (
    BackendError,
    BundleDamagedError,
    BundleNotFoundError,
    ConfigError,
    OutputError,
    VExpressError,
)
from vexpress_rt.utils.file_lock import locked
from vexpress_rt.utils.project_links import EXPORTER
from vexpress_rt.utils.signals import run_uninterrupted

LOCK = f"{WORKING}.lock"
STAGING = f"{WORKING}-"  # prefix of the names of staging directories
_HAS_DIR_FD = os.unlink in os.supports_dir_fd  # Windows cannot open folders

_log = logging.getLogger("vexpress_rt")


def rebuild_plans(bundle: Bundle, has_plans: Callable[[Bundle], bool], reason: str, progress: Progress) -> Bundle:
    """Add plans for this machine to a bundle, compiled with the options of its newest plans.

    The bundle either stays unchanged or gets all the plans.

    Args:
        bundle: The bundle.
        has_plans: Returns whether a bundle has plans for this machine. It is called again once the lock is held,
            because another process may have added them in the meantime.
        reason: Why plans are needed, for messages.
        progress: Called with a stage, the work done and the total, from any thread. Its exceptions end the work and are
            raised as they are.

    Returns:
        The bundle, opened again.

    Raises:
        BackendMissingError: Polygraphy is not installed.
        BackendError: The bundle has no graphs (the message names the command that builds it), or compiling failed.
        ConfigError: The options recorded in the bundle are invalid.
        OutputError: The folder cannot be written.
        BundleDamagedError: A graph is damaged, or another bundle has replaced this one.
    """
    if not bundle.manifest.onnx:
        raise BackendError(
            f"{reason}, and it keeps no graphs to compile plans from (--no-onnx): build it again on this machine with "
            f"`{build_command(bundle)}` {EXPORTER}"
        )
    options = recorded_options(bundle.manifest)
    compiler = Compiler.here(bundle.manifest.target, options, bundle.folder)
    if not compiler.compilation.fits(describe_machine(compiler.library)):  # portable plans do not run before Ampere
        compiler = Compiler.here(bundle.manifest.target, replace(options, hardware_compatible=False), bundle.folder)
    guard = ProgressGuard(progress)
    try:
        return _rebuild_alone(bundle, compiler, has_plans, reason, guard)
    except Exception:
        if guard.failure is None:
            raise
    raise guard.failure  # instead of the error that it caused


def recorded_options(manifest: Manifest) -> EngineOptions:
    """Return the options of a bundle's newest plans, so that new plans are the same build for another machine.

    Args:
        manifest: The bundle's manifest.

    Raises:
        ConfigError: The recorded text holds no options.
    """
    if not manifest.compiled:
        return EngineOptions(ranges={"N": audio_range(manifest.model)})
    return EngineOptions.from_text(manifest.compiled[-1].options)


def build_command(bundle: Bundle) -> str:
    """Return the command that builds a bundle like this one, with a placeholder for the weights.

    Args:
        bundle: The bundle.
    """
    manifest, shape = bundle.manifest, bundle.manifest.shape
    parts = [BUILD_COMMAND, shlex.quote(str(bundle.folder)), f"--precision {manifest.precision}"]
    parts += [f"--target {manifest.target} --height {shape.height} --width {shape.width} --frames {shape.frames}"]
    parts += ["--allow-odd-sizes"] * manifest.allow_odd_sizes + ["--no-onnx"] * (not manifest.onnx)
    with suppress(ConfigError):
        options, default = recorded_options(manifest), EngineOptions()
        if options.optimization_level != default.optimization_level:
            parts.append(f"--optimization-level {options.optimization_level}")
        if options.workspace_bytes is not None:
            parts.append(f"--workspace {options.workspace_bytes / 2**30!r}")
        parts += ["--hardware-compatible"] * options.hardware_compatible
    return " ".join(parts)


def engines_with_plans(manifest: Manifest) -> list[str]:
    """Return the engines that need a plan: all but the face detector, for which a plan is optional.

    Args:
        manifest: The bundle's manifest.
    """
    return [name for name in manifest.engines if name != FACE_DETECTOR]


def _rebuild_alone(
    bundle: Bundle, compiler: Compiler, has_plans: Callable[[Bundle], bool], reason: str, progress: Progress
) -> Bundle:
    """Rebuild plans under the bundle's lock, unless another process has just done so."""
    try:
        with _exclusive(bundle.folder, progress):
            current = _reopen(bundle)
            if not has_plans(current):
                _rebuild(current, compiler, reason, progress)
                current = _reopen(bundle)
                if not has_plans(current):
                    raise _replaced_error(bundle.folder)
            return current
    except OutputError as error:
        command = f"vexpress-rt compile {shlex.quote(str(bundle.folder))}"
        raise OutputError(
            f"{reason}, and no plans can be added: {error}; or run `{command}` as a user who may write there, or use "
            "a copy of the bundle"
        ) from error


def _rebuild(bundle: Bundle, compiler: Compiler, reason: str, progress: Progress) -> None:
    """Compile the plans that are missing or damaged, and add them to the bundle; the lock is held."""
    old = next((one for one in bundle.manifest.compiled if one.key == compiler.compilation.key), compiler.compilation)
    intact = {name: plan for name, plan in old.plans.items() if bundle.is_sound(plan, thorough=True)}
    missing = [name for name in engines_with_plans(bundle.manifest) if name not in intact]
    _log.warning("%s: compiling %s engines, once; this takes minutes", reason, len(missing))
    with staging_directory(bundle.folder) as staging:
        _remove_leftovers(bundle, [compiler.compilation.plan_name(name) for name in missing])
        percentage = _Percentage(bundle, missing, progress)
        made: dict[str, str] = {}
        for name in missing:
            graph = _isolate_graph(bundle, name, staging.path)
            with percentage.of_engine(name) as engine_progress:
                made[name], info = compiler.compile(graph, bundle.specs[name], staging.path, engine_progress)
            bundle.check_unchanged(name)
            _log.info("plan of %s: %.1f MB in %.1f s", name, info.bytes / 1e6, info.seconds)
        files = {plan: file_entry(staging.path / plan) for plan in made.values()}
        if read_manifest(bundle.folder) != bundle.manifest:
            raise _replaced_error(bundle.folder)
        manifest = _with_plans(bundle.manifest, replace(compiler.compilation, plans=intact | made), files)
        write_manifest(staging.path, manifest)
        staging.publish([*files, MANIFEST], sorted(bundle.manifest.files.keys() - manifest.files.keys()))


def _reopen(bundle: Bundle) -> Bundle:
    """Return the bundle as it is now. Raises BundleDamagedError if another one has replaced it."""
    current = Bundle.open(bundle.folder)
    if current.identity != bundle.identity:
        raise _replaced_error(bundle.folder)
    return current


def _replaced_error(folder: Path) -> BundleDamagedError:
    return BundleDamagedError(
        f"{folder} was replaced by another build while plans were compiled for it, which are discarded: open it again"
    )


@contextmanager
def _exclusive(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of a bundle for a `with` block, and report waiting as progress."""
    stage, waited = "wait for another process", False

    def report_wait() -> None:
        nonlocal waited
        if not waited:
            _log.warning("another process compiles plans in %s: waiting for it", folder)
        waited = True
        progress(stage, 0, 1)

    with locked(folder / LOCK, report_wait):
        if waited:
            progress(stage, 1, 1)
        yield


def _with_plans(manifest: Manifest, compilation: Compilation, files: dict[str, FileEntry]) -> Manifest:
    """Return the manifest with a compilation as its newest, without the files of those that it replaces."""
    compiled = with_newest(manifest.compiled, compilation)
    dropped = _plan_files(manifest.compiled) - _plan_files(compiled)
    kept = {name: entry for name, entry in manifest.files.items() if name not in dropped}
    return replace(manifest, compiled=compiled, files=dict(sorted((kept | files).items())))


def _plan_files(compiled: tuple[Compilation, ...]) -> set[str]:
    return {plan for one in compiled for plan in one.plans.values()}


def _remove_leftovers(bundle: Bundle, plans: list[str]) -> None:
    """Remove plans that a killed process moved before it could move the manifest; the lock is held.

    Raises OutputError if a folder has the name of one of `plans`, before minutes of compiling.
    """
    manifest = bundle.manifest
    for path in bundle.folder.glob(f"*{PLAN}"):
        engine, _, key = path.stem.partition(".")
        if path.is_dir() and not path.is_symlink():
            if path.name in plans:
                raise OutputError(f"{path} is a folder, and a plan has to lie there: remove it")
        elif engine in manifest.engines and re.fullmatch(r"[0-9a-f]{8}", key) and path.name not in manifest.files:
            path.unlink(missing_ok=True)


def _isolate_graph(bundle: Bundle, name: str, staging: Path) -> Path:
    """Return the graph of an engine, verified, in a folder that holds only its files.

    A graph can name any file in its folder as its weights, and TensorRT reads that file. A verified graph names only
    files of the manifest, and this folder contains no others.
    """
    bundle.engine_path(name)
    folder, entry = staging / name, bundle.manifest.engines[name]
    folder.mkdir()
    for file in entry.files:
        (folder / file).symlink_to((bundle.folder / file).resolve())
    return folder / entry.file


class _Percentage:
    """Reports the percentage of all engines that is done, each weighted by the bytes of its graph and weights."""

    def __init__(self, bundle: Bundle, names: list[str], progress: Progress) -> None:
        files, engines = bundle.manifest.files, bundle.manifest.engines
        self._sizes = {name: sum(files[file].bytes for file in engines[name].files) for name in names}
        self._total = max(1, sum(self._sizes.values()))
        self._progress = progress
        self._done = 0

    @contextmanager
    def of_engine(self, name: str) -> Iterator[Callable[[float], object]]:
        """Yield a function that takes the fraction of one engine that is done, 0 to 1."""
        try:
            yield lambda fraction: self._report(self._done + fraction * self._sizes[name])
        except BackendError:
            self._report(self._done)  # if the progress function ended the build, it raises again here
            raise
        self._done += self._sizes[name]

    def _report(self, done: float) -> None:
        self._progress("compile", int(100 * done / self._total), 100)


class StagingDirectory:
    """A directory inside a bundle's folder, where plans are made; see `staging_directory`.

    Where the system supports it, both folders are held open, so that finished files go into the right bundle even if
    another folder takes its name meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inside = _Folder(path)
        self._bundle = _Folder(path.parent)

    def missing_error(self) -> VExpressError | None:
        """Return the error to raise if the directory is gone, or lies in another bundle; None if it is in place."""
        if self._inside.in_place():
            return None
        bundle = self.path.parent
        if self._bundle.in_place():
            return OutputError(f"{self.path} was removed while plans were compiled there: try it again")
        if bundle.exists():
            return _replaced_error(bundle)
        return BundleNotFoundError(
            f"{bundle} was removed while plans were compiled for it: copy the bundle again, or build it again "
            f"{EXPORTER}"
        )

    def publish(self, names: list[str], obsolete: list[str]) -> None:
        """Move files to the bundle, and remove obsolete ones there. Ctrl-C takes effect afterwards.

        Args:
            names: Files in this directory, in the order to move them.
            obsolete: Files of the bundle to remove.

        Raises:
            OSError: A file cannot be moved.
        """
        run_uninterrupted(partial(self._publish, names, obsolete))

    def _publish(self, names: list[str], obsolete: list[str]) -> None:
        for name in names:
            self._inside.move(name, self._bundle)
        for name in obsolete:
            with suppress(OSError):
                self._bundle.remove(name)

    def close(self) -> None:
        """Close both folders."""
        self._inside.close()
        self._bundle.close()


class _Folder:
    """A folder, held open where the system supports it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = os.open(path, os.O_RDONLY) if _HAS_DIR_FD else None
        self._stat = os.stat(path if self._handle is None else self._handle)

    def in_place(self) -> bool:
        """Return whether the path still leads to this folder."""
        try:
            return os.path.samestat(os.stat(self._path), self._stat)
        except OSError:
            return False

    def move(self, name: str, target: _Folder) -> None:
        """Move a file to another folder, and replace a file of the same name there."""
        if self._handle is None:
            os.replace(self._path / name, target._path / name)
        else:
            os.replace(name, name, src_dir_fd=self._handle, dst_dir_fd=target._handle)

    def remove(self, name: str) -> None:
        """Remove a file."""
        if self._handle is None:
            os.unlink(self._path / name)
        else:
            os.unlink(name, dir_fd=self._handle)

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)


@contextmanager
def staging_directory(folder: Path) -> Iterator[StagingDirectory]:
    """Create a staging directory in a bundle's folder for a `with` block; remove it at the end.

    Directories that killed processes left are removed as well.

    Args:
        folder: The bundle's folder.

    Raises:
        OutputError: The folder cannot be written, or the directory was removed.
        BundleDamagedError: Another bundle has replaced this one.
        BundleNotFoundError: The bundle was removed.
    """
    for path in folder.glob(f"{STAGING}*"):
        shutil.rmtree(path, ignore_errors=True)
    path = folder / f"{STAGING}{secrets.token_hex(4)}"
    try:
        path.mkdir()
        staging = StagingDirectory(path)
        try:
            yield staging
        except (VExpressError, OSError) as error:
            if missing := staging.missing_error():
                raise missing from error
            raise
        finally:
            staging.close()
    except VExpressError:
        raise
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error}: check folder, permissions and free space") from error
    finally:
        shutil.rmtree(path, ignore_errors=True)
