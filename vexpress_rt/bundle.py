"""A bundle of engines: a folder with `manifest.json` -> engine files that are what the manifest says.

Opening compares the manifest with `specs.py` and the sizes of graphs and weights with the manifest; a file's hash is
computed when an engine that needs it is first asked for, and again when the file was replaced or written to. A graph is
then read, too, before any library sees it: `graph_check.py` says what it may do. Plans, which can be made again, are
checked when they are asked for.

A hard link needs no rule of its own: it is the file, and its content is what is hashed.
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

from vexpress_rt.compilation import Compilation, with_newest
from vexpress_rt.errors import BundleDamagedError, BundleNotFoundError
from vexpress_rt.graph_check import check_graph_file
from vexpress_rt.manifest import (
    BUILD_COMMAND,
    MANIFEST,
    EngineEntry,
    FileEntry,
    Manifest,
    read_manifest,
    write_manifest,
)
from vexpress_rt.records import FileStamp
from vexpress_rt.specs import ENGINE_NAMES, FACE_DETECTOR, EngineSpec, interface_errors

__all__ = [
    "MANIFEST",
    "WORKING",
    "Bundle",
    "Compilation",
    "EngineEntry",
    "FileEntry",
    "Manifest",
    "check_graph_file",
    "file_entry",
    "read_manifest",
    "sha256_file",
    "with_newest",
    "write_manifest",
]


# What the names of files begin with that are in a bundle only while plans are compiled: no plain name can.
WORKING = ".compiling"


# ONNX files are protobuf messages, and those end here. Larger weights lie in files of their own.
GRAPH_LIMIT = (1 << 31) - 1  # bytes


class _Version(NamedTuple):
    """A file as it is at some moment: another one in its place, or a change of it, makes another version."""

    device: int
    inode: int
    size: int
    written: int
    changed: int  # also by giving it another name: of a file that was away and is back

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
        self._verified: dict[str, _Version] = {}  # files, as they were when their hashes were right
        self._sound: dict[str, tuple[_Version, tuple[str, ...]]] = {}  # graphs, with the files that they may take from

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

        Sizes are compared every time; hashes, and what `graph_check` asks of a graph, the first time that this object
        meets a file or a new version of it. Raises BundleNotFoundError if the bundle lacks the engine or its graph,
        BundleDamagedError if a file is missing or was changed, or the graph is none that an exporter of engines writes.
        """
        entry = self._entry(name)
        if entry.file in self.manifest.absent:
            raise BundleNotFoundError(
                f"{self.folder} was built with --no-onnx and has no graph of engine {name!r}, only what TensorRT "
                "compiled: build it again without --no-onnx"
            )
        self._check_graph(entry)
        self.verify(*entry.data)
        return self.folder / entry.file

    def check_unchanged(self, name: str, plan: str | None = None) -> None:
        """Raise BundleDamagedError if a file of the engine `name` is not the one that was checked.

        To be called when a library has loaded the engine, which opens its files by their names.
        plan: the file, if `plan_path` gave it and not `engine_path`.
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
                f"build with `{BUILD_COMMAND} {self.folder} --target tensorrt` (or tensorrt-rtx)"
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
                f"add it with `{BUILD_COMMAND} {self.folder} --engine {name}`"
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
        """The version of a file that is one, of the right size, and in this folder."""
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
        """A file to read, and no other that takes its place meanwhile: no link is followed, no pipe waited for."""
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
            version = _Version.of(os.fstat(file.fileno()))  # before, so that what is written meanwhile shows later
            if version != self._check_size(name):
                self._damaged(f"{name} was replaced while it was opened")
            found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            self._damaged(f"{name} cannot be read: {error}")
        if found != expected:
            self._damaged(f"{name} has the sha256 {found}; expected {expected}")
        self._verified[name] = version

    def _check_graph(self, entry: EngineEntry) -> None:
        """Hash a graph and read what it asks for, both from the one open file."""
        name, version = entry.file, self._check_size(entry.file)
        if version == self._verified.get(name) and self._sound.get(name) == (version, entry.data):
            return
        if version.size > GRAPH_LIMIT:
            self._damaged(f"{name} has {version.size} bytes; an ONNX file has at most {GRAPH_LIMIT}")
        with self._open(name) as file:
            self._check_hash(name, file)
            try:
                check_graph_file(file, {weights: self.manifest.files[weights].bytes for weights in entry.data})
            except BundleDamagedError as error:
                self._damaged(f"{name} is no graph of an engine: {error}")
            except OSError as error:
                self._damaged(f"{name} cannot be read: {error}")
        self._sound[name] = self._verified[name], entry.data

    def _damaged(self, what: str) -> NoReturn:
        remedy = f"build the bundle again with `{BUILD_COMMAND} {self.folder}`, or copy it again"
        raise BundleDamagedError(f"{self.folder} cannot be used: {what}: {remedy}")
