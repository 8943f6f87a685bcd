"""The manifest of a bundle, `manifest.json`: records, reading and writing.

A manifest is untrusted: nothing in it is used before it was checked, its size is bounded, and it can only name files
that lie in the bundle's own folder. The schema is that of the records: `to_json` writes it, `from_json` reads it.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from reprlib import repr as brief
from typing import Any, NoReturn

from vexpress_rt.errors import BundleDamagedError, BundleNotFoundError, BundleVersionError, ConfigError, OutputError
from vexpress_rt.specs import (
    PRECISIONS,
    SIDE_LIMIT,
    TARGETS,
    EngineSpec,
    ModelConfig,
    TensorSpec,
    VideoShape,
    engine_specs,
)

SCHEMA = 1
MANIFEST = "manifest.json"
MANIFEST_LIMIT = 4 << 20  # bytes; that of the released model has less than a hundred thousand
BUILD_COMMAND = "python -m export.build --weights CHECKPOINT --output"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")  # no separators, no drive, no "..", no hidden files
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle: its size in bytes, and its sha256 in 64 lower-case hexadecimal digits."""

    bytes: int
    sha256: str

    @classmethod
    def from_json(cls, data: object, where: str = "a file") -> FileEntry:
        """The inverse of `dataclasses.asdict`. Raises BundleDamagedError saying what is wrong in `where`."""
        values = _record(data, where, {"bytes": int, "sha256": str})
        if values["bytes"] < 0 or not _SHA256.fullmatch(values["sha256"]):
            _malformed(f"{where} is {brief(data)}; expected a size of at least 0 and 64 hexadecimal digits")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class EngineEntry:
    """An engine of the bundle.

    file: the ONNX file.  data: files with its weights, where they lie beside it; engines may share one.
    plan: the file that TensorRT compiled from it, weights included; empty if there is none.
    fingerprint: of the weights and options that it was built from; an engine with an equal one needs no new build.
    inputs, outputs: as `specs.py` has them; of the face detector, as found in its file.
    """

    file: str
    data: tuple[str, ...] = ()
    plan: str = ""
    fingerprint: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """Everything that belongs to it."""
        return (self.file, *self.data, *([self.plan] if self.plan else []))

    @classmethod
    def from_json(cls, data: object, where: str = "an engine") -> EngineEntry:
        """The inverse of `dataclasses.asdict`. Raises BundleDamagedError saying what is wrong in `where`."""
        kinds = {"file": str, "data": list, "plan": str, "fingerprint": str, "inputs": list, "outputs": list}
        values = _record(data, where, kinds, optional=("plan",))
        values["data"] = tuple(values["data"])
        plan = [values["plan"]] if values.get("plan") else []
        _distinct([values["file"], *values["data"], *plan], f"{where} names files that")
        for side in ("inputs", "outputs"):
            values[side] = tuple(_tensor(item, f"{where}.{side}[{i}]") for i, item in enumerate(values[side]))
            _distinct([tensor.name for tensor in values[side]], f"{where} has {side} that")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle was built for, by what, and what it holds.

    package: version of vexpress_rt that built it.  versions: of python and the libraries that had a part in it.
    target, precision: of `specs.TARGETS` and `specs.PRECISIONS`.
    shape: height and width in pixels, frames of a context window.  allow_odd_sizes: see `VideoShape.check`.
    engines: by name, some or all of `specs.ENGINE_NAMES` and `specs.FACE_DETECTOR`.
    files: by name, every file of every engine.
    parity: for the record, errors of engines against their torch modules: name -> number, or numbers by name.
    compiled: what compiled the plans, and for what: library, version, gpu, capability, options; empty without plans.
    """

    package: str
    versions: Mapping[str, str]
    target: str
    precision: str
    shape: VideoShape
    allow_odd_sizes: bool = False
    model: ModelConfig
    engines: Mapping[str, EngineEntry]
    files: Mapping[str, FileEntry]
    parity: Mapping[str, float | Mapping[str, float]] = field(default_factory=dict)
    compiled: Mapping[str, str] = field(default_factory=dict)

    def specs(self) -> dict[str, EngineSpec]:
        """What `specs.py` says about each engine of such a bundle, by name."""
        return engine_specs(self.model, self.shape, self.precision)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values under the schema's keys; height, width and frames lie at the top level."""
        data = asdict(self)
        plain: dict[str, Any] = json.loads(json.dumps({"schema": SCHEMA, **data.pop("shape"), **data}))
        return plain

    @classmethod
    def from_json(cls, data: object) -> Manifest:
        """The inverse of `to_json`.

        Raises BundleVersionError for another schema, and BundleDamagedError naming the first thing that is wrong.
        """
        _check_schema(data)
        values = _record(data, "the top level", _KINDS, optional=("parity", "compiled"))
        del values["schema"]
        _check_labels(values)
        for key, record in (("engines", EngineEntry), ("files", FileEntry)):
            entries = values[key].items()
            values[key] = {_plain(name, key): record.from_json(item, f"{key}.{name}") for name, item in entries}
        for name, engine in values["engines"].items():
            if missing := [file for file in engine.files if file not in values["files"]]:
                _malformed(f"engine {name} needs {brief(missing)}, which the list of files lacks")
            if engine.plan and values["target"] == TARGETS[0]:
                _malformed(f"engine {name} has the plan {engine.plan}, and the target is {TARGETS[0]}, which has none")
        values["model"], values["shape"] = _model_and_shape(values)
        return cls(**values)


_KINDS: dict[str, type] = {
    "schema": int, "package": str, "versions": dict, "target": str, "precision": str, "height": int, "width": int,
    "frames": int, "allow_odd_sizes": bool, "model": dict, "engines": dict, "files": dict, "parity": dict,
    "compiled": dict,
}  # fmt: skip


def write_manifest(folder: str | Path, manifest: Manifest) -> None:
    """Write `manifest.json` into `folder`, whole or not at all.

    Raises BundleDamagedError for a manifest that `read_manifest` would refuse, OutputError if it cannot be written.
    """
    content = json.dumps(manifest.to_json(), indent=1).encode() + b"\n"
    parse_manifest(content)
    path = Path(folder) / MANIFEST
    part = path.with_name(f"{MANIFEST}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error}: check folder, permissions and free space") from error


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """The manifest of the bundle in `folder`.

    Raises BundleNotFoundError without folder or manifest, BundleVersionError for another schema, BundleDamagedError
    for anything else that is wrong with it.
    """
    path = Path(folder) / MANIFEST
    remedy = f"build the bundle again with `{BUILD_COMMAND} {folder}`"
    try:
        found = path.is_file()
        if found:
            with path.open("rb") as file:
                return parse_manifest(file.read(MANIFEST_LIMIT + 1))
    except BundleVersionError as error:
        raise BundleVersionError(f"{path}: {error}: {remedy}") from error
    except (BundleDamagedError, OSError) as error:
        raise BundleDamagedError(f"{path} cannot be used: {error}: {remedy}") from error
    lack = f"holds no {MANIFEST}" if path.parent.is_dir() else "is not a folder"
    raise BundleNotFoundError(f"{folder} {lack}; expected a bundle of engines: {remedy.replace(' again', '')}")


def parse_manifest(content: bytes) -> Manifest:
    """A manifest from the bytes of its file. Raises what `Manifest.from_json` does."""
    if len(content) > MANIFEST_LIMIT:
        _malformed(f"it is larger than {MANIFEST_LIMIT} bytes")
    try:
        data = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
            parse_int=_short_integer,
        )
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON
        if isinstance(error, BundleDamagedError):
            raise
        raise BundleDamagedError(f"the manifest is malformed: {brief(str(error))}") from error
    return Manifest.from_json(data)


def _malformed(what: str) -> NoReturn:
    raise BundleDamagedError(f"the manifest is malformed: {what}")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _distinct([key for key, _ in pairs], "an object has keys that")
    return dict(pairs)


def _no_constant(name: str) -> NoReturn:
    _malformed(f"it holds {name}; expected finite numbers")


def _short_integer(digits: str) -> int:
    if len(digits) > 19:  # no size needs as many, and larger ones cannot even be compared with floats
        _malformed(f"it holds the number {brief(digits)}; expected at most 19 digits")
    return int(digits)


def _distinct(names: list[Any], what: str) -> None:
    if not all(type(name) is str for name in names) or len(set(names)) != len(names):
        _malformed(f"{what} are not distinct texts: {brief(names)}")


def _record(data: object, where: str, kinds: Mapping[str, type], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """A copy of the object `data` if it has exactly the keys of `kinds`, each with a value of exactly that type."""
    if type(data) is not dict:
        _malformed(f"{where} is {brief(data)}; expected an object")
    if wrong := sorted((kinds.keys() ^ data.keys()) - (set(optional) - data.keys())):
        _malformed(f"{where} lacks or does not know {brief(wrong)}")
    for name, value in data.items():
        if type(value) is not kinds[name]:
            _malformed(f"{where} has {name} = {brief(value)}; expected {kinds[name].__name__}")
    return dict(data)


def _plain(name: str, where: str) -> str:
    if not _PLAIN_NAME.fullmatch(name) or name == MANIFEST:
        _malformed(f"{where} names {brief(name)}; expected a plain name: letters, digits, '.', '_' and '-'")
    return name


def _tensor(data: object, where: str) -> TensorSpec:
    values = _record(data, where, {"name": str, "dims": list, "shape": list, "dtype": str})
    dims, shape = tuple(values["dims"]), tuple(values["shape"])
    sizes_right = all(size is None or (type(size) is int and size >= 0) for size in shape)
    if len(dims) != len(shape) or not sizes_right or not all(type(dim) is str for dim in dims):
        _malformed(f"{where} has dims {brief(dims)} and shape {brief(shape)}; expected as many names as sizes")
    return TensorSpec(values["name"], dims, shape, values["dtype"])


def _check_schema(data: object) -> None:
    schema = data.get("schema") if type(data) is dict else None
    if type(schema) is not int:
        _malformed("it has no schema number at the top level")
    if schema != SCHEMA:
        age, remedy = ("newer", "upgrade vexpress-rt, or") if schema > SCHEMA else ("older", "it is no longer read:")
        raise BundleVersionError(f"its schema is {brief(schema)}, {age} than this version's {SCHEMA}; {remedy}")


def _check_labels(values: dict[str, Any]) -> None:
    """Target, precision, versions, compiled and parity: names and numbers that only have to be of their kind."""
    for name, choices in (("target", TARGETS), ("precision", tuple(PRECISIONS))):
        if values[name] not in choices:
            _malformed(f"{name} is {brief(values[name])}; expected one of {', '.join(choices)}")
    for name in ("versions", "compiled"):
        if not all(type(text) is str for text in values.get(name, {}).values()):
            _malformed(f"{name} is {brief(values[name])}; expected texts")
    for name, value in values.get("parity", {}).items():
        numbers = value.values() if type(value) is dict else [value]
        if not all(type(number) in (int, float) and -math.inf < number < math.inf for number in numbers):
            _malformed(f"parity.{brief(name)} is {brief(value)}; expected finite numbers")


def _model_and_shape(values: dict[str, Any]) -> tuple[ModelConfig, VideoShape]:
    sides = [values.pop(side) for side in ("height", "width", "frames")]
    if not all(1 <= side <= SIDE_LIMIT for side in sides):
        _malformed(f"height, width and frames are {brief(sides)}; expected 1 to {SIDE_LIMIT}")
    try:
        model, shape = ModelConfig.from_json(values["model"]), VideoShape(*sides)
        shape.check(model, allow_odd_sizes=values["allow_odd_sizes"])
    except ConfigError as error:
        raise BundleDamagedError(f"the manifest is malformed: {error}") from error
    return model, shape
