"""Bundles: what is written can be read, and nothing that was changed gets through."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factories import model_config
from vexpress_rt.bundle import Bundle, EngineEntry, FileEntry, Manifest, read_manifest, sha256_file, write_manifest
from vexpress_rt.errors import (
    BundleDamagedError,
    BundleError,
    BundleNotFoundError,
    BundleVersionError,
    OutputError,
)
from vexpress_rt.manifest import MANIFEST, MANIFEST_LIMIT, parse_manifest
from vexpress_rt.specs import FACE_DETECTOR, TensorSpec, VideoShape, engine_specs

CONTENTS = {
    "vae_encoder.onnx": b"the encoder",
    "denoiser.onnx": b"the denoiser",
    "denoiser.weights": b"weights of the denoiser" * 100,
    "det_10g.onnx": b"the detector",
}
SHAPE = VideoShape(64, 128, 8)


def make_manifest(**changes: Any) -> Manifest:
    """Of a bundle with two engines, one with its weights beside it, and a face detector."""
    specs = engine_specs(model_config(), SHAPE)

    def entry(name: str, *data: str) -> EngineEntry:
        spec = specs[name]
        return EngineEntry(file=f"{name}.onnx", data=data, fingerprint="00ff", inputs=spec.inputs, outputs=spec.outputs)

    detector = EngineEntry(
        file="det_10g.onnx",
        fingerprint="1234",
        inputs=(TensorSpec("input.1", ("1", "3", "?", "?"), (1, 3, None, None), "float32"),),
        outputs=(TensorSpec("448", ("12800", "1"), (12800, 1), "float32"),),
    )
    values = {
        "package": "0.1.0",
        "versions": {"torch": "2.13.0", "python": "3.11.7"},
        "target": "onnxruntime",
        "precision": "fp32",
        "shape": SHAPE,
        "model": model_config(),
        "engines": {
            "vae_encoder": entry("vae_encoder"),
            "denoiser": entry("denoiser", "denoiser.weights"),
            FACE_DETECTOR: detector,
        },
        "files": {name: FileEntry(len(c), hashlib.sha256(c).hexdigest()) for name, c in CONTENTS.items()},
        "parity": {"denoiser": 3e-6, "vae_encoder": {"latent": 1e-6}},
    }
    return Manifest(**(values | changes))


def make_folder(path: Path) -> Path:
    path.mkdir()
    for name, content in CONTENTS.items():
        (path / name).write_bytes(content)
    write_manifest(path, make_manifest())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole bundle."""
    return make_folder(tmp_path / "bundle")


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle for tests that overwrite its manifest before each use."""
    return make_folder(tmp_path_factory.mktemp("victim") / "bundle")


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest's JSON in place."""
    data = json.loads((folder / MANIFEST).read_text())
    change(data)
    (folder / MANIFEST).write_text(json.dumps(data))


def test_a_manifest_reads_back_as_it_was_written(folder: Path) -> None:
    assert read_manifest(folder) == make_manifest()
    assert sorted(path.name for path in folder.iterdir()) == sorted([*CONTENTS, MANIFEST])


def test_the_manifest_has_the_documented_keys(folder: Path) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    assert data["schema"] == 1
    assert (data["height"], data["width"], data["frames"]) == (64, 128, 8)
    assert data["allow_odd_sizes"] is False
    assert data["model"]["block_out_channels"] == [32, 64, 96, 128]
    assert data["engines"]["denoiser"]["data"] == ["denoiser.weights"]
    assert data["engines"]["denoiser"]["inputs"][0] == {
        "name": "latents", "dims": ["F", "c", "h", "w"], "shape": [8, 4, 8, 16], "dtype": "float32",
    }  # fmt: skip
    assert data["files"]["denoiser.onnx"]["bytes"] == len(CONTENTS["denoiser.onnx"])


def test_json_values_of_a_manifest_are_plain(folder: Path) -> None:
    data = make_manifest().to_json()
    assert data == json.loads(json.dumps(data))
    assert Manifest.from_json(data) == make_manifest()


def test_parity_may_be_left_out(folder: Path) -> None:
    edit(folder, lambda data: data.pop("parity"))
    assert read_manifest(folder).parity == {}


def test_a_bundle_gives_paths_of_verified_engines(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.engine_path("denoiser") == folder / "denoiser.onnx"
    assert bundle.engine_path(FACE_DETECTOR) == folder / "det_10g.onnx"
    assert bundle.has("denoiser")
    assert not bundle.has("vae_decoder")


def test_a_bundle_derives_the_specifications_of_all_engines(folder: Path) -> None:
    assert Bundle.open(folder).specs == engine_specs(model_config(), SHAPE)


def test_a_bundle_opens_by_a_path_given_as_text(folder: Path) -> None:
    assert Bundle.open(str(folder)).folder == folder


def test_identity_follows_the_files_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    identity = Bundle.open(folder).identity
    assert re.fullmatch(r"[0-9a-f]{16}", identity)
    moved = folder.rename(tmp_path / "elsewhere")
    edit(moved, lambda data: data["versions"].update(torch="3"))
    assert Bundle.open(moved).identity == identity
    edit(moved, lambda data: data["files"]["denoiser.onnx"].update(sha256="0" * 64))
    assert Bundle.open(moved).identity != identity


def test_a_file_is_hashed_once_and_its_size_compared_every_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []

    def counting(path: Path) -> str:
        hashed.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr("vexpress_rt.bundle.sha256_file", counting)
    bundle = Bundle.open(folder)
    assert hashed == []
    bundle.engine_path("denoiser")
    bundle.engine_path("denoiser")
    assert hashed == ["denoiser.onnx", "denoiser.weights"]
    (folder / "denoiser.weights").write_bytes(b"")
    with pytest.raises(BundleDamagedError, match=r"denoiser.weights has 0 bytes; expected 2300"):
        bundle.engine_path("denoiser")


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_file(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()


def test_a_missing_folder_is_named_with_the_command_that_builds_one(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match=r"nowhere is not a folder.*python -m export.build .*nowhere"):
        Bundle.open(tmp_path / "nowhere")


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match=r"holds no manifest.json.*python -m export.build"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("name", ["bad\0name", "x" * 5000])
def test_a_folder_name_that_no_system_accepts_is_a_bundle_error(name: str) -> None:
    with pytest.raises(BundleError):
        Bundle.open(name)


def test_a_missing_engine_is_named_with_the_command_that_adds_it(folder: Path) -> None:
    with pytest.raises(
        BundleNotFoundError,
        match=r"no engine 'vae_decoder'; it has vae_encoder, .*python -m export.build .* --engine vae_d",
    ):
        Bundle.open(folder).engine_path("vae_decoder")


def test_a_changed_file_is_named_with_both_hashes(folder: Path) -> None:
    (folder / "denoiser.weights").write_bytes(CONTENTS["denoiser.weights"].replace(b"w", b"v"))
    bundle = Bundle.open(folder)
    bundle.engine_path("vae_encoder")
    expected = hashlib.sha256(CONTENTS["denoiser.weights"]).hexdigest()
    with pytest.raises(BundleDamagedError, match=rf"denoiser.weights has the sha256 \w{{64}}; expected {expected}"):
        bundle.engine_path("denoiser")


def test_a_truncated_file_is_found_on_opening(folder: Path) -> None:
    (folder / "denoiser.onnx").write_bytes(b"the")
    with pytest.raises(BundleDamagedError, match=r"denoiser.onnx has 3 bytes; expected 12.*python -m export.build"):
        Bundle.open(folder)


def test_a_missing_file_is_found_on_opening(folder: Path) -> None:
    (folder / "denoiser.weights").unlink()
    with pytest.raises(BundleDamagedError, match=r"denoiser.weights cannot be found"):
        Bundle.open(folder)


def test_a_folder_in_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / "denoiser.onnx").unlink()
    (folder / "denoiser.onnx").mkdir()
    with pytest.raises(BundleDamagedError, match="expected a file"):
        Bundle.open(folder)


def test_a_link_out_of_the_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    outside = (folder / "denoiser.onnx").rename(tmp_path / "outside.onnx")
    (folder / "denoiser.onnx").symlink_to(outside)
    with pytest.raises(BundleDamagedError, match="a link out of the bundle"):
        Bundle.open(folder)


def test_a_link_to_itself_is_refused(folder: Path) -> None:
    (folder / "denoiser.onnx").unlink()
    (folder / "denoiser.onnx").symlink_to(folder / "denoiser.onnx")
    with pytest.raises(BundleDamagedError, match=r"denoiser.onnx cannot be found"):
        Bundle.open(folder)


def test_a_bundle_in_a_linked_folder_is_used(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    assert Bundle.open(tmp_path / "link").engine_path("denoiser").is_file()


def test_every_input_and_output_that_does_not_fit_is_named(folder: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        denoiser = data["engines"]["denoiser"]
        denoiser["inputs"][0]["shape"][0] = 7
        denoiser["inputs"][1]["name"] = "time"
        denoiser["outputs"].pop()
        data["engines"]["vae_encoder"]["outputs"][0]["dtype"] = "float16"

    edit(folder, change)
    with pytest.raises(BundleDamagedError) as caught:
        Bundle.open(folder)
    for part in ("latents: float32 (F=7", "unknown input time", "lacks the input timestep", "lacks the output cond",
                 "vae_encoder has the output latent: float16"):  # fmt: skip
        assert part in str(caught.value)


def test_an_engine_that_this_version_does_not_know_is_named(folder: Path) -> None:
    edit(folder, lambda data: data["engines"].update(teleporter=data["engines"]["denoiser"]))
    with pytest.raises(BundleDamagedError, match="engine teleporter is not one of vae_encoder, "):
        Bundle.open(folder)


def test_a_newer_schema_asks_for_an_upgrade_or_a_new_build(folder: Path) -> None:
    edit(folder, lambda data: data.update(schema=2, unheard_of=1))
    with pytest.raises(BundleVersionError, match=r"newer than this version's 1; upgrade .*python -m export.build"):
        Bundle.open(folder)


def test_an_older_schema_asks_for_a_new_build(folder: Path) -> None:
    edit(folder, lambda data: data.update(schema=0))
    with pytest.raises(BundleVersionError, match=r"schema is 0, older than .*python -m export.build"):
        Bundle.open(folder)


@pytest.mark.parametrize("schema", [True, 1.0, "1", None, [1]])
def test_a_schema_that_is_no_whole_number_is_malformed(folder: Path, schema: Any) -> None:
    edit(folder, lambda data: data.update(schema=schema))
    with pytest.raises(BundleDamagedError, match="no schema number"):
        Bundle.open(folder)


NAMES = ["../x", "/etc/passwd", "a/b", "a\\b", "C:x", "..", ".", "", ".hidden", "x\0y", "a\nb", "x" * 200, MANIFEST]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_name_that_is_not_plain_is_refused(folder: Path, name: str) -> None:
    edit(folder, lambda data: data["files"].update({name: data["files"]["denoiser.onnx"]}))
    with pytest.raises(BundleDamagedError, match="expected a plain name"):
        Bundle.open(folder)


def test_an_engine_can_only_name_files_that_are_listed(folder: Path) -> None:
    edit(folder, lambda data: data["engines"]["denoiser"].update(file="../../etc/passwd"))
    with pytest.raises(BundleDamagedError, match=r"engine denoiser needs \['../../etc/passwd'\], which the list"):
        Bundle.open(folder)


def drop(data: dict[str, Any], *path: str) -> None:
    for key in path[:-1]:
        data = data[key]
    del data[path[-1]]


def put(data: dict[str, Any], value: Any, *path: str) -> None:
    for key in path[:-1]:
        data = data[key]
    data[path[-1]] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: drop(d, "engines"), "the top level lacks or does not know .'engines'"),
        (lambda d: put(d, 1, "colour"), "the top level lacks or does not know .'colour'"),
        (lambda d: put(d, True, "height"), "the top level has height = True; expected int"),
        (lambda d: put(d, 64.0, "height"), "the top level has height = 64.0; expected int"),
        (lambda d: put(d, 0, "allow_odd_sizes"), "allow_odd_sizes = 0; expected bool"),
        (lambda d: put(d, 10**12, "height"), "expected 1 to 65536"),
        (lambda d: put(d, 72, "height"), "height is 72; expected a multiple of 64"),
        (lambda d: put(d, 33, "frames"), "frames is 33; expected 1 to 32"),
        (lambda d: put(d, "torch", "target"), "target is 'torch'; expected one of onnxruntime, tensorrt"),
        (lambda d: put(d, "int8", "precision"), "precision is 'int8'; expected one of fp32, fp16"),
        (lambda d: put(d, 2, "versions", "torch"), "versions is .*; expected texts"),
        (lambda d: put(d, "small", "parity", "denoiser"), "parity.'denoiser' is 'small'; expected finite"),
        (lambda d: put(d, 0, "model", "attention_heads"), "attention_heads = 0; expected 1 to"),
        (lambda d: put(d, "x", "model", "vae_factor"), "has vae_factor = 'x'"),
        (lambda d: put(d, 10**400, "parity", "denoiser"), "number .*; expected at most 19 digits"),
        (lambda d: put(d, -1, "files", "denoiser.onnx", "bytes"), "expected a size of at least 0"),
        (lambda d: put(d, "A" * 64, "files", "denoiser.onnx", "sha256"), "64 hexadecimal digits"),
        (lambda d: put(d, None, "engines", "denoiser", "file"), "engines.denoiser has file = None; expected str"),
        (lambda d: put(d, ["denoiser.onnx"], "engines", "denoiser", "data"), "names files that are not distinct"),
        (lambda d: put(d, [1], "engines", "denoiser", "data"), "names files that are not distinct texts"),
        (lambda d: put(d, [None], "engines", "denoiser", "inputs"), "denoiser.inputs.0. is None; expected an object"),
        (
            lambda d: d["engines"]["denoiser"]["inputs"].append(d["engines"]["denoiser"]["inputs"][0]),
            "denoiser has inputs that are not distinct",
        ),
        (lambda d: d["engines"]["denoiser"]["inputs"][0]["dims"].pop(), "expected as many names as sizes"),
        (lambda d: d["engines"]["denoiser"]["inputs"][0]["shape"].insert(0, True), "expected as many names as sizes"),
    ],
)
def test_a_malformed_manifest_is_refused_by_what_is_wrong(
    folder: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    edit(folder, change)
    with pytest.raises(BundleDamagedError, match=message) as caught:
        Bundle.open(folder)
    assert "python -m export.build" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "malformed"),
        (b"{", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"[1]", "no schema number"),
        (b'{"schema": NaN}', "holds NaN; expected finite"),
        (b'{"schema": -Infinity}', "holds -Infinity"),
        (b'{"schema": 1, "schema": 1}', "keys that are not distinct"),
        (b"[" * 100_000, "malformed"),
        (b'{"schema": 1' + b"0" * 5000 + b"}", "at most 19 digits"),
        (b" " * (MANIFEST_LIMIT + 1), "larger than"),
    ],
)
def test_a_manifest_that_is_not_plain_json_is_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(BundleDamagedError, match=message):
        Bundle.open(folder)


DATA = make_manifest().to_json()


def places(data: Any) -> list[tuple[Any, ...]]:
    """Paths to every value inside JSON data."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [(key, *rest) for key, value in items for rest in [(), *places(value)]]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**4000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.tuples(st.sampled_from(places(DATA)), JSON, st.booleans()), min_size=1, max_size=3))
def test_no_change_to_a_manifest_raises_anything_but_a_bundle_error(
    victim: Path, changes: list[tuple[Any, Any, bool]]
) -> None:
    data = copy.deepcopy(DATA)
    for path, value, delete in changes:
        inner = data
        try:
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
            if delete:
                del inner[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    (victim / MANIFEST).write_text(json.dumps(data))
    try:
        bundle = Bundle.open(victim)
        paths = [bundle.engine_path(name) for name in bundle.manifest.engines]
    except BundleError:
        return
    assert all(path.parent == victim for path in paths)
    assert Manifest.from_json(bundle.manifest.to_json()) == bundle.manifest


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_bundle_error(content: bytes) -> None:
    with pytest.raises(BundleError):
        parse_manifest(content)


def test_a_manifest_that_could_not_be_read_is_not_written(folder: Path) -> None:
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(BundleDamagedError, match="height is 65"):
        write_manifest(folder, dataclasses.replace(make_manifest(), shape=VideoShape(65, 64, 8)))
    assert (folder / MANIFEST).read_bytes() == before


def test_a_manifest_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"manifest.json cannot be written"):
        write_manifest(tmp_path / "nowhere", make_manifest())
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(OutputError, match=r"manifest.json cannot be written"):
        write_manifest(tmp_path, make_manifest())
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]
