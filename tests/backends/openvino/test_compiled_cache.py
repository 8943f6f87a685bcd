"""Compiled engines of the small model in the user's cache, with the real OpenVINO."""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.paths import ROOT
from vexpress_rt.backends.base import Engine
from vexpress_rt.backends.openvino import compiled_cache, library, model, provider
from vexpress_rt.backends.openvino import engine as engine_module
from vexpress_rt.backends.openvino.compiled_cache import KIND, CachedEngine
from vexpress_rt.backends.openvino.options import EngineOptions
from vexpress_rt.backends.openvino.provider import OpenVinoLoader
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.default_bundle import shipped_bundle
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR
from vexpress_rt.errors import BackendError, BundleDamagedError
from vexpress_rt.utils import user_cache as cache
from vexpress_rt.utils.cpu_model import CpuModel

NAME = "audio_projection"
OPTIONS = EngineOptions(threads=1)


@pytest.fixture(autouse=True)
def own_cache(user_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Give each test an empty cache and the notes that are logged once a process."""
    monkeypatch.setattr(cache, "_logged", set())
    with caplog.at_level(logging.INFO, logger="vexpress_rt"):
        yield


@pytest.fixture(scope="module")
def small() -> Bundle:
    return Bundle.open(shipped_bundle())


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the engines that OpenVINO compiles from graphs during the test."""
    done: list[str] = []
    real = provider.compile_onnx

    def count(path: Path, name: str, *arguments: Any) -> Any:
        done.append(name)
        return real(path, name, *arguments)

    monkeypatch.setattr(provider, "compile_onnx", count)
    return done


def load(bundle: Bundle, name: str = NAME, options: EngineOptions = OPTIONS) -> Engine:
    return OpenVinoLoader(bundle, options).load(name, threads=options.threads)


def results(engine: Engine) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    feed = {
        tensor.name: rng.standard_normal([size or 4000 for size in tensor.shape]).astype(tensor.dtype)
        for tensor in engine.spec.inputs
    }
    return [np.asarray(output) for output in engine.run(feed).values()]


def blob(folder: Path) -> Path:
    (found,) = folder.glob(f"v1/{KIND}-*.bin")
    return found


@pytest.mark.parametrize("name", ["audio_projection", "audio_encoder", "denoiser_cond", FACE_DETECTOR])
def test_the_second_load_imports_and_gives_the_same(small: Bundle, compiled: list[str], name: str) -> None:
    first = load(small, name)
    assert compiled == [name]
    second = load(small, name)
    assert compiled == [name]
    if name != FACE_DETECTOR:  # it has no specification, and its outputs have several names
        assert second.spec == first.spec
    if name == FACE_DETECTOR:
        picture = np.random.default_rng(0).uniform(-1, 1, (1, 3, 96, 160)).astype(np.float32)
        expected, found = first.run_positional(picture), second.run_positional(picture)
    else:
        expected, found = results(first), results(second)
    assert len(found) == len(expected) > 0
    assert all(np.array_equal(one, other) for one, other in zip(expected, found, strict=True))
    first.close()
    second.close()


@pytest.mark.bf16
def test_an_imported_denoiser_of_reduced_precision_takes_the_sines(small: Bundle, compiled: list[str]) -> None:
    options = replace(OPTIONS, precision="bf16")
    first, second = load(small, "denoiser_cond", options), load(small, "denoiser_cond", options)
    assert compiled == ["denoiser_cond"]
    assert "timestep_sines" in [tensor.name for tensor in second.spec.inputs]
    assert second.spec == first.spec
    assert all(np.array_equal(one, other) for one, other in zip(results(first), results(second), strict=True))


def test_files_of_the_bundle_are_not_read_when_an_engine_is_imported(
    small: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(small)
    monkeypatch.setattr(Bundle, "engine_path", lambda *arguments: pytest.fail("read"))
    load(small)


def test_the_file_stays_mapped_while_the_engine_exists(small: Bundle, user_cache: Path) -> None:
    """OpenVINO reads the weights there: without the mapping, a run would end the process."""

    def mapped() -> bool:
        return path.name in Path("/proc/self/maps").read_text()

    load(small)
    path, engine = blob(user_cache), load(small)
    expected = results(engine)
    assert mapped()
    path.unlink()
    assert all(np.array_equal(one, other) for one, other in zip(expected, results(engine), strict=True))
    engine.close()
    assert not mapped()


# The key.


def other_cpu(monkeypatch: pytest.MonkeyPatch) -> EngineOptions:
    monkeypatch.setattr(compiled_cache, "cpu_model", lambda: CpuModel("another", "vendor", 1, 2, 3))
    return OPTIONS


def other_version(monkeypatch: pytest.MonkeyPatch) -> EngineOptions:
    monkeypatch.setattr(library, "full_version", lambda: "2026.4.9-1-x")
    return OPTIONS


def other_reader(monkeypatch: pytest.MonkeyPatch) -> EngineOptions:
    """A change of the module that reads graphs, here to the text of another one."""
    monkeypatch.setattr(model, "__file__", library.__file__)
    return OPTIONS


def other_compiler(monkeypatch: pytest.MonkeyPatch) -> EngineOptions:
    monkeypatch.setattr(engine_module, "__file__", library.__file__)
    return OPTIONS


def other_configuration(monkeypatch: pytest.MonkeyPatch) -> EngineOptions:
    configuration = EngineOptions.configuration
    monkeypatch.setattr(EngineOptions, "configuration", lambda self: configuration(self) | {"PERF_COUNT": "YES"})
    return OPTIONS


def other_precision(monkeypatch: pytest.MonkeyPatch) -> EngineOptions:
    return replace(OPTIONS, precision="bf16")


@pytest.mark.parametrize(
    "change", [other_cpu, other_version, other_reader, other_compiler, other_configuration, other_precision]
)
def test_another_machine_version_code_or_option_is_another_entry(
    small: Bundle, change: Callable[[pytest.MonkeyPatch], EngineOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(small)
    assert CachedEngine(small, NAME, OPTIONS).find() is not None
    assert CachedEngine(small, NAME, change(monkeypatch)).find() is None


@pytest.mark.parametrize("file", [f"{NAME}.onnx", "denoiser.weights"])
def test_another_graph_or_weight_file_is_another_entry(small: Bundle, file: str) -> None:
    name = NAME if file.startswith(NAME) else "denoiser"
    files = small.manifest.files
    changed = replace(small.manifest, files={**files, file: replace(files[file], sha256="0" * 64)})
    CachedEngine(small, name, OPTIONS).store(OpenVinoLoader(small, OPTIONS).load(NAME, threads=1)._compiled)  # type: ignore[attr-defined]
    assert CachedEngine(small, name, OPTIONS).find() is not None
    assert CachedEngine(Bundle(small.folder, changed), name, OPTIONS).find() is None


def test_the_number_of_threads_is_no_part_of_the_key(small: Bundle, compiled: list[str]) -> None:
    load(small, options=EngineOptions(threads=1))
    engine = load(small, options=EngineOptions(threads=2))
    assert compiled == [NAME]
    expected = EngineOptions(threads=2).configuration()["INFERENCE_NUM_THREADS"]
    assert str(engine._compiled.get_property("INFERENCE_NUM_THREADS")) == expected  # type: ignore[attr-defined]


def test_engines_of_other_devices_are_not_stored(small: Bundle, user_cache: Path) -> None:
    engine = load(small)
    entry = CachedEngine(small, NAME, EngineOptions("GPU"))
    cache.clear()
    entry.store(engine._compiled)  # type: ignore[attr-defined]
    assert entry.find() is None
    with entry.compiling():
        pass
    assert cache.entries() == []


# What goes wrong.


@pytest.mark.parametrize("damage", ["empty", "cut", "changed"])
def test_a_damaged_file_is_compiled_again(small: Bundle, user_cache: Path, compiled: list[str], damage: str) -> None:
    expected = results(load(small))
    path = blob(user_cache)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"empty": b"", "cut": content[:-1], "changed": content}[damage])
    for _ in range(2):
        found = results(load(small))
        assert all(np.array_equal(one, other) for one, other in zip(expected, found, strict=True))
    assert compiled == [NAME, NAME]


@pytest.mark.parametrize("content", [b"", b"x", b"not an engine" * 1000], ids=["empty", "a byte", "text"])
def test_a_file_that_openvino_refuses_is_compiled_again(
    small: Bundle,
    compiled: list[str],
    content: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The file has the right hash: it was stored like that, by another build of the same version for instance."""

    class Odd:
        def export_model(self, stream: Any) -> None:
            stream.write(content)

    CachedEngine(small, NAME, OPTIONS).store(Odd())
    load(small)
    load(small)
    assert compiled == [NAME]
    assert "cannot be imported" in caplog.text


def test_an_engine_with_other_outputs_is_compiled_again(small: Bundle, compiled: list[str]) -> None:
    other = load(small, FACE_DETECTOR)
    CachedEngine(small, NAME, OPTIONS).store(other._compiled)  # type: ignore[attr-defined]
    engine = load(small)
    assert compiled == [FACE_DETECTOR, NAME]
    assert engine.spec == small.specs[NAME]


def test_an_import_that_runs_out_of_memory_says_so_and_keeps_the_file(
    small: Bundle, user_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> Any:
        raise MemoryError("std::bad_alloc")

    load(small)
    with monkeypatch.context() as patch:
        patch.setattr(compiled_cache, "_import", fails)
        with pytest.raises(BackendError, match="memory ran out"):
            load(small)
    assert blob(user_cache).is_file()


def test_a_failed_export_is_no_failure(small: Bundle, user_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Fails:
        def export_model(self, stream: Any) -> None:
            raise RuntimeError("not implemented")

    CachedEngine(small, NAME, OPTIONS).store(Fails())
    assert cache.entries() == []
    assert "is not stored in the cache: not implemented" in caplog.text


def test_a_disk_that_fills_up_during_the_export_is_no_failure(
    small: Bundle, user_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(compiled_cache._FileStream):
        def __init__(self, path: Path) -> None:
            super().__init__(Path("/dev/full"))

    monkeypatch.setattr(compiled_cache, "_FileStream", Full)
    engine = load(small)
    assert results(engine)
    assert not list((user_cache / "v1").glob("*.bin"))
    assert "No space left on device" in caplog.text


@pytest.mark.parametrize(("variable", "value"), [("VEXPRESS_RT_CACHE_DIR", "off"), ("VEXPRESS_RT_CACHE_LIMIT", "10K")])
def test_without_room_every_load_compiles(
    small: Bundle, user_cache: Path, compiled: list[str], variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    for _ in range(2):
        load(small)
    assert compiled == [NAME, NAME]
    assert not list(user_cache.glob("v1/*.bin"))


def test_damaged_files_of_the_bundle_are_refused_where_nothing_is_stored(small: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(small.folder, tmp_path / "bundle")
    graph = copy / small.manifest.engines[NAME].file
    content = bytearray(graph.read_bytes())
    content[-1] ^= 1
    graph.write_bytes(content)
    with pytest.raises(BundleDamagedError, match="has the sha256"):
        load(Bundle.open(copy))
    assert not [entry for entry in cache.entries() if entry.kind == KIND]


# Several processes.

LOAD = """
import sys
from vexpress_rt.backends.openvino import compiled_cache, provider
from vexpress_rt.backends.openvino.options import EngineOptions
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.default_bundle import shipped_bundle
real = provider.compile_onnx
def count(*arguments):
    print("compiled", flush=True)
    return real(*arguments)
provider.compile_onnx = count
{before}
provider.OpenVinoLoader(Bundle.open(shipped_bundle()), EngineOptions()).load("audio_projection", threads=1)
print("loaded", flush=True)
"""


def process(before: str = "") -> subprocess.Popen[str]:
    code = LOAD.format(before=before)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=pipe, stdout=pipe, text=True)


def test_of_two_processes_that_start_at_once_one_compiles() -> None:
    start = "print('ready', flush=True); sys.stdin.readline()"
    with ExitStack() as stack:
        both = [stack.enter_context(process(start)) for _ in range(2)]
        for one in both:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        for one in both:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        printed = [one.communicate(timeout=120)[0].split() for one in both]
    assert sorted(printed) == [["compiled", "loaded"], ["loaded"]]


def test_a_process_that_is_killed_while_it_stores_leaves_an_engine_to_compile_again(
    small: Bundle, user_cache: Path, compiled: list[str]
) -> None:
    hang = (
        "class Hang(compiled_cache._FileStream):\n"
        "    def write(self, data):\n"
        "        size = super().write(data); print('writing', flush=True); sys.stdin.readline(); return size\n"
        "compiled_cache._FileStream = Hang"
    )
    with process(hang) as other:
        assert other.stdout is not None
        assert [other.stdout.readline() for _ in range(2)] == ["compiled\n", "writing\n"]
        other.send_signal(signal.SIGKILL)
    (partial,) = (user_cache / "v1").glob(".vexpress-*.bin")
    assert partial.stat().st_size
    load(small)
    assert compiled == [NAME]
    assert not partial.exists()
    assert not list((user_cache / "v1").glob("*.lock"))
    load(small)
    assert compiled == [NAME]


def test_a_process_that_waits_for_too_long_compiles_as_well(
    small: Bundle, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_cache, "_WAIT", 0.01)
    with CachedEngine(small, NAME, OPTIONS).compiling():
        load(small)
    assert compiled == [NAME]
