"""The manifest of a bundle, `manifest.json`: records, reading and writing.

A manifest is untrusted: nothing in it is used before it is checked, its size is bounded, and it can only name files in
the bundle's own folder. The records define the schema: `to_json` writes it, `from_json` reads it. `compilation.py` has
the record of plans, `untrusted_json.py` the functions that read all of them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from vexpress_rt.bundle.compilation import COMPILATIONS_LIMIT, PLAN, Compilation
from vexpress_rt.bundle.engine_spec import (
    FACE_DETECTOR,
    PRECISIONS,
    EngineSpec,
    ModelConfig,
    TensorSpec,
    VideoShape,
    engine_specs,
)
from vexpress_rt.bundle.target import TARGETS, check_precision
from vexpress_rt.bundle.training_record import TrainingRecord
from vexpress_rt.bundle.untrusted_json import distinct, malformed, parse, plain_name, record, sha256
from vexpress_rt.config import GenerationConfig, Settings, check_recommendations, current_names
from vexpress_rt.errors import BundleDamagedError, BundleNotFoundError, BundleVersionError, ConfigError, OutputError
from vexpress_rt.types import MAX_BUNDLE_SIDE
from vexpress_rt.utils.project_links import EXPORTER

SCHEMA = 2
MANIFEST = "manifest.json"
MANIFEST_LIMIT = 4 << 20  # bytes; the released model's manifest has less than 100,000
FILE_LIMIT = 16 << 30  # bytes, to bound the hashing of sparse files; the released model's largest file has 5 GB
BUILD_COMMAND = "python -m export.build --weights CHECKPOINT --output"


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle.

    Attributes:
        bytes: Its size.
        sha256: Its hash, 64 lower-case hexadecimal digits.
    """

    bytes: int
    sha256: str

    @classmethod
    def from_json(cls, data: object, where: str = "a file") -> FileEntry:
        """Read the result of `dataclasses.asdict`.

        Args:
            data: The parsed JSON.
            where: Its place in the manifest, for messages.

        Raises:
            BundleDamagedError: The data is malformed; the message names the fault.
        """
        values = record(data, where, {"bytes": int, "sha256": str})
        if not 0 <= values["bytes"] <= FILE_LIMIT:
            malformed(f"{where} has bytes = {values['bytes']}; expected a size of at least 0 and at most {FILE_LIMIT}")
        sha256(values["sha256"], f"{where}.sha256")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class EngineEntry:
    """An engine of the bundle.

    Attributes:
        file: The ONNX file.
        data: Files with its weights, if they are not in the ONNX file. Engines can share one.
        weights_sha256: Hash of the weights that it was exported from, and of their configuration.
        fingerprint: Hash of `weights_sha256`, the options and the exporter's code. An engine with an equal fingerprint
            need not be exported again.
        inputs: Its inputs, as in `engine_spec.py`; for the face detector, as in its file.
        outputs: Its outputs, as for `inputs`.
    """

    file: str
    data: tuple[str, ...] = ()
    weights_sha256: str
    fingerprint: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """The files of graph and weights. Plans are not among them: they belong to a `Compilation`."""
        return (self.file, *self.data)

    @classmethod
    def from_json(cls, data: object, where: str = "an engine") -> EngineEntry:
        """Read the result of `dataclasses.asdict`.

        Args:
            data: The parsed JSON.
            where: Its place in the manifest, for messages.

        Raises:
            BundleDamagedError: The data is malformed; the message names the fault.
        """
        texts: dict[str, type] = dict.fromkeys(("file", "weights_sha256", "fingerprint"), str)
        values = record(data, where, {**texts, "data": list, "inputs": list, "outputs": list})
        values["data"] = tuple(values["data"])
        distinct([values["file"], *values["data"]], f"{where} names files that")
        sha256(values["weights_sha256"], f"{where}.weights_sha256")
        for side in ("inputs", "outputs"):
            values[side] = tuple(_tensor(item, f"{where}.{side}[{i}]") for i, item in enumerate(values[side]))
            distinct([tensor.name for tensor in values[side]], f"{where} has {side} that")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The manifest of a bundle: how it was built, and its contents.

    Attributes:
        package: Version of vexpress_rt that built it.
        versions: Versions of Python and of the libraries that exported it.
        target: A key of `target.TARGETS`.
        precision: One of `engine_spec.PRECISIONS`.
        shape: Height and width in pixels, and frames of a context window.
        allow_odd_sizes: See `VideoShape.check`.
        model: The configuration of the model.
        engines: Engines by name, some or all of those of `specs` and `engine_spec.FACE_DETECTOR`.
        files: Files by name: those of every engine, and all plans.
        recommended: Options that suit the model, some of `config.RECOMMENDABLE`, for options that a caller leaves open.
        recommended_live: Options of the same names for live sessions, where they replace those of `recommended`.
        parity: Differences between engines and their PyTorch modules: a number by engine, or numbers by output.
        onnx: Whether the bundle contains the graphs and their weights. Without them, `files` keeps the sizes and
            hashes of the graphs that the plans were compiled from. The face detector's graph is always included.
        compiled: Compilations of plans, the newest last.
        training: The source of the weights that replaced some of the checkpoint directory's; None if all are its own.
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
    recommended: Mapping[str, Any] = field(default_factory=dict)
    recommended_live: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, float | Mapping[str, float]] = field(default_factory=dict)
    onnx: bool = True
    compiled: tuple[Compilation, ...] = ()
    training: TrainingRecord | None = None

    def specs(self) -> dict[str, EngineSpec]:
        """Return the specification of each engine for this model, shape, precision and target, by name."""
        sines_as_input = TARGETS[self.target].sines_as_input
        return engine_specs(self.model, self.shape, self.precision, sines_as_input=sines_as_input)

    def settings(self, config: GenerationConfig, *, live: bool = False) -> Settings:
        """Resolve a configuration with this bundle's recommendations: see `GenerationConfig.resolve`.

        Args:
            config: The options of the caller.
            live: Whether for a live session. Precedence: argument, preset, `recommended_live`, `recommended`, default.
        """
        recommended = {**self.recommended, **(self.recommended_live if live else {})}
        return config.resolve(recommended, self.shape.frames)

    @property
    def graphs(self) -> set[str]:
        """The files of graphs and weights."""
        return {file for engine in self.engines.values() for file in engine.files}

    @property
    def absent(self) -> set[str]:
        """Files that are not in the bundle: only their sizes and hashes are recorded."""
        detector = self.engines.get(FACE_DETECTOR)
        return set() if self.onnx else self.graphs - set(detector.files if detector else ())

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values under the schema's keys, with height, width and frames at the top level."""
        data = asdict(self) | {"compiled": [compilation.to_json() for compilation in self.compiled]}
        del data["training"]  # runtimes that do not know the key read bundles without it
        if self.training is not None:
            data["training"] = self.training.to_json()
        plain: dict[str, Any] = json.loads(json.dumps({"schema": SCHEMA, **data.pop("shape"), **data}))
        return plain

    @classmethod
    def from_json(cls, data: object) -> Manifest:
        """Read the result of `to_json`.

        Args:
            data: A value from JSON.

        Raises:
            BundleVersionError: It has another schema.
            BundleDamagedError: It is malformed. The message names the first fault.
        """
        _check_schema(data)
        values = record(data, "the top level", _KINDS, _OPTIONAL)
        del values["schema"]
        _check_labels(values)
        for key, kind in (("engines", EngineEntry), ("files", FileEntry)):
            entries = values[key].items()
            values[key] = {_name(name, key): kind.from_json(item, f"{key}.{name}") for name, item in entries}
        for name, engine in values["engines"].items():
            if missing := [file for file in engine.files if file not in values["files"]]:
                malformed(f"engine {name} needs {brief(missing)}, which the list of files lacks")
        compiled = enumerate(values.get("compiled", []))
        values["compiled"] = tuple(Compilation.from_json(item, f"compiled[{i}]") for i, item in compiled)
        if "training" in values:
            values["training"] = TrainingRecord.from_json(values["training"])
        values |= {section: current_names(values.get(section, {})) for section in _RECOMMENDED}
        values["model"], values["shape"] = _model_and_shape(values)
        manifest = cls(**values)
        _check_plans(manifest)
        return manifest


_KINDS: dict[str, type] = {
    "schema": int, "package": str, "versions": dict, "target": str, "precision": str, "height": int, "width": int,
    "frames": int, "allow_odd_sizes": bool, "model": dict, "engines": dict, "files": dict,
    "recommended": dict, "recommended_live": dict, "parity": dict, "onnx": bool, "compiled": list,
    "training": dict,
}  # fmt: skip
_RECOMMENDED = ("recommended", "recommended_live")
_OPTIONAL = (*_RECOMMENDED, "parity", "onnx", "compiled", "training")


def write_manifest(folder: str | Path, manifest: Manifest) -> None:
    """Write `manifest.json` into a folder, completely or not at all.

    Args:
        folder: The bundle's folder.
        manifest: The manifest.

    Raises:
        BundleDamagedError: `read_manifest` would refuse the manifest.
        OutputError: It cannot be written.
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
    """Read the manifest of the bundle in a folder.

    Args:
        folder: The folder of the bundle.

    Raises:
        BundleNotFoundError: There is no such folder, or no manifest in it.
        BundleVersionError: The manifest has another schema.
        BundleDamagedError: The manifest is malformed or cannot be read.
    """
    path = Path(folder) / MANIFEST
    remedy = f"build the bundle again with `{BUILD_COMMAND} {folder}` {EXPORTER}"
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
    """Parse the bytes of a manifest file. Raises the errors of `Manifest.from_json`.

    Args:
        content: JSON of any content.
    """
    return Manifest.from_json(parse(content, MANIFEST_LIMIT))


def _name(name: str, where: str) -> str:
    if name == MANIFEST:
        malformed(f"{where} names {MANIFEST}; expected a plain name other than that")
    return plain_name(name, where)


def _tensor(data: object, where: str) -> TensorSpec:
    values = record(data, where, {"name": str, "dims": list, "shape": list, "dtype": str})
    dims, shape = tuple(values["dims"]), tuple(values["shape"])
    sizes_right = all(size is None or (type(size) is int and size >= 0) for size in shape)
    if len(dims) != len(shape) or not sizes_right or not all(type(dim) is str for dim in dims):
        malformed(f"{where} has dims {brief(dims)} and shape {brief(shape)}; expected as many names as sizes")
    return TensorSpec(values["name"], dims, shape, values["dtype"])


def _check_schema(data: object) -> None:
    schema = data.get("schema") if type(data) is dict else None
    if type(schema) is not int:
        malformed("it has no schema number at the top level")
    if schema != SCHEMA:
        age, remedy = ("newer", "upgrade vexpress-rt, or") if schema > SCHEMA else ("older", "it is no longer read:")
        raise BundleVersionError(f"its schema is {brief(schema)}, {age} than this version's {SCHEMA}; {remedy}")


def _check_labels(values: dict[str, Any]) -> None:
    """Check target, precision, versions and parity."""
    for name, choices in (("target", tuple(TARGETS)), ("precision", tuple(PRECISIONS))):
        if values[name] not in choices:
            malformed(f"{name} is {brief(values[name])}; expected one of {', '.join(choices)}")
    if not all(type(text) is str for text in values["versions"].values()):
        malformed(f"versions is {brief(values['versions'])}; expected texts")
    for name, value in values.get("parity", {}).items():
        numbers = value.values() if type(value) is dict else [value]
        if not all(type(number) in (int, float) and -math.inf < number < math.inf for number in numbers):
            malformed(f"parity.{brief(name)} is {brief(value)}; expected finite numbers")


def _model_and_shape(values: dict[str, Any]) -> tuple[ModelConfig, VideoShape]:
    sides = [values.pop(side) for side in ("height", "width", "frames")]
    if not all(1 <= side <= MAX_BUNDLE_SIDE for side in sides):
        malformed(f"height, width and frames are {brief(sides)}; expected 1 to {MAX_BUNDLE_SIDE}")
    try:
        model, shape = ModelConfig.from_json(values["model"]), VideoShape(*sides)
        shape.check(model, allow_odd_sizes=values["allow_odd_sizes"])
        check_precision(values["precision"], values["target"])
        check_recommendations(values["recommended"], values["recommended_live"], shape.frames)
    except ConfigError as error:
        raise BundleDamagedError(f"the manifest is malformed: {error}") from error
    return model, shape


def _check_plans(manifest: Manifest) -> None:
    """Check that all compilations are for this bundle's target, engines and files, and that they share no file."""
    if len(manifest.compiled) > COMPILATIONS_LIMIT:
        malformed(f"it has {len(manifest.compiled)} compilations; expected at most {COMPILATIONS_LIMIT}")
    for index, compilation in enumerate(manifest.compiled):
        where = f"compiled[{index}]"
        if compilation.library != manifest.target:
            malformed(f"{where} is by {compilation.library}, and the target is {manifest.target}")
        if unknown := sorted(compilation.plans.keys() - manifest.engines.keys()):
            malformed(f"{where} has plans of {brief(unknown)}, which the list of engines lacks")
        if missing := sorted(set(compilation.plans.values()) - manifest.files.keys()):
            malformed(f"{where} has the plans {brief(missing)}, which the list of files lacks")
    distinct([compilation.key for compilation in manifest.compiled], "it has compilations whose keys")
    if plans := sorted(name for name in manifest.graphs if name.endswith(PLAN)):
        malformed(f"it has the graphs {brief(plans)}; expected names that no plan can have")
    compiled = {FACE_DETECTOR, *(name for compilation in manifest.compiled for name in compilation.plans)}
    if not manifest.onnx and (lacking := sorted(manifest.engines.keys() - compiled)):
        malformed(f"{brief(lacking)} have neither a graph in the bundle nor a plan")
