"""A bundle of engines: a folder with `manifest.json` -> engine files that are what the manifest says.

Opening compares the manifest with `specs.py` and the sizes of graphs and weights with the manifest; a file's hash is
computed when an engine that needs it is first asked for, and again after the file was replaced or written to. A graph
is then checked as well, before any library reads it: see `graph_check.py`. Plans, which can be made again, are checked
when they are asked for.

Hard links need no rule of their own: a hard link is the file itself, and its content is hashed.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from reprlib import repr as brief
from typing import NamedTuple, NoReturn

from vexpress_rt.bundle.compilation import Compilation
from vexpress_rt.bundle.engine_spec import ENGINE_NAMES, FACE_DETECTOR, EngineSpec, interface_errors
from vexpress_rt.bundle.graph_check import check_graph_file
from vexpress_rt.bundle.manifest import (
    BUILD_COMMAND,
    EngineEntry,
    FileEntry,
    Manifest,
    read_manifest,
)
from vexpress_rt.bundle.onnx_graph import Place, Tensor
from vexpress_rt.bundle.weight_check import find_in_weights
from vexpress_rt.errors import BundleDamagedError, BundleNotFoundError
from vexpress_rt.types import FileStamp
from vexpress_rt.utils.links import EXPORTER

# What the names of files begin with that are in a bundle only while plans are compiled: no plain name can.
WORKING = ".compiling"


# The largest protobuf message, in bytes. Graphs with larger weights keep them in files of their own.
GRAPH_LIMIT = (1 << 31) - 1


class _Version(NamedTuple):
    """The identity of a file's content at a moment. Replacing or changing the file changes its version."""

    device: int
    inode: int
    size: int
    written: int
    changed: int  # renaming changes it too, so that a file which was moved away and back is hashed again

    @classmethod
    def of(cls, found: os.stat_result) -> _Version:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


_MOST_NAMED = 20  # inputs and outputs that do not fit, in a message


def sha256_file(path: Path) -> str:
    """sha256 of a file's content: 64 lower-case hexadecimal digits. Reads in pieces; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_entry(path: Path) -> FileEntry:
    """Size and hash of a file. Raises OSError."""
    return FileEntry(path.stat().st_size, sha256_file(path))


class Bundle:
    """An opened bundle; made by `Bundle.open`.

    folder: where it lies.  manifest: what it says.
    specs: what each engine takes and gives, by name, also of engines that the bundle lacks; the face detector has none.
    identity: 16 hexadecimal digits that are equal for bundles with equal graphs and weights. Plans have no part in it:
        they are the same graphs for some machine. A Portrait outlives a change of the GPU, which changes nothing but
        the rounding.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.specs = manifest.specs()
        listing = "\n".join(f"{name} {manifest.files[name].sha256}" for name in sorted(manifest.graphs))
        self.identity = hashlib.sha256(listing.encode()).hexdigest()[:16]
        self._verified: dict[str, _Version] = {}  # files with a correct hash
        # Checked graphs, with their weight files and the tensors in these.
        self._checked_graphs: dict[str, tuple[_Version, tuple[str, ...], Mapping[str, list[Tensor]]]] = {}
        self._finite: dict[str, tuple[_Version, set[Place]]] = {}  # weight files, and the places with finite numbers

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Bundle:
        """The bundle in `folder`, its manifest and the sizes of its files checked.

        Raises BundleNotFoundError if there is none, BundleVersionError for another schema, and BundleDamagedError for a
        malformed manifest, for engines whose inputs or outputs are not those of `specs.py` (naming each), and for
        files other than plans that are missing, of another size, or links.
        """
        bundle = cls(Path(folder), read_manifest(folder))
        if wrong := [line for name in bundle.manifest.engines for line in bundle._interface_errors(name)]:
            more = f"; and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
            bundle._damaged("the manifest does not fit this version: " + "; ".join(wrong[:_MOST_NAMED]) + more)
        for name in sorted(bundle.manifest.graphs - bundle.manifest.absent):
            bundle._check_size(name)
        return bundle

    def has(self, name: str) -> bool:
        """Whether the bundle holds the engine `name`."""
        return name in self.manifest.engines

    def require(self, names: Iterable[str]) -> None:
        """Raise BundleNotFoundError, which says how to build it, for an engine that the bundle lacks."""
        for name in names:
            self._entry(name)

    def shares_weights(self, name: str) -> bool:
        """Whether a file has weights of the engine `name`, which there is, and of another."""
        engines = self.manifest.engines
        others = {file for other, entry in engines.items() if other != name for file in entry.data}
        return bool(others & set(engines[name].data))

    def engine_path(self, name: str) -> Path:
        """The ONNX file of the engine `name`, after checking it and its weight files.

        Sizes are compared every time. Hashes, graphs and weights are checked when this object first uses a file or a
        new version of it. Raises BundleNotFoundError if the bundle lacks the engine or its graph, BundleDamagedError if
        a file is missing or was changed, if `graph_check` refuses the graph, or if a weight is NaN or infinite.
        """
        entry = self._entry(name)
        if entry.file in self.manifest.absent:
            raise BundleNotFoundError(
                f"{self.folder} was built with --no-onnx and has no graph of engine {name!r}, only what TensorRT "
                "compiled: build it again without --no-onnx"
            )
        self._check_graph(name, entry)
        self.verify(*entry.data)
        self._check_weights(name, entry)
        return self.folder / entry.file

    def check_unchanged(self, name: str, plan: str | None = None) -> None:
        """Check that the files of an engine are still those that were checked.

        Call this after a library has loaded the engine, because libraries open files by name.

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
        """Stamps of the files beside the graph of the engine `name`, which ONNX Runtime maps, as they are now."""
        return {file: FileStamp.of(self.folder / file) for file in self._entry(name).data}

    def check_unwritten(self, name: str, stamps: Mapping[str, FileStamp | None]) -> None:
        """Raise BundleDamagedError if a file of weights was written to since its stamp was taken.

        What is mapped changes then, under an engine that runs. A file that was replaced or removed stays as it is for
        whoever has it mapped.
        """
        for file, now in self.weight_stamps(name).items():
            before = stamps[file]
            if now is not None and before is not None and now != before and now.inode == before.inode:
                self._damaged(f"{file} was written to while it was in use; make a new Generator after mending it")

    def plan_path(self, name: str, compilation: Compilation | None = None) -> Path:
        """The file that TensorRT compiled for the engine `name`, checked as `engine_path` checks; ONNX is not needed.

        compilation: of `manifest.compiled`; None is the newest that has a plan of the engine.
        Raises BundleNotFoundError if the bundle lacks the engine or its plan, BundleDamagedError as `engine_path`.
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
        """Raise BundleDamagedError if one of the bundle's files is missing or was changed; `engine_path` says when."""
        for file in files:
            if self._check_size(file) != self._verified.get(file):
                with self._open(file) as opened:
                    self._check_hash(file, opened)

    def is_sound(self, file: str, *, thorough: bool) -> bool:
        """Whether one of the bundle's files is there with the size, and if thorough the hash, that it should have."""
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
            held = ", ".join(self.manifest.engines) or "none"
            raise BundleNotFoundError(
                f"{self.folder} holds no engine {name!r}; it has {held}: "
                f"add it with `{BUILD_COMMAND} {self.folder} --engine {name}` {EXPORTER}"
            )
        return self.manifest.engines[name]

    def _interface_errors(self, name: str) -> Iterator[str]:
        if name == FACE_DETECTOR:
            return
        if name not in self.specs:
            yield f"engine {brief(name)} is not one of {', '.join((*ENGINE_NAMES, FACE_DETECTOR))}"
            return
        entry = self.manifest.engines[name]
        yield from interface_errors(EngineSpec(name, entry.inputs, entry.outputs), self.specs[name])

    def _check_size(self, name: str) -> _Version:
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
        return _Version.of(found)

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
            version = _Version.of(os.fstat(file.fileno()))  # before hashing, so that a later write changes the version
            if version != self._check_size(name):
                self._damaged(f"{name} was replaced while it was opened")
            found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            self._damaged(f"{name} cannot be read: {error}")
        if found != expected:
            self._damaged(f"{name} has the sha256 {found}; expected {expected}")
        self._verified[name] = version

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
        """Look for weights that are not finite in the files beside a graph, once for each version of a file.

        Both denoisers take most of theirs from one file: what was looked at for one is passed over for the other.
        """
        for name, tensors in self._checked_graphs[entry.file][2].items():
            version, seen = self._verified[name], set[Place]()
            if self._finite.get(name, ())[:1] == (version,):
                seen = self._finite[name][1]
            if not (fresh := [tensor for tensor in tensors if tensor.place not in seen]):
                continue
            with self._open(name) as file:
                try:
                    if _Version.of(os.fstat(file.fileno())) != version:
                        self._damaged(f"{name} was replaced or written to after it was hashed")
                    fault = find_in_weights(file, fresh)
                except OSError as error:
                    self._damaged(f"{name} cannot be read: {error}")
            if fault:
                self._not_finite(engine, name, fault)
            self._finite[name] = version, seen | {tensor.place for tensor in fresh}

    def _not_finite(self, engine: str, file: str, fault: str) -> NoReturn:
        self._damaged(
            f"the weights of engine {engine} are damaged, or its training diverged: in {file} {fault}",
            f"build the bundle again with `{BUILD_COMMAND} {self.folder}` {EXPORTER} from a sound checkpoint",
        )

    def _damaged(self, what: str, remedy: str | None = None) -> NoReturn:
        remedy = remedy or f"build the bundle again with `{BUILD_COMMAND} {self.folder}` {EXPORTER}, or copy it again"
        raise BundleDamagedError(f"{self.folder} cannot be used: {what}: {remedy}")
