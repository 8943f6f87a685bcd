"""The C++ median against its reference implementation, SciPy and the goldens, and how the one that runs is chosen."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
import time
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import median_filter as scipy_median_filter

import vexpress_rt
from tests.support.paths import GOLDEN
from vexpress_rt import native
from vexpress_rt.errors import BackendMissingError, ConfigError, InputError
from vexpress_rt.native import median as reference

PACKAGE = "vexpress_rt.native"
UInt8 = NDArray[np.uint8]


def fresh_import(patch: pytest.MonkeyPatch, switch: str) -> ModuleType:
    """Import the package again under a value of the switch; `patch` restores the imported one."""
    patch.setenv("VEXPRESS_RT_NATIVE", switch)
    patch.delitem(sys.modules, PACKAGE)
    patch.setattr(vexpress_rt, "native", native)
    return importlib.import_module(PACKAGE)


@pytest.fixture(scope="module")
def compiled() -> ModuleType:
    """The package with its C++ kernels, whatever the environment sets."""
    with pytest.MonkeyPatch.context() as patch:
        return fresh_import(patch, "1")


def random_frames(*shape: int, seed: int = 0, levels: int = 256) -> UInt8:
    return np.random.default_rng(seed).integers(0, levels, shape, dtype=np.uint8)


def scipy_median(frames: UInt8) -> UInt8:
    return scipy_median_filter(frames, size=(3, 3, 3, 1), mode="mirror")


clips = st.builds(
    random_frames,
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 40),
    st.just(3),
    seed=st.integers(0, 2**32),
    levels=st.sampled_from([2, 5, 256]),
)


@given(clip=clips)
def test_cpp_gives_what_its_numpy_reference_gives(compiled: ModuleType, clip: UInt8) -> None:
    np.testing.assert_array_equal(compiled.median_filter(clip), native.median_filter_numpy(clip))


@given(clip=clips)
def test_numpy_reference_gives_what_scipy_gives(clip: UInt8) -> None:
    np.testing.assert_array_equal(native.median_filter_numpy(clip), scipy_median(clip))


@given(triple=clips.filter(lambda clip: len(clip) >= 3))
def test_frame_by_frame_gives_what_the_whole_clip_gives(compiled: ModuleType, triple: UInt8) -> None:
    np.testing.assert_array_equal(compiled.median_3x3x3(*triple[:3]), scipy_median(triple[:3])[1])


@pytest.mark.parametrize("name", ["tiny_square", "tiny_wide"])
def test_golden_frames_are_reproduced_exactly(compiled: ModuleType, name: str) -> None:
    with np.load(GOLDEN / f"{name}.npz") as golden:
        truncated = (golden["frames_float"] * 255).astype(np.uint8)
        np.testing.assert_array_equal(compiled.median_filter(truncated), golden["frames_median_uint8"])
        np.testing.assert_array_equal(native.median_filter_numpy(truncated), golden["frames_median_uint8"])


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 1024])
def test_number_of_threads_changes_nothing(compiled: ModuleType, threads: int) -> None:
    triple = random_frames(3, 130, 601, 3)
    np.testing.assert_array_equal(
        compiled.median_3x3x3(*triple, threads=threads), native.median_3x3x3_numpy(*triple), strict=True
    )


def test_numpy_reference_is_right_across_its_bands_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = random_frames(3, 23, 10, 3)
    monkeypatch.setattr(reference, "_BAND_VALUES", 4 * 10 * 3)
    np.testing.assert_array_equal(native.median_filter_numpy(clip), scipy_median(clip))


def test_views_with_gaps_and_read_only_frames_are_taken_as_they_are(compiled: ModuleType) -> None:
    clip = random_frames(4, 20, 30, 3)
    clip.flags.writeable = False
    view = clip[:, ::2, ::-3, ::-1]
    np.testing.assert_array_equal(compiled.median_filter(view), scipy_median(view))


def test_frames_passed_in_stay_as_they_were(compiled: ModuleType) -> None:
    clip = random_frames(3, 20, 30, 3)
    before = clip.copy()
    compiled.median_filter(clip)
    np.testing.assert_array_equal(clip, before)


def test_other_python_threads_go_on_meanwhile(compiled: ModuleType) -> None:
    frame = np.zeros((2000, 2000, 3), np.uint8)
    computing, ended = False, threading.Event()
    went_on: list[int] = []

    def go_on() -> None:
        while not ended.is_set():
            time.sleep(0.001)
            if computing:
                went_on.append(1)

    thread, interval = threading.Thread(target=go_on), sys.getswitchinterval()
    thread.start()
    sys.setswitchinterval(1000)  # seconds: the interpreter itself takes no turns, so that only the call lets others run
    try:
        computing = True
        calls = 0
        while not went_on and calls < 1000:
            compiled.median_3x3x3(frame, frame, frame, threads=1)
            calls += 1
        computing = False
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        thread.join()
    assert went_on


GOOD = random_frames(4, 5, 3)


@pytest.mark.parametrize("implementation", ["compiled", "reference"])
@pytest.mark.parametrize(
    ("frames", "complaint"),
    [
        pytest.param((GOOD, GOOD.astype(np.float32), GOOD), r"current has shape .* float32.*cast", id="dtype"),
        pytest.param((GOOD[..., 0], GOOD, GOOD), r"previous has shape \(4, 5\)", id="two-dims"),
        pytest.param((GOOD, GOOD, GOOD[..., :2]), r"following has shape \(4, 5, 2\)", id="two-colours"),
        pytest.param((GOOD, GOOD[:3], GOOD), r"\(4, 5, 3\), \(3, 5, 3\) and \(4, 5, 3\)", id="other-size"),
        pytest.param((GOOD[:0], GOOD[:0], GOOD[:0]), "no dim of size 0", id="empty"),
        pytest.param((GOOD, GOOD.tolist(), GOOD), "current is of type list", id="list"),
    ],
)
def test_unusable_frames_are_refused(
    compiled: ModuleType, implementation: str, frames: tuple[UInt8, ...], complaint: str
) -> None:
    median = compiled.median_3x3x3 if implementation == "compiled" else native.median_3x3x3_numpy
    with pytest.raises(InputError, match=complaint):
        median(*frames)


@pytest.mark.parametrize("clip", [GOOD, GOOD[None].astype(np.int16), GOOD[None][:0]], ids=["frame", "int16", "empty"])
def test_unusable_clips_are_refused(compiled: ModuleType, clip: UInt8) -> None:
    with pytest.raises(InputError, match=r"frames has shape .* expected a NumPy array \(L, H, W, 3\) uint8"):
        compiled.median_filter(clip)


@pytest.mark.parametrize("threads", [0, -1, 1025, 2.0, True])
def test_impossible_numbers_of_threads_are_refused(threads: object) -> None:
    with pytest.raises(ConfigError, match="at least 1 and at most 1024"):
        native.median_3x3x3(GOOD, GOOD, GOOD, threads=threads)


def test_cpp_called_past_the_checks_guards_its_memory(compiled: ModuleType) -> None:
    extension = importlib.import_module(f"{PACKAGE}._native")
    with pytest.raises(ValueError, match="different sizes"):
        extension.median_3x3x3(GOOD, GOOD[:3], GOOD, out=GOOD.copy(), threads=1)


def test_backend_is_native_unless_the_environment_forces_numpy() -> None:
    assert native.backend == ("numpy" if os.environ.get("VEXPRESS_RT_NATIVE") == "0" else "native")


def test_switch_0_forces_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    module = fresh_import(monkeypatch, "0")
    clip = random_frames(3, 8, 8, 3)
    assert module.backend == "numpy"
    np.testing.assert_array_equal(module.median_filter(clip), scipy_median(clip))


def test_numpy_runs_where_the_extension_was_never_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert fresh_import(monkeypatch, "").backend == "numpy"


def test_extension_that_was_never_built_is_an_error_with_switch_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, f"{PACKAGE}._native", None)
    with pytest.raises(BackendMissingError, match="VEXPRESS_RT_NATIVE=0"):
        fresh_import(monkeypatch, "1")


def test_extension_that_does_not_load_is_an_error_rather_than_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, f"{PACKAGE}._native", None)
    with pytest.raises(BackendMissingError, match="does not load"):
        fresh_import(monkeypatch, "")


def test_other_values_of_the_switch_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="VEXPRESS_RT_NATIVE is 'yes'"):
        fresh_import(monkeypatch, "yes")


def test_cpp_gives_what_scipy_gives_on_a_picture_of_many_rows(compiled: ModuleType) -> None:
    """The speed at this size is measured in benchmarks/suites/test_native.py."""
    clip = random_frames(4, 128, 128, 3)
    np.testing.assert_array_equal(compiled.median_filter(clip), scipy_median(clip))
