"""The self-test of reduced precision finds wrong kernels, in the real library and in a broken one, and is stored."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.doubles.broken_openvino import BrokenCore, Fault, noise
from tests.support.micro import MICRO_MODEL, MICRO_SHAPE
from vexpress_rt.backends.openvino import library, self_test
from vexpress_rt.backends.openvino.model import cut_timestep
from vexpress_rt.backends.openvino.self_test import (
    KIND,
    THRESHOLD,
    SelfTest,
    bundle_cases,
    check_reduced_precision,
    run_self_test,
    signal_to_noise,
)
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.default_bundle import shipped_bundle
from vexpress_rt.bundle.engine_spec import ModelConfig, VideoShape
from vexpress_rt.utils import user_cache
from vexpress_rt.utils.cpu_model import CpuModel

HINT = "INFERENCE_PRECISION_HINT"
BF16 = {HINT: "bf16", "SNIPPETS_MODE": "DISABLE"}
# The released model, at a small size.
RELEASED = replace(
    MICRO_MODEL, latent_channels=4, vae_factor=8, block_out_channels=(320, 640), attention_heads=8,
    cross_attention_dim=768, audio_tokens=5, max_frames=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def openvino() -> Any:
    return library.import_library()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(user_cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def shipped_sizes() -> tuple[ModelConfig, VideoShape]:
    manifest = Bundle.open(shipped_bundle()).manifest
    return manifest.model, manifest.shape


def check(openvino: Any, core: Any, **changes: Any) -> SelfTest:
    """Run the self-test of the smallest model, or take its result from the cache."""
    arguments = {"device": "CPU", "configuration": BF16, "model": MICRO_MODEL, "shape": MICRO_SHAPE, **changes}
    return check_reduced_precision(openvino, core, **arguments)


def kernels(compiled: Any) -> set[tuple[str, str]]:
    """Return the kinds of layers in a compiled model that compute with weights or attention, and their kernels."""
    found = Counter(
        (str(node.get_rt_info()["layerType"].astype(str)), str(node.get_rt_info()["primitiveType"].astype(str)))
        for node in compiled.get_runtime_model().get_ops()
    )
    return {pair for pair in found if pair[0] in ("MatMul", "FullyConnected", "Convolution", "Softmax")}


# With the real library


@pytest.mark.bf16
def test_the_shipped_bundle_passes_in_bfloat16_without_snippets(openvino: Any) -> None:
    result = run_self_test(openvino, openvino.Core(), "CPU", BF16, bundle_cases(*shipped_sizes()))
    assert result.passed, result.describe()
    assert max(filter(None, result.decibels.values())) < 60  # it did compute in bfloat16


@pytest.mark.bf16
def test_snippets_are_found_to_be_wrong_where_queries_are_as_many_as_heads(openvino: Any) -> None:
    snippets = {HINT: "bf16", "SNIPPETS_MODE": "ENABLE"}
    result = run_self_test(openvino, openvino.Core(), "CPU", snippets, bundle_cases(RELEASED, VideoShape(128, 128, 8)))
    wrong = {case.partition(" (")[0] for case in result.failures}
    assert wrong == {"queries as heads", "motion module"}, result.decibels
    assert "queries as heads (8 queries, 8 keys, 8 heads of 40)" in result.failures
    assert max(result.failures.values()) < 15


@pytest.mark.bf16
def test_kernels_are_those_of_the_shipped_denoiser(openvino: Any) -> None:
    core = openvino.Core()
    bundle = Bundle.open(shipped_bundle())
    denoiser = core.read_model(str(bundle.folder / "denoiser.onnx"))
    cut_timestep(openvino, denoiser, bundle.specs["denoiser"])
    model = self_test._Graph(openvino).model(bundle_cases(*shipped_sizes()))
    engine, test = (kernels(core.compile_model(one, "CPU", BF16)) for one in (denoiser, model))
    assert engine
    assert engine <= test, engine - test


# With a broken library, on any CPU


def known_attention(name: str) -> bool:
    return "8 queries, 8 keys, 8 heads" in name


FAULTS: dict[str, tuple[Fault, Callable[[str], bool]]] = {
    "attention with as many queries as heads": (noise(-1, known_attention), known_attention),
    "products": (noise(-5, lambda name: "1024" in name), lambda name: "1024" in name),
    "convolutions": (noise(20, lambda name: "convolutions" in name), lambda name: "convolutions" in name),
    "all": (noise(THRESHOLD - 1), lambda name: True),
    "NaN": (
        lambda name, values: np.where(values > values.max() - 1e-6, np.nan, values) if "VAE" in name else values,
        lambda name: "VAE" in name,
    ),
    "infinity": (lambda name, values: values * np.inf, lambda name: True),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_broken_kernel_is_named(case: str, openvino: Any, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    fault, is_wrong = FAULTS[case]
    core = BrokenCore(openvino.Core(), fault)
    with caplog.at_level(logging.WARNING, "vexpress_rt"):
        result = check(openvino, core, configuration=BF16)
    names = bundle_cases(MICRO_MODEL, MICRO_SHAPE)
    assert not result.passed
    assert set(result.failures) == {name for name in names if is_wrong(name)} != set()
    [message] = [record.getMessage() for record in caplog.records]
    worst = next(iter(result.failures))
    assert message.startswith("bf16 is not used on CPU: ")
    assert message.endswith(f"{result.describe()}. Engines compute in fp32")
    assert worst in message
    assert "35 dB" in message


def test_noise_as_of_bfloat16_passes_without_a_warning(
    openvino: Any, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = check(openvino, BrokenCore(openvino.Core(), noise(THRESHOLD + 1)))
    assert result.passed
    assert not caplog.records
    assert all(value is not None and abs(value - THRESHOLD - 1) < 0.9 for value in result.decibels.values())


def test_a_single_wrong_row_fails(openvino: Any, cache: Path) -> None:
    def one_row(name: str, values: np.ndarray) -> np.ndarray:
        rows = np.moveaxis(values, 1, -1) if values.ndim == 4 else values  # images have their channels second
        rows = rows.reshape(-1, rows.shape[-1])
        rows[-1] = -rows[-1]
        return np.moveaxis(rows.reshape(1, 16, 16, -1), -1, 1) if values.ndim == 4 else values

    result = check(openvino, BrokenCore(openvino.Core(), one_row), model=RELEASED, shape=VideoShape(128, 128, 8))
    assert len(result.decibels) > 20
    assert set(result.failures) == set(result.decibels)


@pytest.mark.parametrize("failure", [RuntimeError("no kernel"), MemoryError("no room")])
def test_a_test_that_cannot_run_is_not_stored(
    failure: Exception, openvino: Any, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    core = BrokenCore(openvino.Core(), failure=failure)
    result = check(openvino, core)
    assert not result.passed
    assert "the self-test cannot run" in caplog.text
    assert str(failure) in result.describe()
    core.failure = None
    assert check(openvino, core).passed


def test_a_missing_output_fails(openvino: Any, cache: Path) -> None:
    core = BrokenCore(openvino.Core())
    whole = core.compile_model
    core.compile_model = lambda *arguments: SimpleNamespace(  # type: ignore[method-assign]
        create_infer_request=whole(*arguments).create_infer_request, outputs=[]
    )
    assert not check(openvino, core).passed


def test_other_devices_are_compared_with_the_cpu(openvino: Any, cache: Path) -> None:
    core, half = BrokenCore(openvino.Core()), {HINT: "f16", "CACHE": "X"}
    assert check(openvino, core, device="GPU", configuration=half).passed
    assert core.compiled == [("CPU", {HINT: "f32"}), ("GPU", half)]


# Kept results


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    made = Runs()
    monkeypatch.setattr(self_test, "run_self_test", made)
    return made


class Runs:
    """In place of `run_self_test`: all cases give the same result.

    Attributes:
        count: Number of runs.
        result: Signal to noise of all cases.
    """

    def __init__(self) -> None:
        self.count = 0
        self.result: float | None = 45.0

    def __call__(self, library: Any, core: Any, device: str, configuration: Any, cases: Any) -> SelfTest:
        self.count += 1
        return SelfTest(dict.fromkeys(cases, self.result))


def test_a_result_is_stored(openvino: Any, cache: Path, runs: Runs) -> None:
    core = BrokenCore(None)
    first = check(openvino, core)
    assert first.passed
    assert check(openvino, core) == first
    assert runs.count == 1


@pytest.mark.parametrize("decibels", [None, 34.9, -3.0])
def test_a_failure_is_stored_and_logged_again(
    decibels: float | None, openvino: Any, cache: Path, runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    runs.result = decibels
    first = check(openvino, BrokenCore(None))
    assert not first.passed
    assert check(openvino, BrokenCore(None)) == first
    assert runs.count == 1
    assert len(caplog.records) == 2


CHANGES: dict[str, dict[str, Any]] = {
    "device": {"device": "GPU"},
    "options": {"configuration": {**BF16, "SNIPPETS_MODE": "ENABLE"}},
    "threads": {"configuration": {**BF16, "INFERENCE_NUM_THREADS": 2}},
    "precision": {"configuration": {**BF16, HINT: "f16"}},
    "frames": {"shape": replace(MICRO_SHAPE, frames=4)},
    "channels": {"model": replace(MICRO_MODEL, block_out_channels=(8, 32))},
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_configuration_or_size_is_tested_again(change: str, openvino: Any, cache: Path, runs: Runs) -> None:
    check(openvino, BrokenCore(None))
    check(openvino, BrokenCore(None), **CHANGES[change])
    assert runs.count == 2


@pytest.mark.parametrize("change", ["cpu", "version", "chip"])
def test_the_record_of_another_cpu_or_version_is_ignored(
    change: str, openvino: Any, cache: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = BrokenCore(None)
    check(openvino, core)
    if change == "cpu":
        monkeypatch.setattr(self_test, "cpu_model", lambda: CpuModel("another"))
    elif change == "version":
        openvino = SimpleNamespace(__version__="2026.4.9")
    else:
        core.chip = "another chip"
    check(openvino, core)
    assert runs.count == 2


FORMS: dict[str, Callable[[Any], Any]] = {
    "empty": lambda found: {},
    "text": lambda found: {"decibels": "50"},
    "a case less": lambda found: {"decibels": dict(list(found.items())[1:])},
    "a case more": lambda found: {"decibels": {**found, "another": 50}},
    "text for numbers": lambda found: {"decibels": dict.fromkeys(found, "50")},
    "booleans for numbers": lambda found: {"decibels": dict.fromkeys(found, True)},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_record_of_another_form_is_ignored(
    form: str, openvino: Any, cache: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(self_test, "write_record", lambda kind, key, record: keys.append(key))
        found = check(openvino, BrokenCore(None)).decibels
    assert user_cache.write_record(KIND, keys[0], FORMS[form](found))
    runs.result = 1.0
    assert not check(openvino, BrokenCore(None)).passed
    assert runs.count == 2


def test_a_damaged_file_is_ignored(openvino: Any, cache: Path, runs: Runs) -> None:
    runs.result = 1.0
    check(openvino, BrokenCore(None))
    [file] = cache.rglob("*.json")
    record = json.loads(file.read_text())
    record["record"]["decibels"] = dict.fromkeys(record["record"]["decibels"], 50.0)
    file.write_text(json.dumps(record))
    assert not check(openvino, BrokenCore(None)).passed
    assert runs.count == 2


# Cases


def test_cases_are_of_the_bundles_sizes_and_of_known_faults() -> None:
    cases = set(bundle_cases(RELEASED, VideoShape(512, 512, 24)))
    assert cases >= {
        "queries as heads (8 queries, 8 keys, 8 heads of 40)",
        "queries as heads (8 queries, 8 keys, 8 heads of 40, masked)",
        "queries as heads (8 queries, 9 keys, 8 heads of 40)",
        "products (64 x 512 x 1024 x 3072)",
        "products (64 x 512 x 1024 x 3072, transposed)",
        "motion module (24 queries, 24 keys, 8 heads of 40)",
        "motion module (24 queries, 24 keys, 8 heads of 40, masked)",
        "self-attention (256 queries, 256 keys, 8 heads of 40, masked)",
        "reference attention (512 queries, 256 keys, 8 heads of 40)",
        "audio attention (256 queries, 5 keys, 8 heads of 40)",
        "attention of the VAE (256 queries, 256 keys, 1 heads of 512)",
        "gated product (64 x 640)",
        "convolutions (640 x 640 channels, 16 x 16)",
        "convolutions (4 x 320 channels, 16 x 16)",
    }
    assert {name.split(" queries")[0].split("(")[-1] for name in bundle_cases(MICRO_MODEL, MICRO_SHAPE)} >= {"3"}


@pytest.mark.parametrize(
    ("found", "decibels"),
    [([1, 1], 200.0), ([1.1, 1], 23.0), ([2, 0], 0.0), ([math.nan, 1], None), ([math.inf, 1], None)],
)
def test_signal_to_noise(found: list[float], decibels: float | None) -> None:
    assert signal_to_noise(np.array(found, np.float32), np.ones(2, np.float32)) == decibels


def test_a_reference_of_zeros_has_no_ratio() -> None:
    assert signal_to_noise(np.zeros(2, np.float32), np.zeros(2, np.float32)) is None


def test_an_empty_result_does_not_pass() -> None:
    assert not SelfTest({}).passed


def test_the_description_names_the_worst_three() -> None:
    text = SelfTest({"a": 50.0, "b": 3.25, "c": None, "d": -1.0, "e": 34.9}).describe()
    assert text == (
        "4 of 5 kernels differ from float32; expected 35 dB or more of signal to noise, measured: "
        "c: not finite; d: -1.0 dB; b: 3.2 dB; and 1 more"
    )
