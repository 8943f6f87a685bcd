"""Figures of the GPU check: differences between results, times, facts about the machine."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu import kernels, machine
from benchmarks.gpu.compare import psnr, worst_frame
from benchmarks.gpu.measure import measure, summary
from benchmarks.gpu.scene import draw_scene
from export.build.parity import relative_error
from tests.doubles.fake_cuda import FakeCuda, installed
from tests.support.device_cases import CASES, DeviceArena
from tests.support.kernel_cases import HostArena, host_kernels

# Distances.


def test_psnr_of_equal_pictures_is_infinite() -> None:
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert psnr(picture, picture) == math.inf


@pytest.mark.parametrize(("difference", "decibels"), [(1, 48.1308), (5, 34.1514), (255, 0.0)])
def test_psnr_of_a_constant_difference_is_known(difference: int, decibels: float) -> None:
    black = np.zeros((2, 8, 8, 3), np.uint8)
    assert psnr(black + np.uint8(difference), black) == pytest.approx(decibels, abs=1e-3)
    assert psnr(black, black + np.uint8(difference)) == pytest.approx(decibels, abs=1e-3)


def test_psnr_counts_how_many_values_differ() -> None:
    one = np.zeros((10, 10), np.uint8)
    other = one.copy()
    other[0, 0] = 100
    assert psnr(one, other) == pytest.approx(10 * math.log10(255**2 / (100**2 / 100)))


def test_psnr_takes_bytes_of_one_shape_alone() -> None:
    picture = np.zeros((4, 4), np.uint8)
    for wrong in (picture.astype(np.float32), picture[:2]):
        with pytest.raises(ValueError, match="expected uint8 of one shape"):
            psnr(picture, wrong)


def test_the_worst_frame_of_a_clip_is_found() -> None:
    clip = np.zeros((3, 4, 4, 3), np.uint8)
    other = clip.copy()
    other[1] += 5
    other[2] += 1
    assert worst_frame(clip, other) == pytest.approx(34.1514, abs=1e-3)


def test_relative_error_is_the_largest_difference_over_the_largest_value() -> None:
    expected = np.array([1.0, -4.0, 2.0], np.float32)
    assert relative_error(expected + np.float32([0, 0.5, -1]), expected) == pytest.approx(0.25)
    assert relative_error(np.array([1, math.nan, 2], np.float32), expected) == math.inf


# Times.


def test_a_summary_has_median_quartiles_extremes_and_spread() -> None:
    assert summary([4.0, 1.0, 2.0, 3.0, 10.0]) == {
        "median": 3.0, "low_quartile": 2.0, "high_quartile": 4.0, "least": 1.0, "most": 10.0,
        "spread": pytest.approx(1 / 3), "count": 5,
    }  # fmt: skip


def test_a_median_lies_between_two_of_an_even_number() -> None:
    assert summary([1.0, 2.0])["median"] == 1.5


def test_warm_up_is_not_counted() -> None:
    calls: list[int] = []
    samples = measure(lambda: calls.append(0), warmup=4, seconds=0, least=3)
    assert (len(samples), len(calls)) == (3, 7)
    assert all(sample >= 0 for sample in samples)


def test_what_is_quick_is_repeated_until_the_time_or_the_number_is_reached() -> None:
    assert len(measure(lambda: None, seconds=60, most=11)) == 11
    assert len(measure(lambda: None, seconds=0, least=2, warmup=0)) == 2


# The kernels.


def test_kernels_that_agree_with_their_references_are_called_equal() -> None:
    some = {name: case for name, case in CASES.items() if "65536" not in name}
    found = kernels.run_cases(host_kernels(), lambda stack: HostArena(), some)
    assert set(found["cases"].values()) == {"equal"}
    assert len(found["cases"]) == len(some)


def test_a_kernel_that_differs_is_named_with_what_it_gave() -> None:
    def differing(*given: object) -> None:
        raise AssertionError("Mismatched elements: 1 / 3")

    found = kernels.run_cases(
        host_kernels(), lambda stack: HostArena(), {"one": differing, "other": lambda *given: None}
    )
    assert found == {"cases": {"one": "Mismatched elements: 1 / 3", "other": "equal"}}


def test_kernels_are_timed_until_they_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "PIXELS", 16)
    monkeypatch.setattr(kernels, "LATENT", 64)
    waits: list[int] = []
    times = kernels.time_kernels(host_kernels(), HostArena(), lambda: waits.append(0))
    assert set(times) == {"guided_step", "correct_predictions", "median_3x3x3", "rgb_to_nv12"}
    assert len(waits) == sum(result["count"] + 3 for result in times.values())


# The GPU and its machine.


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    yield from installed(monkeypatch, 1 << 20)


def test_arrays_go_to_the_gpu_and_come_back(cuda: FakeCuda) -> None:
    from contextlib import ExitStack

    array = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    with ExitStack() as stack:
        arena = DeviceArena(stack)
        np.testing.assert_array_equal(arena.get(arena.put(array), array), array)


def describe() -> dict[str, object]:
    return machine.describe({"commit": "abc"}, lambda figures: None)


def test_a_machine_without_a_gpu_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vexpress_rt.backends.cuda.runtime._runtime", FakeCuda(gpus=0))
    found = describe()
    assert found["gpu"] is None
    assert "there is none" in str(found["no_gpu"])
    assert machine.file_stem({**found, "cpu": "AMD EPYC 9B14 (x)"}) == "no-gpu-amd-epyc-9b14-x"


def test_a_machine_is_described_with_its_processor_memory_and_libraries() -> None:
    found = describe()
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert int(str(found["memory_bytes"])) > 1 << 28
    assert found["commit"] == "abc"
    assert set(machine.versions()) >= {"python", "vexpress_rt", "numpy", "onnxruntime", "torch", "cuda-python"}


def test_a_gpu_is_described_with_capability_memory_driver_and_the_state_it_is_found_in(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\necho "NVIDIA Fake, 580.1, 80 GiB, 1 GiB, 700 W"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("vexpress_rt.backends.cuda.runtime.driver_version", lambda: "13.2")
    gpu = describe()["gpu"]
    assert isinstance(gpu, dict)
    assert (gpu["name"], gpu["capability"], gpu["memory_bytes"]) == ("Fake GPU", "9.0", 1 << 20)
    assert gpu["driver"].startswith("CUDA 13.2")
    assert gpu["state"]["driver_version"] == "580.1"
    assert gpu["state"]["power.limit"] == "700 W"


def test_a_checkout_that_git_does_not_know_has_an_unknown_commit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert machine.describe({"commit": ""}, lambda figures: None)["commit"] == "unknown"


# The scene.


@pytest.mark.parametrize(("window", "windows", "frames"), [(24, 2, 44), (24, 1, 24), (8, 2, 14), (3, 2, 6)])
def test_a_scene_is_as_long_as_its_windows(window: int, windows: int, frames: int) -> None:
    scene = draw_scene(32, 48, window, windows)
    assert scene.frames == frames
    assert math.ceil(len(scene.speech) / 16000 * 30) == frames
    assert scene.photo.shape == (32, 48, 3)
    assert len(np.unique(scene.photo)) > 50
    assert (scene.keypoints >= 0).all()
    assert (scene.keypoints < [48, 32]).all()
    assert np.ptp(scene.keypoints, axis=0).min() > 0 or frames < 2
