"""Windows: every frame covered, two orders that respect the same dependencies, memory bounded by the steps."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexpress_rt.diffusion.context_windows import Window, coverage, final_frames, plan_windows, walk
from vexpress_rt.errors import ConfigError


@st.composite
def plans(draw: st.DrawFn) -> tuple[tuple[Window, ...], int, int, int]:
    """(windows, length, frames, overlap) with at most a few dozen windows."""
    frames = draw(st.integers(1, 24))
    overlap = draw(st.integers(0, frames - 1))
    length = draw(st.integers(1, frames + 30 * (frames - overlap)))
    return plan_windows(length, frames, overlap), length, frames, overlap


def uniform_reach(frames: int, overlap: int) -> int:
    """How many later windows a window overlaps when none is moved back."""
    return math.ceil(frames / (frames - overlap)) - 1


def spans(windows: tuple[Window, ...]) -> list[tuple[int, int]]:
    return [(window.start, window.stop) for window in windows]


def test_windows_that_fit_exactly_are_evenly_spaced() -> None:
    assert spans(plan_windows(64, 24, 4)) == [(0, 24), (20, 44), (40, 64)]


def test_the_last_window_is_moved_back_to_end_at_the_last_frame() -> None:
    assert spans(plan_windows(50, 24, 4)) == [(0, 24), (20, 44), (26, 50)]


def test_one_frame_too_many_for_a_window_takes_a_second_one() -> None:
    assert spans(plan_windows(25, 24, 4)) == [(0, 24), (1, 25)]


@pytest.mark.parametrize("length", [1, 23, 24])
def test_a_video_that_fits_one_window_takes_one_whole_window(length: int) -> None:
    assert spans(plan_windows(length, 24, 4)) == [(0, 24)]


@pytest.mark.parametrize(("length", "frames", "overlap"), [(0, 24, 4), (10, 24, 24), (10, 24, -1), (10, 0, 0)])
def test_impossible_plans_are_refused(length: int, frames: int, overlap: int) -> None:
    with pytest.raises(ConfigError, match=f"windows of {frames} frames with an overlap of {overlap}"):
        plan_windows(length, frames, overlap)


@given(plans())
def test_windows_are_distinct_in_order_and_overlap_by_at_least_what_was_asked(
    plan: tuple[tuple[Window, ...], int, int, int],
) -> None:
    windows, length, frames, overlap = plan
    assert [window.index for window in windows] == list(range(len(windows)))
    assert all(window.stop - window.start == frames for window in windows)
    for before, after in pairwise(windows):
        assert before.start < after.start <= before.stop - overlap
    assert windows[-1].stop == max(length, frames)


@given(plans())
def test_coverage_counts_the_windows_over_each_frame(plan: tuple[tuple[Window, ...], int, int, int]) -> None:
    windows, length, _, _ = plan
    counted = [sum(window.start <= frame < window.stop for window in windows) for frame in range(length)]
    assert coverage(windows, length).tolist() == counted
    assert min(counted) >= 1


@given(plans(), st.integers(1, 6), st.sampled_from(["wavefront", "step_major"]))
def test_every_window_takes_every_step_once(
    plan: tuple[tuple[Window, ...], int, int, int], steps: int, window_order: str
) -> None:
    windows = plan[0]
    order = [(window.index, step) for window, step in walk(windows, steps, window_order)]
    assert sorted(order) == [(window.index, step) for window in windows for step in range(steps)]


@given(plans(), st.integers(1, 6), st.sampled_from(["wavefront", "step_major"]))
def test_a_window_takes_a_step_when_all_over_its_frames_took_the_one_before(
    plan: tuple[tuple[Window, ...], int, int, int], steps: int, window_order: str
) -> None:
    windows = plan[0]
    done = [0] * len(windows)
    for window, step in walk(windows, steps, window_order):
        for other in windows:
            if other.start < window.stop and window.start < other.stop and other != window:
                assert done[other.index] >= step + (other.index < window.index)
        done[window.index] += 1


def denoise(plan: tuple[tuple[Window, ...], int, int, int], steps: int, window_order: str) -> np.ndarray:
    """A toy denoiser in float32 whose predictions depend on every frame of the window."""
    windows, _, frames, _ = plan
    padded = windows[-1].stop
    x = np.random.default_rng(padded + frames).standard_normal(padded).astype(np.float32)
    share = (1 / np.maximum(coverage(windows, padded), 1)).astype(np.float32)
    total, arrived = np.zeros_like(x), np.zeros(padded, np.int64)
    for window, step in walk(windows, steps, window_order):
        span = slice(window.start, window.stop)
        total[span] += share[span] * np.cumsum(np.sin(x[span] + step)).astype(np.float32)
        arrived[span] += 1
        complete = arrived == coverage(windows, padded)
        x[complete] = np.float32(0.9) * x[complete] - np.float32(0.1) * total[complete]
        total[complete], arrived[complete] = 0, 0
    return x


@given(plans(), st.integers(1, 5))
def test_both_orders_give_the_same_bits(plan: tuple[tuple[Window, ...], int, int, int], steps: int) -> None:
    assert np.array_equal(denoise(plan, steps, "wavefront"), denoise(plan, steps, "step_major"))


@given(plans(), st.sampled_from(["wavefront", "step_major"]), st.integers(1, 5))
def test_frames_become_final_once_and_in_order(
    plan: tuple[tuple[Window, ...], int, int, int], window_order: str, steps: int
) -> None:
    windows, length, _, _ = plan
    released: list[int] = []
    took_last_step: set[int] = set()
    for window, step in walk(windows, steps, window_order):
        if step == steps - 1:
            took_last_step.add(window.index)
            now = final_frames(windows, length)[window.index]
            assert all(other.index in took_last_step for f in now for other in windows if other.start <= f < other.stop)
            released.extend(now)
    assert released == list(range(length))


def alive(windows: tuple[Window, ...], steps: int) -> list[int]:
    """Windows begun and not ended, after each visit of the wavefront (a window counts during its last step)."""
    begun, ended, counts = 0, 0, []
    for _, step in walk(windows, steps, "wavefront"):
        begun += step == 0
        counts.append(begun - ended)
        ended += step == steps - 1
    return counts


@given(plans(), st.integers(1, 8))
def test_windows_in_flight_are_bounded_by_the_steps(plan: tuple[tuple[Window, ...], int, int, int], steps: int) -> None:
    windows, _, frames, overlap = plan
    bound = uniform_reach(frames, overlap) * (steps - 1) + 1
    assert max(alive(windows, steps)) <= bound + (steps > 1)


@given(st.integers(2, 24), st.data(), st.integers(1, 8), st.integers(1, 40))
def test_at_most_as_many_windows_as_steps_are_in_flight_when_none_is_moved_back(
    frames: int, data: st.DataObject, steps: int, count: int
) -> None:
    overlap = data.draw(st.integers(0, frames // 2))
    length = frames + (count - 1) * (frames - overlap)
    assert max(alive(plan_windows(length, frames, overlap), steps)) <= steps


def test_a_long_video_of_the_released_setting_keeps_one_window_a_step_in_flight() -> None:
    windows = plan_windows(18_000, 24, 4)
    assert len(windows) == 900
    assert max(alive(windows, 25)) == 25


def test_the_first_frame_of_a_minute_takes_a_fifteenth_of_the_steps_of_step_major_order() -> None:
    """As released, 30 frames a second and 8 steps; the median of the first takes the second, of the same window."""
    windows = plan_windows(1800, 24, 4)
    wavefront, step_major = (
        next(done for done, entry in enumerate(walk(windows, 8, order), 1) if entry == (windows[0], 7))
        for order in ("wavefront", "step_major")
    )
    assert wavefront == 36
    assert step_major == 7 * len(windows) + 1 > 15 * wavefront


def cone(windows: tuple[Window, ...], steps: int, frames: range) -> set[tuple[int, int]]:
    """The window-steps that the latents of some frames depend on, by definition: found by search, not by a formula."""
    found: set[tuple[int, int]] = set()
    pending = [(w.index, steps - 1) for w in windows if w.start < frames.stop and frames.start < w.stop]
    while pending:
        index, step = pending.pop()
        if step < 0 or (index, step) in found:
            continue
        found.add((index, step))
        window = windows[index]
        pending += [(w.index, step - 1) for w in windows if w.start < window.stop and window.start < w.stop]
    return found


@given(plans(), st.integers(1, 8))
def test_no_order_gives_a_frame_earlier_than_the_wavefront(
    plan: tuple[tuple[Window, ...], int, int, int], steps: int
) -> None:
    """Before frames 0 to k are final, the wavefront runs the window-steps that they depend on, and no others."""
    windows, length, _, _ = plan
    final, ran = final_frames(windows, length), set()
    for window, step in walk(windows, steps):
        ran.add((window.index, step))
        if step == steps - 1 and final[window.index]:
            assert ran == cone(windows, steps, range(final[window.index].stop))


@given(plans(), st.integers(1, 8))
def test_the_window_steps_before_the_first_frame_are_those_of_the_formula_in_the_documentation(
    plan: tuple[tuple[Window, ...], int, int, int], steps: int
) -> None:
    windows, _, frames, overlap = plan
    later = uniform_reach(frames, overlap)
    formula = sum(min(len(windows), later * step + 1) for step in range(steps))
    first = next(done for done, entry in enumerate(walk(windows, steps), 1) if entry == (windows[0], steps - 1))
    moved_back = windows[-1].stop - windows[-2].stop < frames - overlap if len(windows) > 1 else False
    assert formula <= first <= formula + (steps if moved_back else 0)


def test_the_wavefront_follows_each_new_window_back_through_the_steps() -> None:
    order = [(window.index, step) for window, step in walk(plan_windows(24 + 4 * 20, 24, 4), 3)]
    assert order[:9] == [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2)]


def test_without_overlap_each_window_ends_before_the_next_begins() -> None:
    order = [(window.index, step) for window, step in walk(plan_windows(24, 8, 0), 2)]
    assert order == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]


@given(plans(), st.integers(1, 5))
def test_a_window_ends_before_any_that_it_does_not_depend_on_begins(
    plan: tuple[tuple[Window, ...], int, int, int], steps: int
) -> None:
    windows = plan[0]
    begun = 0
    for window, step in walk(windows, steps):
        begun = max(begun, window.index)
        if step == steps - 1:
            furthest = window.index  # each step backwards needs what reaches one overlap further
            for _ in range(steps - 1):
                furthest = max(other.index for other in windows if other.start < windows[furthest].stop)
            assert begun == furthest


def test_step_major_order_takes_each_step_over_all_windows() -> None:
    order = [(window.index, step) for window, step in walk(plan_windows(40, 24, 4), 2, "step_major")]
    assert order == [(0, 0), (1, 0), (0, 1), (1, 1)]


def test_an_unknown_window_order_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="window_order is 'depth'; expected one of wavefront, step_major"):
        walk(plan_windows(40, 24, 4), 2, "depth")


def test_a_walk_of_no_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match="steps is 0; expected at least 1"):
        walk(plan_windows(40, 24, 4), 0)
