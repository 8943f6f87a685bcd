"""Rebuilding plans: after any interruption, the bundle is unchanged or has the new plans."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.fake_builder import FakeBuilder
from tests.doubles.fakes import write_bundle
from tests.support.compiled import ELSEWHERE, add_plans, compilation, installed_builder
from tests.support.folders import content
from vexpress_rt.backends.registry import choose
from vexpress_rt.backends.tensorrt import builder as tensorrt_builder
from vexpress_rt.backends.tensorrt import plan_rebuild
from vexpress_rt.backends.tensorrt.builder import BuildInfo
from vexpress_rt.backends.tensorrt.plan_store import find_plans
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.compilation import COMPILATIONS_LIMIT
from vexpress_rt.bundle.engine_spec import ENGINE_NAMES, EngineSpec, VideoShape
from vexpress_rt.bundle.manifest import read_manifest
from vexpress_rt.errors import BackendError, BundleDamagedError, BundleNotFoundError, ConfigError, OutputError


@pytest.fixture(autouse=True)
def builder(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBuilder]:
    """The stand-in that compiles on this machine, which has a GPU."""
    yield from installed_builder(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle with the plans of another machine."""
    return add_plans(write_bundle(tmp_path / "bundle"), **ELSEWHERE)


WIDE = VideoShape(64, 128, 8)


def replace_by_another(folder: Path, shape: VideoShape = WIDE) -> dict[str, bytes]:
    """Replace the bundle by another one, as a build does; return its content."""
    other = add_plans(write_bundle(folder.with_name("other"), shape=shape), **ELSEWHERE)
    folder.rename(folder.with_name("old"))
    other.rename(folder)
    return content(folder)


@pytest.mark.parametrize("error", [KeyboardInterrupt, BackendError, OSError, MemoryError])
def test_whatever_ends_it_leaves_the_bundle_as_it_was(
    folder: Path, builder: FakeBuilder, error: type[BaseException]
) -> None:
    def work(name: str) -> None:
        if name == "denoiser":
            raise error("enough")

    builder.work = work
    before = content(folder)
    with pytest.raises(OutputError if error is OSError else error, match="enough"):
        find_plans(Bundle.open(folder))
    assert content(folder) == before
    assert not list(folder.glob(".compiling*"))


def test_an_interruption_comes_before_the_failure_that_it_led_to(folder: Path, builder: FakeBuilder) -> None:
    stopping = threading.Event()

    def work(name: str) -> None:
        stopping.set()  # like a handler of Ctrl-C that only sets a flag
        raise BackendError("the build was ended")

    def tell(*what: Any) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt

    builder.work = work
    with pytest.raises(KeyboardInterrupt):
        find_plans(Bundle.open(folder), progress=tell)


@pytest.mark.parametrize("provider", ["auto", "tensorrt"])
@pytest.mark.parametrize("error", [TimeoutError, BrokenPipeError, ConfigError, BackendError, OutputError, RuntimeError])
def test_an_exception_of_progress_ends_it_and_is_raised_as_it_is(
    folder: Path, provider: str, error: type[Exception]
) -> None:
    failure = error("enough")

    def tell(*what: Any) -> None:
        raise failure

    before = content(folder)
    with pytest.raises(error, match="enough") as caught:
        choose(provider, Bundle.open(folder), progress=tell)
    assert caught.value is failure
    assert content(folder) == before


def test_ctrl_c_while_files_are_moved_waits_until_they_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def interrupted(*arguments: Any, **folders: Any) -> None:
        replace(*arguments, **folders)
        if folders:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(plan_rebuild.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find_plans(Bundle.open(folder))
    monkeypatch.undo()
    assert len(read_manifest(folder).compiled) == 2
    assert set(content(folder)) == {"manifest.json", *read_manifest(folder).files}


def test_a_lock_that_cannot_be_taken_is_an_error_with_a_remedy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def no_locks(*arguments: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    before = content(folder)
    with pytest.raises(OutputError, match=r"\.compiling\.lock cannot be locked: .*No locks available: make its"):
        find_plans(Bundle.open(folder))
    assert content(folder).keys() - before.keys() <= {".compiling.lock"}


def test_plans_are_added_where_folders_cannot_be_held_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_rebuild, "_HAS_DIR_FD", False)
    for number in range(COMPILATIONS_LIMIT - 1):
        add_plans(folder, gpu=f"GPU {number}")
    find_plans(Bundle.open(folder))
    assert len(read_manifest(folder).compiled) == COMPILATIONS_LIMIT
    assert set(content(folder)) == {"manifest.json", *read_manifest(folder).files}  # the oldest made room


# Bundles that are replaced meanwhile


@pytest.mark.parametrize("shape", [WIDE, VideoShape(64, 64, 8)], ids=["another", "the same"])
def test_a_bundle_that_is_replaced_meanwhile_gets_nothing_of_the_old_one(
    folder: Path, builder: FakeBuilder, shape: VideoShape
) -> None:
    new: dict[str, bytes] = {}

    def work(name: str) -> None:
        if name == "denoiser":
            new.update(replace_by_another(folder, shape))

    builder.work = work
    with pytest.raises(BundleDamagedError, match=r"was replaced by another build .* discarded: open it again"):
        find_plans(Bundle.open(folder))
    assert content(folder) == new
    builder.work = lambda name: None
    assert find_plans(Bundle.open(folder)).path("denoiser").is_file()


def test_a_bundle_that_is_replaced_at_the_very_end_gets_nothing_either(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new: dict[str, bytes] = {}
    write = plan_rebuild.write_manifest

    def late(folder_: Path, manifest: Any) -> None:
        write(folder_, manifest)
        new.update(replace_by_another(folder))

    monkeypatch.setattr(plan_rebuild, "write_manifest", late)
    with pytest.raises(BundleDamagedError, match="was replaced by another build"):
        find_plans(Bundle.open(folder))
    assert content(folder) == new


def test_a_bundle_that_was_replaced_before_is_not_taken_for_the_old_one(folder: Path, builder: FakeBuilder) -> None:
    bundle = Bundle.open(folder)
    new = replace_by_another(folder)
    with pytest.raises(BundleDamagedError, match="was replaced by another build"):
        find_plans(bundle)
    assert (builder.built, content(folder)) == ([], new)


def test_a_bundle_that_is_removed_meanwhile_is_not_reported_as_replaced(folder: Path, builder: FakeBuilder) -> None:
    builder.work = lambda name: shutil.rmtree(folder, ignore_errors=True)
    with pytest.raises(BundleNotFoundError, match=r"bundle was removed while plans were compiled for it: build"):
        find_plans(Bundle.open(folder))


def test_a_staging_directory_that_is_removed_meanwhile_is_named(folder: Path, builder: FakeBuilder) -> None:
    builder.work = lambda name: [shutil.rmtree(path) for path in folder.glob(f"{plan_rebuild.STAGING}*")]
    before = content(folder)
    with pytest.raises(OutputError, match=r"\.compiling-[0-9a-f]{8} was removed while plans were compiled there: try"):
        find_plans(Bundle.open(folder))
    assert content(folder) == before


# Files that are kept


def test_a_folder_holds_so_many_compilations_and_the_oldest_make_room(folder: Path) -> None:
    for number in range(COMPILATIONS_LIMIT - 1):
        add_plans(folder, gpu=f"GPU {number}")
    oldest = set(read_manifest(folder).compiled[0].plans.values())
    assert oldest <= set(content(folder))
    find_plans(Bundle.open(folder))
    compiled = read_manifest(folder).compiled
    assert len(compiled) == COMPILATIONS_LIMIT
    assert (compiled[0].gpu, compiled[-1].gpu) == ("GPU 0", "Fake GPU")
    assert not oldest & set(content(folder))
    assert set(content(folder)) == {"manifest.json", *read_manifest(folder).files}


def test_other_files_stay(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / "my.plan").write_text("mine")
    find_plans(Bundle.open(folder))
    assert (folder / "notes.txt").read_text() == (folder / "my.plan").read_text() == "mine"


def test_folders_that_are_called_like_plans_of_others_stay(folder: Path) -> None:
    (folder / "denoiser.00000000.plan").mkdir()
    assert find_plans(Bundle.open(folder)).path("denoiser").is_file()
    assert (folder / "denoiser.00000000.plan").is_dir()


def test_a_folder_in_the_place_of_a_plan_is_named_before_anything_is_compiled(
    folder: Path, builder: FakeBuilder
) -> None:
    name = compilation().plan_name("denoiser")
    (folder / name).mkdir()
    with pytest.raises(OutputError, match=rf"{name} is a folder, and a plan has to lie there: remove it"):
        find_plans(Bundle.open(folder))
    assert builder.built == []


def test_graphs_are_compiled_beside_files_of_the_manifest_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "unlisted").write_text("anything")
    beside: dict[str, set[str]] = {}
    build = tensorrt_builder.build_engine

    def look(onnx: Path, spec: EngineSpec, *others: Any) -> BuildInfo:
        beside[spec.name] = {path.name for path in onnx.parent.iterdir()}
        return build(onnx, spec, *others)

    monkeypatch.setattr(tensorrt_builder, "build_engine", look)
    find_plans(Bundle.open(folder))
    engines = read_manifest(folder).engines
    assert beside == {name: set(engines[name].files) for name in ENGINE_NAMES}


def test_a_link_in_the_place_of_the_lock_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (folder / plan_rebuild.LOCK).symlink_to(tmp_path / "victim")
    with pytest.raises(OutputError, match="cannot be locked"):
        find_plans(Bundle.open(folder))
    assert not (tmp_path / "victim").exists()


def test_a_plan_that_links_out_of_the_bundle_is_replaced_and_not_written_through(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    plan = add_plans(folder) / compilation().plan_name("denoiser")
    plan.unlink()
    plan.symlink_to(victim)
    path = find_plans(Bundle.open(folder)).path("denoiser")
    assert path.read_text().startswith("new plan")
    assert not path.is_symlink()
    assert victim.read_text() == "precious"
