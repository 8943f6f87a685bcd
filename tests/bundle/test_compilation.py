"""Compilations: the record of a plan's compiler and machine, and manifests refused for wrong records."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import DENOISER_PLAN, ENCODER_PLAN, PLANS, edit, make_compiled, make_folder
from tests.support.compiled import HERE, PORTABLE, compilation
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.compilation import COMPILATIONS_LIMIT, Compilation, Machine
from vexpress_rt.bundle.manifest import Manifest
from vexpress_rt.errors import BundleDamagedError

HOST = Machine(**HERE)


@pytest.mark.parametrize(
    ("made", "fits"),
    [
        ({}, True),
        (PORTABLE, True),
        ({"options": "{}"}, True),
        ({"version": "11.4.1"}, False),
        ({"version": "11.4.1", **PORTABLE}, False),
        ({"gpu": "Fake GPU Ti"}, False),
        ({"capability": "9.1"}, False),
    ],
)
def test_plans_fit_their_version_and_their_gpu_or_several(made: dict[str, str], fits: bool) -> None:
    assert compilation(**made).fits(HOST) == fits


@pytest.mark.parametrize(
    ("library", "capability", "fits"),
    [
        ("tensorrt", "7.5", False),
        ("tensorrt", "8.0", True),
        ("tensorrt", "10.0", True),
        ("tensorrt-rtx", "7.5", True),
    ],
)
def test_portable_plans_of_tensorrt_run_from_ampere_on(library: str, capability: str, fits: bool) -> None:
    host = dataclasses.replace(HOST, capability=capability)
    assert compilation(library=library, **PORTABLE).fits(host) == fits


@pytest.mark.parametrize(
    "change",
    [{"version": "1"}, {"gpu": "other"}, {"capability": "1.0"}, {"options": "{}"}, {"library": "tensorrt-rtx"}],
)
def test_the_key_follows_everything_but_the_plans(change: dict[str, str]) -> None:
    key = compilation().key
    assert re.fullmatch("[0-9a-f]{8}", key)
    assert compilation(plans={"denoiser": "x.plan"}).key == key
    assert compilation(**change).key != key
    assert compilation().plan_name("denoiser") == f"denoiser.{key}.plan"


def test_for_people_it_is_gpu_and_version() -> None:
    assert compilation().describe() == "Fake GPU (9.0), TensorRT 11.4.0"
    words = compilation(library="tensorrt-rtx", version="1.7.1", **PORTABLE).describe()
    assert words == "RTX GPUs, TensorRT for RTX 1.7.1"
    assert compilation(**PORTABLE).describe() == "GPUs from Ampere (8.0) on, TensorRT 11.4.0"


def test_it_reads_back_as_it_was_written_with_the_hash_of_its_options() -> None:
    made = compilation(plans={"denoiser": compilation().plan_name("denoiser")})
    data = json.loads(json.dumps(made.to_json()))
    assert data["options_sha256"] == made.options_sha256
    assert Compilation.from_json(data) == made


def test_a_manifest_with_compilations_reads_back_as_it_was_written() -> None:
    manifest = make_compiled()
    assert Manifest.from_json(manifest.to_json()) == manifest
    alone = dataclasses.replace(manifest, onnx=False)
    assert Manifest.from_json(alone.to_json()) == alone


def test_a_manifest_may_lack_what_says_that_there_are_no_plans() -> None:
    data = make_compiled(compiled=()).to_json()
    del data["compiled"], data["onnx"]
    assert Manifest.from_json(data) == make_compiled(compiled=())


def test_files_without_graphs_are_those_of_all_engines_but_the_detector() -> None:
    manifest = make_compiled(onnx=False)
    assert manifest.absent == {"vae_encoder.onnx", "denoiser.onnx", "denoiser.weights"}
    assert manifest.graphs == manifest.absent | {"det_10g.onnx"}
    assert make_compiled().absent == set()


def again(data: dict[str, Any], **changes: Any) -> None:
    """Add a compilation that equals the last one except for `changes`."""
    data["compiled"].append(copy.deepcopy(data["compiled"][-1]) | changes)


def many(data: dict[str, Any]) -> None:
    for number in range(COMPILATIONS_LIMIT - 1):
        again(data, gpu=f"GPU {number}", plans={})


def plan(data: dict[str, Any], engine: str) -> str:
    """Return the file name of a compilation's plan."""
    return Compilation.from_json(data).plan_name(engine)


def rename_graph(data: dict[str, Any], name: str) -> None:
    entry = data["engines"]["denoiser"]
    data["files"][name] = data["files"].pop(entry["file"])
    entry["file"] = name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d, c: c["plans"].update(denoiser="../../etc/passwd"),
            "compiled.1. has the plan '../../etc/passwd'; e",
        ),
        (
            lambda d, c: c["plans"].update(denoiser="denoiser.onnx"),
            "the plan 'denoiser.onnx'; expected 'denoiser",
        ),
        (lambda d, c: c["plans"].update(denoiser=["x"]), r"compiled.1. has the plan \['x'\]; expected 'denoiser"),
        (
            lambda d, c: c["plans"].update(denoiser=ENCODER_PLAN),
            "compiled.1. has the plan 'vae_encoder.*; expected 'd",
        ),
        (lambda d, c: c["plans"].update(denoiser=compilation().plan_name("denoiser")), "has the plan 'denoiser.*; exp"),
        (lambda d, c: d["files"].pop(DENOISER_PLAN), r"has the plans .'denoiser\..*'., which the list of files lacks"),
        (lambda d, c: rename_graph(d, compilation().plan_name("denoiser")), "the graphs .'denoiser.*; expected names"),
        (lambda d, c: c.update(plans={"teleporter": plan(c, "teleporter")}), "plans of .'teleporter'., which"),
        (lambda d, c: again(d), "compilations whose keys are not distinct"),
        (lambda d, c: again(d, gpu="NVIDIA L4"), "compiled.2. has the plan 'vae_encoder.*; expected 'vae_encoder"),
        (
            lambda d, c: c.update(library="tensorrt-rtx", plans={}),
            "compiled.1. is by tensorrt-rtx, and the target is tensorrt",
        ),
        (lambda d, c: c.update(library="onnxruntime"), "library = 'onnxruntime'; expected tensorrt or tensorrt-rtx"),
        (lambda d, c: d.update(target="onnxruntime"), "compiled.0. is by tensorrt, and the target is onnxruntime"),
        (
            lambda d, c: c.update(options='{"optimization_level": 5}'),
            "compiled.1. has options of the sha256 [0-9a-f]{64};",
        ),
        (lambda d, c: c.update(options_sha256="0" * 64), "options of the sha256 .*; expected '0000"),
        (lambda d, c: c.update(version=11), "compiled.1. has version = 11; expected str"),
        (lambda d, c: c.update(gpu="G" * 5000), "compiled.1. has a gpu of 5000 characters; expected at most 4096"),
        (lambda d, c: c.pop("capability"), "compiled.1. lacks or does not know .'capability'"),
        (lambda d, c: c.update(colour="red"), "compiled.1. lacks or does not know .'colour'"),
        (lambda d, c: d["compiled"].append(None), "compiled.2. is None; expected an object"),
        (lambda d, c: d.update(compiled={}), "has compiled = {}; expected list"),
        (lambda d, c: many(d), "it has 17 compilations; expected at most 16"),
    ],
)
def test_a_manifest_with_other_plans_than_it_may_have_is_refused_by_what_is_wrong(
    tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object], message: str
) -> None:
    folder = make_folder(tmp_path / "bundle", make_compiled())
    edit(folder, lambda data: change(data, data["compiled"][-1]))
    with pytest.raises(BundleDamagedError, match=message):
        Bundle.open(folder)


@pytest.mark.parametrize("text", ["\ud800", "\x1b[31m", "two\nlines"])
@pytest.mark.parametrize("name", ["version", "gpu", "capability", "options"])
def test_texts_that_do_harm_on_a_terminal_are_refused_and_shown_escaped(name: str, text: str) -> None:
    data = make_compiled().to_json()
    data["compiled"][-1][name] = text
    with pytest.raises(
        BundleDamagedError, match=rf"compiled.1. has {name} = '.*'; expected text that can be p"
    ) as caught:
        Manifest.from_json(data)
    assert str(caught.value).isprintable()


# In a bundle


def test_opening_does_not_look_at_plans(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "bundle", make_compiled())
    for plan in PLANS:
        (folder / plan).unlink()
    assert Bundle.open(folder).engine_path("denoiser").is_file()


def test_a_plan_is_verified_when_it_is_asked_for(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "bundle", make_compiled())
    assert Bundle.open(folder).plan_path("denoiser") == folder / DENOISER_PLAN
    (folder / DENOISER_PLAN).write_bytes(b"another plaN")
    bundle = Bundle.open(folder)
    assert bundle.is_sound(DENOISER_PLAN, thorough=False)
    assert not bundle.is_sound(DENOISER_PLAN, thorough=True)
    with pytest.raises(BundleDamagedError, match=f"{DENOISER_PLAN} has the sha256"):
        bundle.plan_path("denoiser")


def test_the_identity_does_not_depend_on_plans_or_on_whether_graphs_are_kept(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{}, {"compiled": ()}, {"onnx": False}]
    folders = [make_folder(tmp_path / str(i), make_compiled(**change)) for i, change in enumerate(changes)]
    assert len({Bundle.open(folder).identity for folder in folders}) == 1
