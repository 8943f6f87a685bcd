"""`Bundle`: a folder of engines whose files are checked against its `manifest.json`.

Opening a bundle compares the manifest with `engine_spec.py`, and the sizes of graphs and weights with the manifest. The
hash of a file is computed when an engine first needs it, and again after the file was replaced or written to. Its graph
is then checked as well, before any library reads it (`graph_check.py`). Plans, which can be compiled again, are checked
when they are used.

Hashing gigabytes and searching them for NaN takes seconds, so the user's cache records the versions of the files of an
engine that passed all checks, and later processes skip them for the same versions. A write changes the version, also if
the time of the last write is set back (`utils/file_version.py`). Plans are hashed by every process.

Hard links need no special case: a hard link is the file itself, and its content is hashed.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from reprlib import repr as brief
from typing import Any, NoReturn

from vexpress_rt import __version__
from vexpress_rt.bundle.compilation import Compilation
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR, EngineSpec, interface_errors
from vexpress_rt.bundle.graph_check import check_graph_file
from vexpress_rt.bundle.manifest import (
    BUILD_COMMAND,
    EngineEntry,
    FileEntry,
    Manifest,
    read_manifest,
)
from vexpress_rt.bundle.onnx_graph import ByteRange, Tensor
from vexpress_rt.bundle.weight_check import find_in_weights
from vexpress_rt.errors import BundleDamagedError, BundleNotFoundError
from vexpress_rt.types import FileStamp
from vexpress_rt.utils.file_version import FileVersion
from vexpress_rt.utils.project_links import EXPORTER
from vexpress_rt.utils.user_cache import read_record, write_record

WORKING = ".compiling"  # prefix of files that exist while plans are compiled; names in a manifest cannot start with it

# The largest protobuf message, in bytes. Graphs with larger weights keep them in files of their own.
GRAPH_LIMIT = (1 << 31) - 1


_CHECKED = "checked_engine"  # kind of the records of engines whose files passed all checks
_CHECKS = 1  # raise it when the checks of graphs or weights become stricter
_MOST_NAMED = 20  # wrong inputs and outputs that a message lists


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file: 64 lower-case hexadecimal digits. Raises OSError.

    Args:
        path: The file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_entry(path: Path) -> FileEntry:
    """Return the size and hash of a file as a `FileEntry`. Raises OSError.

    Args:
        path: The file.
    """
    return FileEntry(path.stat().st_size, sha256_file(path))


class Bundle:
    """An opened bundle: see `Bundle.open`. Several threads may use it; a file is hashed by one of them.

    Attributes:
        folder: The folder of the bundle.
        manifest: Its manifest.
        specs: The inputs and outputs of each engine by name, also of engines that the bundle lacks. The face detector
            has none.
        identity: 16 hexadecimal digits that are equal for bundles with equal graphs and weights. Plans do not count,
            because they are the same graphs compiled for a machine: a Portrait can be used on another GPU, where only
            the rounding differs.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, recheck: bool = False) -> None:
        self.folder = folder
        self._recheck = recheck
        self.manifest = manifest
        self.specs = manifest.specs()
        listing = "\n".join(f"{name} {manifest.files[name].sha256}" for name in sorted(manifest.graphs))
        self.identity = hashlib.sha256(listing.encode()).hexdigest()[:16]
        self._locks: dict[str, threading.Lock] = {}  # see `_lock`
        self._verified: dict[str, FileVersion] = {}  # files with a correct hash
        # Checked graphs, with their weight files and the tensors in these.
        self._checked_graphs: dict[str, tuple[FileVersion, tuple[str, ...], Mapping[str, list[Tensor]]]] = {}
        # Weight files, and ranges with finite numbers.
        self._finite: dict[str, tuple[FileVersion, set[ByteRange]]] = {}

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, recheck: bool = False) -> Bundle:
        """Open the bundle in a folder, and check its manifest and the sizes of its files.

        Args:
            folder: The folder that contains `manifest.json`.
            recheck: Check all files again, also those of engines that an earlier process has checked.

        Raises:
            BundleNotFoundError: There is no bundle in the folder.
            BundleVersionError: The manifest has another schema.
            BundleDamagedError: The manifest is malformed; the inputs or outputs of engines are not those of
                `engine_spec.py` (the message lists them); or a file other than a plan is missing, a link, or of another
                size.
        """
        bundle = cls(Path(folder), read_manifest(folder), recheck=recheck)
        if wrong := [line for name in bundle.manifest.engines for line in bundle._interface_errors(name)]:
            more = f"; and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
            bundle._damaged("the manifest does not fit this version: " + "; ".join(wrong[:_MOST_NAMED]) + more)
        for name in sorted(bundle.manifest.graphs - bundle.manifest.absent):
            bundle._check_size(name)
        return bundle

    def has(self, name: str) -> bool:
        """Return whether the bundle has an engine."""
        return name in self.manifest.engines

    def require(self, names: Iterable[str]) -> None:
        """Check that the bundle has engines.

        Args:
            names: Names of engines.

        Raises:
            BundleNotFoundError: An engine is missing. The message says how to build it.
        """
        for name in names:
            self._entry(name)

    def engine_size(self, name: str) -> int:
        """Return the size in bytes of an engine's graph and weight files.

        Args:
            name: The engine's name.

        Raises:
            BundleNotFoundError: The bundle lacks the engine.
        """
        return sum(self.manifest.files[file].bytes for file in self._entry(name).files)

    def shares_weights(self, name: str) -> bool:
        """Return whether a weight file of the engine `name` is also one of another engine."""
        engines = self.manifest.engines
        others = {file for other, entry in engines.items() if other != name for file in entry.data}
        return bool(others & set(engines[name].data))

    def engine_path(self, name: str) -> Path:
        """Return the ONNX file of an engine, after checking it and its weight files.

        Sizes are compared every time. Hashes, graphs and weights are checked when this object first uses a file or a
        new version of it, unless an earlier process of this user has checked the same versions.

        Args:
            name: The engine's name.

        Raises:
            BundleNotFoundError: The bundle lacks the engine or its graph.
            BundleDamagedError: A file is missing or was changed, `graph_check` refuses the graph, or a weight is NaN or
                infinite.
        """
        entry = self._entry(name)
        if entry.file in self.manifest.absent:
            raise BundleNotFoundError(
                f"{self.folder} was built with --no-onnx and has no graph of engine {name!r}, only what TensorRT "
                f"compiled: build it again without --no-onnx {EXPORTER}"
            )
        if not self._checked_before(name, entry):
            with self._lock(entry.file):
                self._check_graph(name, entry)
            self.verify(*entry.data)
            self._check_weights(name, entry)
            self._record_checked(name, entry)
        return self.folder / entry.file

    def check_unchanged(self, name: str, plan: str | None = None) -> None:
        """Check that the files of an engine are still those that were checked.

        Call this after a library has loaded the engine: libraries open files by name, so another file may be loaded.

        Args:
            name: The engine.
            plan: The name of its plan, if the engine was loaded from `plan_path`; None after `engine_path`.

        Raises:
            BundleDamagedError: A file was replaced or written to since it was checked.
        """
        for file in (plan,) if plan is not None else self._entry(name).files:
            if self._check_size(file) != self._verified.get(file):
                self._damaged(f"{file} was replaced or written to while its engine was loaded")

    def weight_stamps(self, name: str) -> dict[str, FileStamp | None]:
        """Return the current stamps of an engine's weight files, which libraries may map into memory.

        Args:
            name: The engine's name.
        """
        return {file: FileStamp.of(self.folder / file) for file in self._entry(name).data}

    def check_unwritten(self, name: str, stamps: Mapping[str, FileStamp | None]) -> None:
        """Check that no weight file was written to since its stamp was taken.

        Writing to a mapped file changes the weights of a running engine. Replacing or removing the file does not.

        Args:
            name: The engine.
            stamps: The result of `weight_stamps` when the engine was loaded.

        Raises:
            BundleDamagedError: A file was written to.
        """
        for file, now in self.weight_stamps(name).items():
            before = stamps[file]
            if now is not None and before is not None and now != before and now.inode == before.inode:
                self._damaged(f"{file} was written to while it was in use; make a new Generator after mending it")

    def plan_path(self, name: str, compilation: Compilation | None = None) -> Path:
        """Return the plan that TensorRT compiled for an engine, after checking its size and hash.

        Args:
            name: The engine.
            compilation: One of `manifest.compiled`; None for the newest one with a plan of the engine.

        Raises:
            BundleNotFoundError: The bundle lacks the engine or its plan.
            BundleDamagedError: The file is missing or was changed.
        """
        self._entry(name)
        candidates = [compilation] if compilation is not None else reversed(self.manifest.compiled)
        plan = next((one.plans[name] for one in candidates if name in one.plans), None)
        if plan is None:
            raise BundleNotFoundError(
                f"{self.folder} holds engine {name!r} for ONNX Runtime alone; expected one that TensorRT compiled: "
                f"build with `{BUILD_COMMAND} {self.folder} --target tensorrt` (or tensorrt-rtx) {EXPORTER}"
            )
        self.verify(plan)
        return self.folder / plan

    def verify(self, *files: str) -> None:
        """Check the sizes of files of the bundle, and their hashes as `engine_path` does.

        Raises:
            BundleDamagedError: A file is missing or was changed.
        """
        for file in files:
            with self._lock(file):
                if self._check_size(file) != self._verified.get(file):
                    with self._open(file) as opened:
                        self._check_hash(file, opened)

    def is_sound(self, file: str, *, thorough: bool) -> bool:
        """Return whether a file of the bundle exists with the right size.

        Args:
            file: The file's name.
            thorough: Also compare the hash.
        """
        try:
            if thorough:
                self.verify(file)
            else:
                self._check_size(file)
        except BundleDamagedError:
            return False
        return True

    def _entry(self, name: str) -> EngineEntry:
        if not self.has(name):
            engines = ", ".join(self.manifest.engines) or "none"
            raise BundleNotFoundError(
                f"{self.folder} holds no engine {name!r}; it has {engines}: "
                f"add it with `{BUILD_COMMAND} {self.folder} --engine {name}` {EXPORTER}"
            )
        return self.manifest.engines[name]

    def _interface_errors(self, name: str) -> Iterator[str]:
        if name == FACE_DETECTOR:
            return
        if name not in self.specs:
            yield f"engine {brief(name)} is not one of {', '.join((*self.specs, FACE_DETECTOR))}"
            return
        entry = self.manifest.engines[name]
        yield from interface_errors(EngineSpec(name, entry.inputs, entry.outputs), self.specs[name])

    def _check_size(self, name: str) -> FileVersion:
        """Check that a name is a regular file of the right size in this folder, and return its version."""
        expected = self.manifest.files[name].bytes
        try:
            found = (self.folder / name).lstat()
        except OSError as error:
            self._damaged(f"{name} cannot be found: {error}")
        if stat.S_ISLNK(found.st_mode):
            self._damaged(f"{name} is a link; expected the file itself, as `cp -rL` copies it")
        if not stat.S_ISREG(found.st_mode):
            self._damaged(f"{name} is a folder, a pipe or a device; expected a file")
        if found.st_size != expected:
            self._damaged(f"{name} has {found.st_size} bytes; expected {expected}")
        return FileVersion.of(found)

    def _open(self, name: str) -> io.BufferedReader:
        """Open a file for reading without following a link or waiting for a pipe."""
        flags = os.O_RDONLY | sum(
            getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY")
        )
        try:
            return os.fdopen(os.open(self.folder / name, flags), "rb")
        except OSError as error:
            self._damaged(f"{name} cannot be read: {error}")

    def _check_hash(self, name: str, file: io.BufferedReader) -> None:
        expected = self.manifest.files[name].sha256
        try:
            version = FileVersion.of(os.fstat(file.fileno()))  # before hashing, so that a later write changes it
            if version != self._check_size(name):
                self._damaged(f"{name} was replaced while it was opened")
            found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            self._damaged(f"{name} cannot be read: {error}")
        if found != expected:
            self._damaged(f"{name} has the sha256 {found}; expected {expected}")
        self._verified[name] = version

    def _checked_before(self, engine: str, entry: EngineEntry) -> bool:
        """Return whether an earlier process has checked the current versions of an engine's files."""
        if self._recheck:
            return False
        versions = {file: self._check_size(file) for file in entry.files}
        if read_record(_CHECKED, self._record_key(engine)) != self._record(engine, versions):
            return False
        self._verified |= versions
        return True

    def _record_checked(self, engine: str, entry: EngineEntry) -> None:
        """Record that the current versions have passed all checks, once a later write is sure to change them."""
        versions = {file: self._verified[file] for file in entry.files}
        if all(version.settled for version in versions.values()):
            write_record(_CHECKED, self._record_key(engine), self._record(engine, versions))

    def _record_key(self, engine: str) -> str:
        return f"{os.path.abspath(self.folder)}\0{engine}"

    def _record(self, engine: str, versions: Mapping[str, FileVersion]) -> dict[str, Any]:
        """Return what the record of an engine says once these versions of its files have passed all checks."""
        files = {name: [self.manifest.files[name].sha256, version.to_json()] for name, version in versions.items()}
        return {"checks": f"{__version__} {_CHECKS}", "graph": self.manifest.engines[engine].file, "files": files}

    def _check_graph(self, engine: str, entry: EngineEntry) -> None:
        """Hash and check a graph, both from one open file."""
        name, version = entry.file, self._check_size(entry.file)
        if version == self._verified.get(name) and self._checked_graphs.get(name, ())[:2] == (version, entry.data):
            return
        if version.size > GRAPH_LIMIT:
            self._damaged(f"{name} has {version.size} bytes; an ONNX file has at most {GRAPH_LIMIT}")
        with self._open(name) as file:
            self._check_hash(name, file)
            try:
                found = check_graph_file(file, {weights: self.manifest.files[weights].bytes for weights in entry.data})
            except BundleDamagedError as error:
                self._damaged(f"{name} is not a graph of an engine: {error}")
            except OSError as error:
                self._damaged(f"{name} cannot be read: {error}")
        if found.fault:
            self._not_finite(engine, name, found.fault)
        self._checked_graphs[name] = self._verified[name], entry.data, found.external

    def _check_weights(self, engine: str, entry: EngineEntry) -> None:
        """Search an engine's weight files for numbers that are not finite, once for each version of a file.

        The denoisers share most of their weights: ranges that were searched for one are skipped for the other.
        """
        for name, tensors in self._checked_graphs[entry.file][2].items():
            with self._lock(name):
                version, seen = self._verified[name], set[ByteRange]()
                if self._finite.get(name, ())[:1] == (version,):
                    seen = self._finite[name][1]
                if not (fresh := [tensor for tensor in tensors if tensor.byte_range not in seen]):
                    continue
                with self._open(name) as file:
                    try:
                        if FileVersion.of(os.fstat(file.fileno())) != version:
                            self._damaged(f"{name} was replaced or written to after it was hashed")
                        fault = find_in_weights(file, fresh)
                    except OSError as error:
                        self._damaged(f"{name} cannot be read: {error}")
                if fault:
                    self._not_finite(engine, name, fault)
                self._finite[name] = version, seen | {tensor.byte_range for tensor in fresh}

    def _lock(self, file: str) -> threading.Lock:
        """Return the lock to hold while a file is checked, so that one thread checks it and the others wait."""
        return self._locks.setdefault(file, threading.Lock())

    def _not_finite(self, engine: str, file: str, fault: str) -> NoReturn:
        self._damaged(
            f"the weights of engine {engine} are damaged, or its training diverged: in {file} {fault}",
            f"build the bundle again with `{BUILD_COMMAND} {self.folder}` {EXPORTER} from a sound checkpoint",
        )

    def _damaged(self, what: str, remedy: str | None = None) -> NoReturn:
        remedy = remedy or f"build the bundle again with `{BUILD_COMMAND} {self.folder}` {EXPORTER}, or copy it again"
        raise BundleDamagedError(f"{self.folder} cannot be used: {what}: {remedy}")
