"""Plans that fit the machine are used; others are compiled anew, once, or the message names the command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.doubles.fake_builder import FakeBuilder
from tests.doubles.fakes import write_bundle
from tests.support.compiled import ELSEWHERE, OTHERS, PORTABLE, add_plans, compilation, installed_builder
from vexpress_rt.backends.tensorrt.options import EngineOptions, Range
from vexpress_rt.backends.tensorrt.plan_store import find_plans
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import ENGINE_NAMES
from vexpress_rt.bundle.manifest import read_manifest
from vexpress_rt.errors import BundleDamagedError, ConfigError, PlansMissingError


@pytest.fixture(autouse=True)
def builder(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBuilder]:
    """The stand-in that compiles on this machine, which has a GPU."""
    yield from installed_builder(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle without plans as yet."""
    return write_bundle(tmp_path / "bundle")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Plans that fit


@pytest.mark.parametrize("made", [{}, PORTABLE], ids=["this GPU", "portable"])
def test_plans_that_fit_are_used_as_they_are(folder: Path, builder: FakeBuilder, made: dict[str, str]) -> None:
    add_plans(folder, **made)
    before = names(folder)
    plans = find_plans(Bundle.open(folder), "never")
    assert plans.path("denoiser") == folder / plans.compilation.plans["denoiser"]
    assert (builder.built, names(folder)) == ([], before)


def test_of_several_that_fit_the_newest_is_used(folder: Path) -> None:
    options = EngineOptions(optimization_level=5).to_text()
    for made in ({}, {"options": options}, ELSEWHERE):
        add_plans(folder, **made)
    assert find_plans(Bundle.open(folder), "never").compilation.options == options


def test_of_several_that_fit_one_whose_plans_are_all_there_is_used(folder: Path) -> None:
    add_plans(add_plans(folder), **PORTABLE)
    portable, plans = compilation(**PORTABLE), find_plans(Bundle.open(folder), "never")
    assert plans.compilation.key == portable.key
    (folder / portable.plan_name("vae_decoder")).unlink()
    assert find_plans(Bundle.open(folder), "never").compilation.key == compilation().key


# Plans that do not


@pytest.mark.parametrize("made", OTHERS.values(), ids=OTHERS)
def test_plans_that_do_not_fit_get_others_beside_them(
    folder: Path, builder: FakeBuilder, made: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    add_plans(folder, **made)
    before, identity = names(folder), Bundle.open(folder).identity
    plans = find_plans(Bundle.open(folder))
    assert builder.built == list(ENGINE_NAMES)
    assert plans.path("denoiser").read_text() == "new plan of denoiser by 11.4.0"
    assert names(folder) == before | {compilation().plan_name(name) for name in ENGINE_NAMES}
    old, new = read_manifest(folder).compiled
    assert (old.key, new.key) == (compilation(**made).key, compilation().key)
    assert Bundle.open(folder).identity == identity
    (message,) = (record.getMessage() for record in caplog.records)
    assert message == (
        f"{folder} is compiled for {old.describe()}; this is Fake GPU (9.0), TensorRT 11.4.0: "
        "compiling 8 engines, once; this takes minutes"
    )


def test_it_is_done_once(folder: Path, builder: FakeBuilder) -> None:
    add_plans(folder, **ELSEWHERE)
    for _ in range(2):
        find_plans(Bundle.open(folder))
    assert len(builder.built) == len(ENGINE_NAMES)


def test_machines_that_share_a_folder_do_not_compile_by_turns(
    folder: Path, builder: FakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_plans(folder, **ELSEWHERE)
    for capability in (9, 12, 9, 12):
        monkeypatch.setattr(
            "vexpress_rt.backends.cuda.runtime.name_and_capability", lambda c=capability: (f"GPU {c}", (c, 0))
        )
        find_plans(Bundle.open(folder))
    assert len(builder.built) == 2 * len(ENGINE_NAMES)
    assert [one.capability for one in read_manifest(folder).compiled] == ["8.0", "9.0", "12.0"]


def test_a_bundle_without_plans_gets_some(folder: Path, builder: FakeBuilder) -> None:
    add_plans(folder, lacking=tuple(read_manifest(folder).engines), **ELSEWHERE)
    find_plans(Bundle.open(folder))
    assert builder.built == list(ENGINE_NAMES)


def test_options_are_those_of_the_newest_plans(folder: Path, builder: FakeBuilder) -> None:
    options = EngineOptions(optimization_level=1, workspace_bytes=1 << 30, tf32=True, ranges={"N": Range(7, 8, 9)})
    add_plans(folder, **OTHERS["another version"])
    add_plans(folder, **ELSEWHERE, options=options.to_text())
    plans = find_plans(Bundle.open(folder))
    assert {made.to_text() for made in builder.options} == {plans.compilation.options} == {options.to_text()}


def test_plans_for_all_gpus_stay_such(folder: Path, builder: FakeBuilder) -> None:
    options = EngineOptions(hardware_compatible=True).to_text()
    add_plans(folder, version="10.14.1", options=options, **PORTABLE)
    assert find_plans(Bundle.open(folder)).compilation.gpu == "portable"


def test_on_a_gpu_that_has_no_portable_plans_they_are_for_it_alone(
    folder: Path, builder: FakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_plans(folder, options=EngineOptions(hardware_compatible=True).to_text(), **PORTABLE)
    monkeypatch.setattr("vexpress_rt.backends.cuda.runtime.name_and_capability", lambda: ("Tesla T4", (7, 5)))
    for _ in range(2):
        made = find_plans(Bundle.open(folder)).compilation
        assert (made.gpu, made.capability) == ("Tesla T4", "7.5")
    assert [options.hardware_compatible for options in builder.options] == [False] * len(ENGINE_NAMES)


def test_recorded_options_that_are_none_are_refused(folder: Path, builder: FakeBuilder) -> None:
    add_plans(folder, version="10.14.1", options='{"optimization_level": "all"}')
    with pytest.raises(ConfigError, match=r"are no options of TensorRT's builder: expected the options hardware_c"):
        find_plans(Bundle.open(folder))


def test_timings_are_kept_beside_the_bundle_for_each_gpu_and_version(folder: Path, builder: FakeBuilder) -> None:
    add_plans(folder, **ELSEWHERE)
    find_plans(Bundle.open(folder))
    assert {made.timing_cache for made in builder.options} == {folder.parent / ".timing-tensorrt-11.4.0-Fake-GPU.cache"}


def test_progress_grows_by_what_graphs_weigh(folder: Path, builder: FakeBuilder) -> None:
    add_plans(folder, **ELSEWHERE)
    told: list[tuple[str, int, int]] = []
    find_plans(Bundle.open(folder), progress=lambda *what: told.append(what))
    assert {(stage, total) for stage, _, total in told} == {("compile", 100)}
    done = [done for _, done, _ in told]
    assert (done, done[-1]) == (sorted(done), 100)
    assert len(set(done)) == 2 * len(ENGINE_NAMES)


# Plans that are damaged


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"cut")], ids=["missing", "cut short"])
def test_plans_that_are_missing_or_cut_short_are_compiled_anew_alone(
    folder: Path, builder: FakeBuilder, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    add_plans(folder)
    whole, broken = (folder / compilation().plan_name(name) for name in ("denoiser", "vae_decoder"))
    before = whole.stat()
    damage(broken)
    plans = find_plans(Bundle.open(folder))
    assert builder.built == ["vae_decoder"]
    assert plans.path("vae_decoder").read_text().startswith("new plan")
    assert whole.stat() == before
    assert "the plans of vae_decoder in" in caplog.text


def test_a_damaged_plan_is_found_when_it_is_needed_and_compiled_anew(folder: Path, builder: FakeBuilder) -> None:
    add_plans(folder)
    broken = folder / compilation().plan_name("vae_decoder")
    broken.write_text(broken.read_text().replace("plan", "plaN"))
    plans = find_plans(Bundle.open(folder))
    plans.path("denoiser")
    assert builder.built == []
    assert plans.path("vae_decoder").read_text().startswith("new plan")
    assert plans.path("vae_encoder").read_text().startswith("plan")
    assert builder.built == ["vae_decoder"]


def test_a_damaged_plan_may_be_left_for_another_that_fits(folder: Path, builder: FakeBuilder) -> None:
    add_plans(add_plans(folder), **PORTABLE)
    broken = folder / compilation(**PORTABLE).plan_name("denoiser")
    broken.write_text(broken.read_text()[::-1])
    plans = find_plans(Bundle.open(folder))
    assert plans.path("denoiser") == folder / compilation().plan_name("denoiser")
    assert builder.built == []


def test_a_damaged_plan_is_an_error_where_nothing_may_be_compiled(folder: Path, builder: FakeBuilder) -> None:
    add_plans(folder)
    broken = folder / compilation().plan_name("vae_decoder")
    broken.write_text(broken.read_text()[::-1])
    plans = find_plans(Bundle.open(folder), "never")
    with pytest.raises(
        PlansMissingError, match=r"plans of vae_decoder .* damaged, and rebuild='never' .*vexpress-rt comp"
    ):
        plans.path("vae_decoder")
    assert builder.built == []


def test_a_damaged_graph_is_not_compiled(folder: Path, builder: FakeBuilder) -> None:
    add_plans(folder, **ELSEWHERE)
    (folder / "denoiser.onnx").write_text((folder / "denoiser.onnx").read_text()[::-1])
    before = names(folder)
    with pytest.raises(BundleDamagedError, match=r"denoiser\.onnx has the sha256"):
        find_plans(Bundle.open(folder))
    assert names(folder) == before
