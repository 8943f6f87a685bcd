"""Differences between TensorRT and TensorRT for RTX, and between their versions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.support.paths import ROOT
from vexpress_rt.backends.tensorrt import library as tensorrt_library
from vexpress_rt.backends.tensorrt.library import Library, available, builder, load
from vexpress_rt.errors import BackendError, BackendMissingError, ConfigError


@pytest.fixture(scope="module")
def rtx() -> Library:
    return load("tensorrt-rtx")


def stand_in(version: str) -> ModuleType:
    """Return a module with only the parts of TensorRT that loading it needs."""
    module = ModuleType("tensorrt")
    module.__dict__.update(__version__=version, ILogger=type("ILogger", (), {"Severity": SimpleNamespace(VERBOSE=4)}))
    return module


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in("11.4.0.12"))
    return load("tensorrt")


def test_the_installed_library_is_loaded_once_and_says_what_it_can(rtx: Library) -> None:
    assert available("tensorrt-rtx")
    assert load("tensorrt-rtx") is rtx
    assert rtx.name == f"TensorRT for RTX {rtx.module.__version__}"
    assert rtx.builds_without_gpu
    assert not rtx.has_timing_cache


def test_the_library_for_data_centres_builds_on_a_gpu_and_keeps_timings(tensorrt: Library) -> None:
    assert tensorrt.name == "TensorRT 11.4.0.12"
    assert not tensorrt.builds_without_gpu
    assert tensorrt.has_timing_cache


@pytest.mark.parametrize(("target", "module"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")])
def test_a_missing_library_is_an_error_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, target: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendMissingError, match=rf"pip install 'vexpress-rt\[{target}\]'"):
        load(target)
    assert not available(target)


def test_an_interrupt_while_it_is_imported_is_not_taken_for_a_missing_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text(
        "try:\n"
        f"    __import__('signal').raise_signal({int(signal.SIGINT)})\n"
        "except KeyboardInterrupt:\n"
        "    raise ImportError('initialization failed')\n"
    )
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    del sys.modules["tensorrt"]
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        load("tensorrt")


@pytest.mark.parametrize("version", ["10.13.3.9", "9.3", "dev"])
def test_an_old_library_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in(version))
    with pytest.raises(BackendMissingError, match=rf"TensorRT {version} is installed; expected at least 10\.14"):
        load("tensorrt")
    assert not available("tensorrt")


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_the_extra_installs_no_library_that_is_too_old(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    monkeypatch.setattr(tensorrt_library, "_LOADED", {})  # the real one stays the one of this process
    (oldest,) = (text.partition(">=")[2] for text in extras[target] if text.startswith(f"{target}-cu13"))
    monkeypatch.setitem(sys.modules, target.replace("-", "_"), stand_in(oldest))
    assert load(target).version == oldest
    too_old = f"{oldest.split('.')[0]}.{int(oldest.split('.')[1]) - 1}"
    monkeypatch.setitem(sys.modules, target.replace("-", "_"), stand_in(too_old))
    with pytest.raises(BackendMissingError, match=f"{too_old} is installed; expected at least {oldest}"):
        load(target)


def test_what_builds_is_the_library_together_with_polygraphy(rtx: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    assert builder("tensorrt-rtx") is rtx
    monkeypatch.setitem(sys.modules, "polygraphy", None)
    with pytest.raises(BackendMissingError, match=r"is not installed: .*pip install 'vexpress-rt\[tensorrt-rtx\]'"):
        builder("tensorrt-rtx")


def test_tensorrt_for_rtx_is_made_for_rtx_and_tensorrt_for_all(rtx: Library, tensorrt: Library) -> None:
    capabilities = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0), (12, 1)]
    assert [c for c in capabilities if rtx.is_made_for(c)] == [(8, 6), (8, 9), (12, 0), (12, 1)]
    assert all(tensorrt.is_made_for(c) for c in capabilities)
    built = {f"SM{major}{minor}" for major, minor in capabilities if rtx.is_made_for((major, minor))}
    assert built <= rtx.module.ComputeCapability.__members__.keys()


def test_another_target_is_refused() -> None:
    with pytest.raises(ConfigError, match="'onnxruntime' is no TensorRT library; expected tensorrt or tensorrt-rtx"):
        load("onnxruntime")


def test_data_types_have_the_names_of_the_specifications(rtx: Library) -> None:
    kinds = rtx.module.DataType
    named = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "UINT8": "uint8", "INT64": "int64"}
    assert {name: rtx.dtype_name(getattr(kinds, name)) for name in named} == named
    assert rtx.dtype_name(kinds.FP8) == "FP8"


def test_engines_of_tensorrt_for_rtx_are_always_portable(rtx: Library, tensorrt: Library) -> None:
    assert rtx.is_portable(hardware_compatible=False)
    assert tensorrt.is_portable(hardware_compatible=True)
    assert not tensorrt.is_portable(hardware_compatible=False)


def test_tensorrt_for_rtx_is_not_given_the_hardware_that_it_would_warn_about(rtx: Library) -> None:
    config = SimpleNamespace()
    rtx.set_hardware(config, hardware_compatible=True)
    assert vars(config) == {}


def test_polygraphy_works_with_the_library_that_asks_for_it(rtx: Library, capfd: pytest.CaptureFixture[str]) -> None:
    before = dict(os.environ)
    with rtx.polygraphy() as polygraphy:
        builder, network = polygraphy.create_network(strongly_typed=True)
    assert isinstance(builder, rtx.module.Builder)
    assert builder.logger is rtx.logger
    assert network.get_flag(rtx.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert dict(os.environ) == before
    assert capfd.readouterr() == ("", "")


def test_polygraphy_serves_one_library_a_process(rtx: Library, tensorrt: Library) -> None:
    with rtx.polygraphy():
        pass
    with (
        pytest.raises(
            BackendError, match="already works with TensorRT for RTX: build engines for tensorrt in a process"
        ),
        tensorrt.polygraphy(),
    ):
        pass


def test_without_polygraphy_the_extra_is_named(rtx: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polygraphy", None)
    with (
        pytest.raises(BackendMissingError, match=r"Polygraphy.*pip install 'vexpress-rt\[tensorrt-rtx\]'"),
        rtx.polygraphy(),
    ):
        pass


def build_with_tensorrt_10(folder: Path, cache: Path, gpu: str = "gpu") -> subprocess.CompletedProcess[str]:
    arguments = [folder / "relu.onnx", folder / "relu.engine", cache, gpu]
    command = [sys.executable, "-W", "error", "-m", "tests.doubles.tensorrt_stand_in", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)


@pytest.mark.parametrize(
    ("found", "given", "kept"),
    [
        (None, [""], b"+"),
        (b"timings", ["timings"], b"timings+"),
        (b"foreign", ["foreign", ""], b"+"),
        (b"damaged", [""], b"+"),
    ],
    ids=["none yet", "of an earlier build", "of another GPU", "damaged"],
)
def test_tensorrt_10_builds_by_the_same_code_with_timings_and_hardware_compatibility(
    tmp_path: Path, found: bytes | None, given: list[str], kept: bytes
) -> None:
    cache = tmp_path / "timings"
    if found is not None:
        cache.write_bytes(found)
    done = build_with_tensorrt_10(tmp_path, cache)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    size = (tmp_path / "relu.engine").stat().st_size
    assert record == {
        "name": "TensorRT 10.14.1.48", "needs_gpu": True, "strongly_typed": True, "hardware": "AMPERE_PLUS",
        "caches": given, "bytes": size,
    }  # fmt: skip
    assert cache.read_bytes() == kept
    assert ("a new one is started" in done.stderr) == (found in (b"foreign", b"damaged"))


def test_an_engine_is_built_also_where_timings_cannot_be_kept(tmp_path: Path) -> None:
    done = build_with_tensorrt_10(tmp_path, tmp_path / "none" / "timings")
    assert done.returncode == 0, done.stderr
    assert "timings cannot be written" in done.stderr
    assert (tmp_path / "relu.engine").exists()


@pytest.mark.parametrize("kind", ["folder", "pipe", "huge"])
def test_what_cannot_hold_timings_is_left_alone_and_the_engine_built(tmp_path: Path, kind: str) -> None:
    cache = tmp_path / "timings"
    if kind == "huge":
        with cache.open("wb") as file:
            file.truncate((1 << 30) + 1)
    else:
        (os.mkfifo if kind == "pipe" else os.mkdir)(cache)
    before = cache.stat()
    done = build_with_tensorrt_10(tmp_path, cache)
    assert done.returncode == 0, done.stderr
    assert f"no timings are read from {cache}" in done.stderr
    assert (tmp_path / "relu.engine").exists()
    assert os.path.samestat(cache.stat(), before)


def test_without_a_gpu_tensorrt_10_says_that_it_wants_one(tmp_path: Path) -> None:
    done = build_with_tensorrt_10(tmp_path, tmp_path / "timings", gpu="none")
    assert "cannot build engine relu: CUDA initialization failure with error: 35: update TensorRT" in done.stderr
    assert "it builds only where there is a working NVIDIA GPU" in done.stderr
    assert not (tmp_path / "relu.engine").exists()
