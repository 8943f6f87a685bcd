"""Manifests: written manifests can be read, and changed ones are refused."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.bundles import edit, make_compiled, make_folder, make_manifest
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import VideoShape
from vexpress_rt.bundle.manifest import (
    MANIFEST,
    MANIFEST_LIMIT,
    Manifest,
    parse_manifest,
    read_manifest,
    write_manifest,
)
from vexpress_rt.config import GenerationConfig, Settings
from vexpress_rt.errors import (
    BundleDamagedError,
    BundleError,
    BundleVersionError,
    OutputError,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole bundle."""
    return make_folder(tmp_path / "bundle")


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle for tests that overwrite its manifest before each use."""
    return make_folder(tmp_path_factory.mktemp("victim") / "bundle", make_compiled())


def test_a_newer_schema_asks_for_an_upgrade_or_a_new_build(folder: Path) -> None:
    edit(folder, lambda data: data.update(schema=3, unheard_of=1))
    with pytest.raises(BundleVersionError, match=r"newer than this version's 2; upgrade .*python -m export.build"):
        Bundle.open(folder)


def test_an_older_schema_asks_for_a_new_build(folder: Path) -> None:
    edit(folder, lambda data: data.update(schema=1))
    with pytest.raises(BundleVersionError, match=r"schema is 1, older than .*python -m export.build"):
        Bundle.open(folder)


def test_the_target_decides_whether_the_denoiser_takes_sines(tmp_path: Path) -> None:
    specs = make_manifest(target="openvino").specs()
    engines = make_manifest().engines
    assert "timestep_sines" in {tensor.name for tensor in specs["denoiser"].inputs}
    with pytest.raises(BundleDamagedError, match=r"denoiser lacks the input timestep_sines: .* unknown input timestep"):
        Bundle.open(make_folder(tmp_path / "timestep", make_manifest(target="openvino")))
    fitting = dataclasses.replace(engines["denoiser"], inputs=specs["denoiser"].inputs)
    manifest = make_manifest(target="openvino", engines={**engines, "denoiser": fitting})
    assert Bundle.open(make_folder(tmp_path / "sines", manifest)).manifest == manifest
    with pytest.raises(BundleDamagedError, match="denoiser lacks the input timestep: "):
        Bundle.open(make_folder(tmp_path / "onnxruntime", dataclasses.replace(manifest, target="onnxruntime")))


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
        (lambda d: put(d, "torch", "target"), "target is 'torch'; expected one of onnxruntime, openvino, tensorrt"),
        (lambda d: put(d, "int8", "precision"), "precision is 'int8'; expected one of fp32, fp16"),
        (lambda d: put(d, 2, "versions", "torch"), "versions is .*; expected texts"),
        (lambda d: put(d, "small", "parity", "denoiser"), "parity.'denoiser' is 'small'; expected finite"),
        (lambda d: put(d, 0, "model", "attention_heads"), "attention_heads = 0; expected 1 to"),
        (lambda d: put(d, "x", "model", "vae_factor"), "has vae_factor = 'x'"),
        (lambda d: put(d, 10**400, "parity", "denoiser"), "number .*; expected at most 19 digits"),
        (lambda d: put(d, -1, "files", "denoiser.onnx", "bytes"), "expected a size of at least 0"),
        (lambda d: put(d, 1 << 40, "files", "denoiser.onnx", "bytes"), "at least 0 and at most 17179869184"),
        (lambda d: put(d, "A" * 64, "files", "denoiser.onnx", "sha256"), "64 hexadecimal digits"),
        (
            lambda d: put(d, "A" * 64, "engines", "denoiser", "weights_sha256"),
            "denoiser.weights_sha256 is 'A.*64 hexade",
        ),
        (lambda d: drop(d, "engines", "denoiser", "weights_sha256"), "lacks or does not know .'weights_sha256'"),
        (lambda d: put(d, 1, "onnx"), "has onnx = 1; expected bool"),
        (lambda d: put(d, [], "recommended"), r"has recommended = \[\]; expected dict"),
        (lambda d: put(d, {"seed": 1}, "recommended"), "'seed' is recommended to be 1; expected a number, true or"),
        (lambda d: put(d, {"steps": "10"}, "recommended"), "'steps' is recommended to be '10'; expected a number"),
        (lambda d: put(d, {"steps": 10**9}, "recommended"), "steps is 1000000000; expected .* at most 1000"),
        (lambda d: put(d, {"overlap": 8}, "recommended"), "overlap is 8; expected less than the bundle's window of 8"),
        (lambda d: put(d, [], "recommended_live"), r"has recommended_live = \[\]; expected dict"),
        (lambda d: put(d, {"seed": 1}, "recommended_live"), "malformed: recommended_live: 'seed' is recommended to be"),
        (lambda d: put(d, {"overlap": 8}, "recommended_live"), "recommended_live: overlap is 8; expected less than"),
        (
            lambda d: put(d, False, "onnx"),
            r"\['denoiser', 'vae_encoder'\] have neither a graph in the bundle nor a plan",
        ),
        (lambda d: put(d, "bf16", "precision"), "precision is bf16 with the target onnxruntime"),
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


DATA = make_compiled().to_json()


def places(data: Any) -> list[tuple[Any, ...]]:
    """Return paths to every value inside JSON data."""
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
        paths += [bundle.plan_path(name, one) for one in bundle.manifest.compiled for name in one.plans]
    except BundleError:
        return
    assert all(path.parent == victim for path in paths)
    assert Manifest.from_json(bundle.manifest.to_json()) == bundle.manifest


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_bundle_error(content: bytes) -> None:
    with pytest.raises(BundleError):
        parse_manifest(content)


def test_a_recommendation_under_its_former_name_is_read_and_written_under_the_new_one(folder: Path) -> None:
    sections = {"recommended": {"unconditional_every": 2}, "recommended_live": {"unconditional_every": 3}}
    edit(folder, lambda data: data.update(sections))
    manifest = read_manifest(folder)
    assert manifest.settings(GenerationConfig()).uncond_interval == 2
    assert manifest.settings(GenerationConfig(), live=True).uncond_interval == 3
    assert manifest.to_json()["recommended"] == {"uncond_interval": 2}
    assert manifest.to_json()["recommended_live"] == {"uncond_interval": 3}


def test_what_suits_live_sessions_goes_before_the_other_recommendations_and_after_a_choice_or_a_preset() -> None:
    recommended = {"steps": 10, "guidance_scale": 2.5, "fps": 25, "overlap": 2}
    live = {"steps": 4, "guidance_scale": 1.0, "sampler": "dpm++2m", "overlap": 6}
    manifest = make_manifest(recommended=recommended, recommended_live=live)
    assert manifest.settings(GenerationConfig()) == Settings(**recommended)  # type: ignore[arg-type]
    found = manifest.settings(GenerationConfig(preset="fast", overlap=3), live=True)
    assert found == Settings(steps=6, sampler="unipc", guidance_scale=1.0, fps=25, overlap=3)
    plain = make_manifest(recommended=recommended)
    assert plain.settings(GenerationConfig(), live=True) == plain.settings(GenerationConfig())


def test_an_older_manifest_recommends_nothing_for_live_sessions(folder: Path) -> None:
    edit(folder, lambda data: data.pop("recommended_live"))
    assert read_manifest(folder).recommended_live == {}


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
