"""Plans that do not fit, where compiling is forbidden or impossible, and the messages of generator and command."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.fake_builder import FakeBuilder
from tests.doubles.fakes import write_bundle
from tests.support.compiled import ELSEWHERE, HERE, PORTABLE, add_plans, installed_builder
from vexpress_rt.__main__ import main
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.registry import choose
from vexpress_rt.backends.tensorrt.library import Library
from vexpress_rt.backends.tensorrt.options import EngineOptions
from vexpress_rt.backends.tensorrt.plan_store import find_plans
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.errors import BackendError, BackendMissingError, OutputError, PlansMissingError
from vexpress_rt.pipeline.generator import Generator


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


@pytest.mark.parametrize("provider", ["auto", "tensorrt"])
def test_never_names_the_command(tmp_path: Path, builder: FakeBuilder, provider: str) -> None:
    folder = add_plans(write_bundle(tmp_path / "my bundle"), **ELSEWHERE)
    with pytest.raises(PlansMissingError) as caught:
        Generator(folder, provider=provider, rebuild="never")
    assert str(caught.value) == (
        f"{folder} is compiled for NVIDIA A100 (8.0), TensorRT 11.4.0; this is Fake GPU (9.0), TensorRT 11.4.0, and "
        f"rebuild='never' forbids compiling plans now: do so with `vexpress-rt compile '{folder}'` on this machine, "
        "or use rebuild='auto'"
    )
    assert builder.built == []


def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime._library(), "gpus", 0)


def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # type: ignore[arg-type]


@pytest.mark.parametrize("remove", [without_gpu, without_library])
def test_never_is_no_error_where_plans_would_not_help(
    folder: Path, monkeypatch: pytest.MonkeyPatch, remove: Callable[[pytest.MonkeyPatch], None]
) -> None:
    add_plans(folder, **ELSEWHERE)
    remove(monkeypatch)
    assert choose("auto", Bundle.open(folder), "never").name == "cpu"


def test_never_is_no_error_for_who_asks_for_another_provider(folder: Path) -> None:
    assert choose("cpu", Bundle.open(add_plans(folder, **ELSEWHERE)), "never").name == "cpu"


def test_the_command_compiles_and_says_for_whom(
    folder: Path, builder: FakeBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    add_plans(folder, **ELSEWHERE)
    assert main(["compile", str(folder)]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{folder} has plans for Fake GPU (9.0), TensorRT 11.4.0\n"
    assert "warning: " in captured.err
    assert "compile: 100% 100/100 [" in captured.err
    Generator(folder, provider="tensorrt", rebuild="never").close()


@pytest.mark.parametrize("rebuild", ["auto", "never"])
def test_without_graphs_the_whole_build_command_is_named(folder: Path, builder: FakeBuilder, rebuild: str) -> None:
    options = EngineOptions(optimization_level=5, workspace_bytes=3 << 29, hardware_compatible=True).to_text()
    add_plans(folder, onnx=False, version="10.14.1", options=options, **PORTABLE)
    command = (
        f"`python -m export.build --weights CHECKPOINT --output {folder} --precision fp32 --target tensorrt "
        "--height 64 --width 64 --frames 8 --no-onnx --optimization-level 5 --workspace 1.5 --hardware-compatible`"
    )
    with pytest.raises(BackendError) as caught:
        find_plans(Bundle.open(folder), rebuild)
    assert command in str(caught.value)
    assert builder.built == []


def fail(error: Exception) -> Callable[[Path, FakeBuilder, pytest.MonkeyPatch], None]:
    def prepare(folder: Path, builder: FakeBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
        def work(name: str) -> None:
            raise error

        builder.work = work

    return prepare


def without_polygraphy(folder: Path, builder: FakeBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Library) -> Any:
        raise BackendMissingError("Polygraphy, which builds TensorRT engines, cannot be imported")

    monkeypatch.setattr(Library, "polygraphy", missing)


def unwritable(folder: Path, builder: FakeBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so that another kind of file takes the place of the lock."""
    (folder / ".compiling.lock").mkdir()


@pytest.mark.parametrize(
    ("prepare", "kind", "message"),
    [
        (without_polygraphy, BackendMissingError, "Polygraphy, which builds TensorRT engines, cannot be imported"),
        (unwritable, OutputError, "and no plans can be added: .* can be written to.*`vexpress-rt compile .*a copy of"),
        (fail(BackendError("memory ran out")), BackendError, "memory ran out"),
    ],
)
def test_what_cannot_be_compiled_is_an_error_or_worth_a_warning(
    folder: Path, builder: FakeBuilder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    prepare: Callable[..., None], kind: type[Exception], message: str,
) -> None:  # fmt: skip
    add_plans(folder, **ELSEWHERE)
    prepare(folder, builder, monkeypatch)
    before = names(folder)
    with pytest.raises(kind, match=message):
        Generator(folder, provider="tensorrt")
    with Generator(folder) as generator:
        assert "cpu (it is always available; not tensorrt, since" in generator.describe()
    assert "provider cpu" in caplog.text
    assert re.search(message, caplog.text)
    assert names(folder) == before


def test_other_providers_leave_plans_alone(folder: Path, builder: FakeBuilder) -> None:
    add_plans(folder, **ELSEWHERE)
    Generator(folder, provider="cpu").close()
    assert builder.built == []


def test_a_generator_tells_how_far_it_is_and_describes_what_it_made(folder: Path, builder: FakeBuilder) -> None:
    add_plans(folder, **ELSEWHERE)
    told: list[tuple[str, int, int]] = []
    with Generator(folder, progress=lambda *what: told.append(what)) as generator:
        assert "for tensorrt, plans for Fake GPU (9.0), TensorRT 11.4.0" in generator.describe()
    assert told[-1] == ("compile", 100, 100)


def test_nothing_is_logged_where_plans_fit(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    Generator(add_plans(folder, **HERE)).close()
    assert not caplog.records
