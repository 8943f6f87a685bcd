"""Builds for TensorRT: which plans are compiled, which are reused, and bundles that keep only plans.

Plans are text files, and graphs are real. `test_tensorrt.py` compiles real plans.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from export.build.__main__ import main
from export.build.builder import build
from export.build.options import BuildOptions
from export.checkpoint.layout import DETECTOR
from export.errors import ExportError
from tests.doubles.fake_builder import FakeBuilder
from tests.support.builds import Log, change, flip
from tests.support.compiled import add_plans, compilation, installed_builder
from tests.support.folders import content
from tests.support.micro import MICRO_SHAPE
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.registry import choose
from vexpress_rt.backends.tensorrt.options import EngineOptions, audio_range
from vexpress_rt.backends.tensorrt.plan_store import find_plans
from vexpress_rt.bundle.bundle import Bundle, sha256_file
from vexpress_rt.bundle.compilation import COMPILATIONS_LIMIT
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR
from vexpress_rt.bundle.manifest import Manifest, read_manifest
from vexpress_rt.errors import BackendError

ENGINES = ("audio_projection", "pose_guider", FACE_DETECTOR)
COMPILED = list(ENGINES[:2])
WEIGHTS = {"pose_guider": "v-express/v_kps_guider.bin", "audio_projection": "v-express/audio_projection.bin"}


def options(**changes: Any) -> BuildOptions:
    return BuildOptions(MICRO_SHAPE, **({"target": "tensorrt", "engines": ENGINES} | changes))


@pytest.fixture(autouse=True)
def builder(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBuilder]:
    """What compiles on this machine, which has a GPU."""
    yield from installed_builder(monkeypatch)


@pytest.fixture
def bundle(micro_checkpoint: Path, builder: FakeBuilder, tmp_path: Path) -> Path:
    """A bundle with graphs and plans."""
    build(micro_checkpoint, tmp_path / "bundle", options())
    builder.built.clear()
    builder.options.clear()
    return tmp_path / "bundle"


@pytest.fixture
def alone(micro_checkpoint: Path, builder: FakeBuilder, tmp_path: Path) -> Path:
    """A bundle that was built with --no-onnx."""
    build(micro_checkpoint, tmp_path / "alone", options(onnx=False))
    builder.built.clear()
    return tmp_path / "alone"


def go_to(monkeypatch: pytest.MonkeyPatch, gpu: str) -> None:
    """Change to another machine."""
    monkeypatch.setattr(runtime, "name_and_capability", lambda: (gpu, (8, 9)))


def gpus(folder: Path) -> dict[str, list[str]]:
    """Return the engines with plans by GPU, and assert that the bundle's files are those of the manifest."""
    manifest = read_manifest(folder)
    assert set(content(folder)) == {"manifest.json", *manifest.files.keys() - manifest.absent}
    return {one.gpu: list(one.plans) for one in manifest.compiled}


# Plans of several machines


def test_the_manifest_says_of_which_weights_options_and_machine_everything_is(
    micro_checkpoint: Path, bundle: Path
) -> None:
    manifest = read_manifest(bundle)
    (made,) = manifest.compiled
    assert (made.library, made.version, made.gpu, made.capability) == ("tensorrt", "11.4.0", "Fake GPU", "9.0")
    assert EngineOptions.from_text(made.options) == EngineOptions(ranges={"N": audio_range(manifest.model)})
    assert made.plans == {name: f"{name}.{made.key}.plan" for name in COMPILED}
    hashes = {name: entry.weights_sha256 for name, entry in manifest.engines.items()}
    assert len(set(hashes.values())) == len(ENGINES)
    assert hashes[FACE_DETECTOR] == sha256_file(micro_checkpoint / DETECTOR)


def test_other_weights_have_another_hash_and_the_same_ones_the_same(
    micro_checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    def hashes(manifest: Manifest) -> dict[str, str]:
        return {name: entry.weights_sha256 for name, entry in manifest.engines.items()}

    before, weights = read_manifest(bundle), Path(shutil.copytree(micro_checkpoint, tmp_path / "weights"))
    assert hashes(build(weights, tmp_path / "same", options(precision="fp16"))) == hashes(before)
    change(weights / WEIGHTS["pose_guider"])
    after = hashes(build(weights, tmp_path / "other", options()))
    assert {name for name, digest in hashes(before).items() if after[name] != digest} == {"pose_guider"}


def test_another_machine_compiles_the_same_graphs_and_keeps_the_plans_of_the_first(
    micro_checkpoint: Path, bundle: Path, builder: FakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = {name: path.stat().st_ino for name in COMPILED if (path := bundle / f"{name}.onnx")}
    go_to(monkeypatch, "GPU 2")
    build(micro_checkpoint, bundle, options(), log := Log())
    assert (builder.built, log.made, log.kept) == (COMPILED, [], [FACE_DETECTOR])
    assert log[0] == "[1/3] audio_projection: its graph is unchanged, compiling"
    assert gpus(bundle) == {"Fake GPU": COMPILED, "GPU 2": COMPILED}
    assert {name: (bundle / f"{name}.onnx").stat().st_ino for name in COMPILED} == graphs


@pytest.mark.parametrize("gpu", ["Fake GPU", "GPU 2"])
def test_each_machine_then_finds_everything_up_to_date(
    micro_checkpoint: Path, bundle: Path, builder: FakeBuilder, monkeypatch: pytest.MonkeyPatch, gpu: str
) -> None:
    go_to(monkeypatch, "GPU 2")
    find_plans(Bundle.open(bundle))
    builder.built.clear()
    before = content(bundle)
    if gpu == "Fake GPU":
        monkeypatch.setattr(runtime, "name_and_capability", lambda: ("Fake GPU", (9, 0)))
    build(micro_checkpoint, bundle, options(), log := Log())
    assert log == [f"{bundle} is up to date: all 3 engines are unchanged"]
    assert (builder.built, content(bundle)) == ([], before)


def test_other_weights_take_away_the_plans_that_were_made_of_the_old_ones(
    micro_checkpoint: Path, bundle: Path, builder: FakeBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = Path(shutil.copytree(micro_checkpoint, tmp_path / "weights"))
    change(weights / WEIGHTS["pose_guider"])
    go_to(monkeypatch, "GPU 2")
    build(weights, bundle, options(), log := Log())
    assert (log.made, builder.built) == (["pose_guider"], ["audio_projection", "pose_guider"])
    assert gpus(bundle) == {"Fake GPU": ["audio_projection"], "GPU 2": COMPILED}


def test_other_options_are_for_all_machines_but_leave_the_graphs(
    micro_checkpoint: Path, bundle: Path, builder: FakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_to(monkeypatch, "GPU 2")
    build(micro_checkpoint, bundle, options(tensorrt=EngineOptions(optimization_level=5)), log := Log())
    assert (log.made, builder.built) == ([], COMPILED)
    assert {made.optimization_level for made in builder.options} == {5}
    assert gpus(bundle) == {"GPU 2": COMPILED}


def test_the_oldest_of_as_many_machines_as_a_bundle_may_have_makes_room(
    micro_checkpoint: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = read_manifest(bundle).compiled[0].options
    for number in range(1, COMPILATIONS_LIMIT):
        add_plans(bundle, gpu=f"GPU {number}", options=made)
    go_to(monkeypatch, "GPU 16")
    build(micro_checkpoint, bundle, options())
    assert list(gpus(bundle)) == [f"GPU {number}" for number in range(1, COMPILATIONS_LIMIT + 1)]


def test_a_damaged_plan_is_compiled_anew_and_nothing_else(
    micro_checkpoint: Path, bundle: Path, builder: FakeBuilder
) -> None:
    flip(bundle / compilation(options=read_manifest(bundle).compiled[0].options).plan_name("pose_guider"))
    build(micro_checkpoint, bundle, options(), log := Log())
    assert (log.made, log.kept, builder.built) == ([], ["audio_projection", FACE_DETECTOR], ["pose_guider"])


def test_what_a_process_left_that_was_killed_while_it_compiled_does_not_count_as_somebodys(
    micro_checkpoint: Path, bundle: Path
) -> None:
    (bundle / ".compiling-0a1b2c3d").mkdir()
    (bundle / ".compiling-0a1b2c3d" / "pose_guider.01234567.plan").touch()
    (bundle / ".compiling.lock").touch()
    (bundle / "pose_guider.01234567.plan").touch()
    build(micro_checkpoint, bundle, options(precision="fp16"))
    gpus(bundle)


# Timings


def test_timings_are_kept_beside_the_bundle_unless_a_file_is_named(
    micro_checkpoint: Path, bundle: Path, builder: FakeBuilder, tmp_path: Path
) -> None:
    for given in (None, tmp_path / "mine.cache"):
        tensorrt = EngineOptions(optimization_level=0 if given else 1, timing_cache=given)
        build(micro_checkpoint, bundle, options(tensorrt=tensorrt))
    beside = tmp_path / ".timing-tensorrt-11.4.0-Fake-GPU.cache"
    assert [made.timing_cache for made in builder.options] == [beside] * 2 + [tmp_path / "mine.cache"] * 2


def test_the_file_of_timings_makes_no_other_plans(micro_checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    tensorrt = EngineOptions(timing_cache=tmp_path / "mine.cache")
    build(micro_checkpoint, bundle, options(tensorrt=tensorrt), log := Log())
    assert "is up to date" in log[0]


# Plans alone


def test_without_graphs_a_bundle_keeps_their_hashes_and_the_detectors_graph(
    micro_checkpoint: Path, bundle: Path, alone: Path
) -> None:
    names = {"manifest.json", "face_detector.onnx", *read_manifest(alone).compiled[0].plans.values()}
    assert set(content(alone)) == names
    files = read_manifest(alone).files
    graphs = {name: entry for name, entry in read_manifest(bundle).files.items() if name.endswith(".onnx")}
    assert graphs.items() <= files.items()
    opened = Bundle.open(alone)
    assert opened.identity == Bundle.open(bundle).identity
    assert choose("auto", opened).name == "tensorrt"


def test_without_graphs_a_second_build_finds_everything_up_to_date(
    micro_checkpoint: Path, alone: Path, builder: FakeBuilder
) -> None:
    before = content(alone)
    build(micro_checkpoint, alone, options(onnx=False), log := Log())
    assert log == [f"{alone} is up to date: all 3 engines are unchanged"]
    assert (builder.built, content(alone)) == ([], before)


def test_graphs_can_be_left_out_later_and_nothing_is_made_for_it(
    micro_checkpoint: Path, bundle: Path, builder: FakeBuilder
) -> None:
    build(micro_checkpoint, bundle, options(onnx=False), log := Log())
    assert (log.made, builder.built) == ([], [])
    assert not (bundle / "pose_guider.onnx").exists()
    assert gpus(bundle) == {"Fake GPU": COMPILED}


def test_graphs_that_are_wanted_again_are_exported_again(
    micro_checkpoint: Path, alone: Path, builder: FakeBuilder
) -> None:
    build(micro_checkpoint, alone, options(), log := Log())
    assert log.made == COMPILED
    assert Bundle.open(alone).engine_path("pose_guider").is_file()


def test_without_graphs_another_machine_has_to_export_them_again(
    micro_checkpoint: Path, alone: Path, builder: FakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_to(monkeypatch, "GPU 2")
    with pytest.raises(BackendError, match=r"keeps no graphs .*`python -m export\.build --weights .* --no-onnx`"):
        find_plans(Bundle.open(alone))
    build(micro_checkpoint, alone, options(onnx=False), log := Log())
    assert (log.made, builder.built) == (COMPILED, COMPILED)
    assert gpus(alone) == {"GPU 2": COMPILED}


@pytest.mark.parametrize("engine", COMPILED)
def test_without_graphs_a_damaged_plan_makes_the_engine_anew(
    micro_checkpoint: Path, alone: Path, builder: FakeBuilder, engine: str
) -> None:
    flip(alone / read_manifest(alone).compiled[0].plans[engine])
    build(micro_checkpoint, alone, options(onnx=False), log := Log())
    assert (log.made, builder.built) == ([engine], [engine])


def test_without_graphs_one_engine_alone_is_refused_where_the_others_lack_plans(
    micro_checkpoint: Path, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_to(monkeypatch, "GPU 2")
    with pytest.raises(ExportError, match=r"^audio_projection of the existing bundle .*: build all engines"):
        build(micro_checkpoint, alone, options(onnx=False, engines=("pose_guider",)))


@pytest.mark.parametrize("onnx", [True, False])
def test_ctrl_c_while_it_compiles_leaves_the_old_bundle(
    micro_checkpoint: Path, bundle: Path, builder: FakeBuilder, onnx: bool
) -> None:
    def interrupt(name: str) -> None:
        if name == "pose_guider":
            raise KeyboardInterrupt

    builder.work = interrupt
    before = content(bundle.parent)
    with pytest.raises(KeyboardInterrupt):
        build(micro_checkpoint, bundle, options(precision="fp16", onnx=onnx))
    assert content(bundle.parent) == before


def test_the_command_line_leaves_graphs_out(
    micro_checkpoint: Path, tmp_path: Path, builder: FakeBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--height", "16", "--width", "24", "--frames", "3", "--engine", "pose_guider"]
    command = ["--weights", str(micro_checkpoint), "--output", str(tmp_path / "out"), *sizes, "--no-onnx"]
    assert main([*command, "--hardware-compatible"]) == 0
    assert capsys.readouterr().out.startswith("target tensorrt: TensorRT 11.4.0 and Fake GPU (9.0) found\n")
    (made,) = read_manifest(tmp_path / "out").compiled
    assert (made.gpu, set(content(tmp_path / "out"))) == ("portable", {"manifest.json", *made.plans.values()})
