"""The provider "openvino" with the small model: its engines equal those of ONNX Runtime, and its choices."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.doubles.fakes import write_bundle
from vexpress_rt.backends.loaded_engines import Engines
from vexpress_rt.backends.openvino import library, provider
from vexpress_rt.backends.openvino.options import EngineOptions
from vexpress_rt.backends.openvino.provider import engine_options
from vexpress_rt.backends.openvino.self_test import SelfTest
from vexpress_rt.backends.registry import choose
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.default_bundle import shipped_bundle
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR, TIMESTEP, TIMESTEP_SINES, EngineSpec
from vexpress_rt.bundle.manifest import read_manifest
from vexpress_rt.errors import BackendError, BackendMissingError, BundleDamagedError, ConfigError
from vexpress_rt.pipeline.generator import Generator

STAGE = 5e-5  # of the largest value, as for the goldens
SIZES = {"N": 9000, "T": 28}  # of engines with open sizes


@pytest.fixture(scope="module")
def small() -> Bundle:
    return Bundle.open(shipped_bundle())


@pytest.fixture(scope="module")
def both(small: Bundle) -> Iterator[tuple[Engines, Engines]]:
    """The engines of the small model in ONNX Runtime and in OpenVINO."""
    loaded = tuple(Engines(small, choose(name, small), None) for name in ("cpu", "openvino"))
    yield loaded[0], loaded[1]
    for engines in loaded:
        engines.close()


def feed(spec: EngineSpec) -> dict[str, np.ndarray]:
    """Return inputs of an engine in the ranges of a video's."""
    rng, made = np.random.default_rng(0), {}
    for tensor in spec.inputs:
        shape = [size or SIZES[dim] for dim, size in zip(tensor.dims, tensor.shape, strict=True)]
        made[tensor.name] = (
            rng.integers(0, 256, shape, np.uint8)
            if tensor.dtype == "uint8"
            else rng.standard_normal(shape).astype(tensor.dtype)
        )
    return made | ({"timestep": np.array([481], np.float32)} if "timestep" in made else {})


@pytest.mark.parametrize("name", Bundle.open(shipped_bundle()).manifest.engines)
def test_every_engine_gives_what_it_gives_in_onnx_runtime(both: tuple[Engines, Engines], name: str) -> None:
    if name == FACE_DETECTOR:
        picture = np.random.default_rng(0).uniform(-1, 1, (1, 3, 96, 160)).astype(np.float32)
        expected, found = (dict(enumerate(engines.get(name).run_positional(picture))) for engines in both)
    else:
        inputs = feed(both[0].get(name).spec)
        expected, found = (engines.get(name).run(inputs) for engines in both)
    assert list(found) == list(expected)
    assert expected
    for key, array in expected.items():
        assert (found[key].shape, found[key].dtype) == (array.shape, array.dtype)
        if array.dtype == np.uint8:
            difference = np.abs(found[key].astype(int) - array.astype(int))
            assert difference.max() <= 1
            assert (difference == 0).mean() > 0.999
        else:
            assert np.abs(found[key] - array).max() < STAGE * np.abs(array).max(), key


def test_speech_of_any_length_runs(both: tuple[Engines, Engines]) -> None:
    for length in (16000, 401, 9999):
        samples = np.random.default_rng(0).standard_normal((1, length)).astype(np.float32)
        expected, found = (engines.get("audio_encoder").run({"samples": samples})["features"] for engines in both)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < STAGE * np.abs(expected).max()


def test_a_generator_describes_it() -> None:
    with Generator(provider="openvino", threads=1) as generator:
        text = generator.describe()
    for part in (
        "precision: fp32\n",
        "provider:  openvino (requested)",
        f"device:    CPU ({library.device_name('CPU')}), 1 thread",
        f"OpenVINO {library.version()}",
    ):
        assert part in text


def test_auto_leaves_it_out_unless_a_choice_needs_it(small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "capabilities", lambda device: ("FP32", "BF16"))
    monkeypatch.setattr(provider, "check_reduced_precision", lambda *_: SelfTest({"a kernel": 50.0}))
    assert choose("auto", small).name == "cpu"
    assert choose("auto", small, precision="fp32").name == "cpu"
    for choice in ({"device": "CPU"}, {"precision": "bf16"}):
        assert choose("auto", small, **choice).name == "openvino"
    assert choose("openvino", small, precision="bf16").loader.describe_precision() == "bf16 (the bundle is in fp32)"


@pytest.mark.parametrize("device", ["GPU", "NPU"])
def test_engines_with_open_sizes_run_on_the_cpu(small: Bundle, device: str) -> None:
    given, on_cpu = EngineOptions(device, "fp16", 2), EngineOptions("CPU", "fp32", 2)
    for name in small.manifest.engines:
        expected = on_cpu if name in (FACE_DETECTOR, "audio_encoder") else given
        assert engine_options(name, small.specs.get(name), given) == expected


@pytest.mark.bf16
def test_bfloat16_changes_the_frames_a_little_and_takes_the_sines(small: Bundle, both: tuple[Engines, Engines]) -> None:
    loaded = Engines(small, choose("openvino", small, precision="bf16"), None)
    latent = np.random.default_rng(0).standard_normal((1, 8, 16, 16)).astype(np.float32)
    expected, found = (engines.get("vae_decoder").run({"latent": latent})["frame"] for engines in (both[0], loaded))
    error = np.mean((expected.astype(float) - found) ** 2)
    assert 30 < 10 * np.log10(255**2 / error) < 80  # so it does compute in bfloat16
    names = [tensor.name for tensor in loaded.get("denoiser").spec.inputs]
    assert TIMESTEP_SINES in names
    assert TIMESTEP not in names
    loaded.close()


def test_weights_that_are_written_to_while_they_are_in_use_are_refused(small: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small.folder, tmp_path / "bundle"))
    bundle = Bundle.open(folder)
    engines = Engines(bundle, choose("openvino", bundle), None)
    engines.get("denoiser_cond")
    with (folder / "denoiser.weights").open("r+b") as file:
        file.write(bytes(16))
    os.utime(folder / "denoiser.weights", ns=(1, 1))
    with pytest.raises(BundleDamagedError, match=r"denoiser\.weights was written to while it was in use"):
        engines.get("denoiser_cond")
    engines.close()


def test_a_bundle_that_has_nothing_for_it_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    manifest = read_manifest(folder)
    for changes, message in (
        ({"precision": "bf16", "target": "tensorrt"}, "is in bfloat16, which OpenVINO does not compute in"),
        ({"onnx": False}, "was built with --no-onnx and holds nothing that OpenVINO could run"),
    ):
        with pytest.raises(ConfigError, match=message):
            choose("openvino", Bundle(folder, dataclasses.replace(manifest, **changes)))


def test_a_device_or_precision_that_is_not_there_is_refused(small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "devices", lambda: ("CPU",))
    monkeypatch.setattr(library, "capabilities", lambda device: ("FP32",))
    with pytest.raises(BackendError, match="finds no device GPU on this machine; it finds CPU"):
        choose("openvino", small, device="GPU")
    with pytest.raises(BackendError, match="precision is bf16, which OpenVINO"):
        choose("openvino", small, precision="bf16")
    with pytest.raises(ConfigError, match=r"nothing on this machine can run the bundle: .*precision is bf16, which Op"):
        choose("auto", small, precision="bf16")


def test_without_the_library_it_says_what_to_install(small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise BackendMissingError("no OpenVINO")

    monkeypatch.setattr(library, "import_library", missing)
    with pytest.raises(BackendMissingError, match="no OpenVINO"):
        choose("openvino", small)
