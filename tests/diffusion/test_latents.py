"""Where the latents of frames in flight lie, on the host and, by the kernels, on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.denoisers import make_denoiser, plans, window_inputs
from vexpress_rt.diffusion.context_windows import Window, coverage, final_frames, plan_windows, walk
from vexpress_rt.diffusion.latents import HostLatents, LatentRing
from vexpress_rt.errors import BackendError
from vexpress_rt.native.latent_step import SlotUpdate

WINDOW_ORDERS = st.sampled_from(["wavefront", "step_major"])
LATENT = (4, 2, 3)


@given(plan=plans(), steps=st.integers(1, 6), window_order=WINDOW_ORDERS)
def test_no_two_frames_in_flight_share_a_slot_and_none_lies_empty(
    plan: tuple[int, int, int], steps: int, window_order: str
) -> None:
    windows = plan_windows(*plan)
    ring = LatentRing(windows, steps, window_order)
    final, in_flight, most = final_frames(windows, windows[-1].stop), set[int](), 0
    for window, step in walk(windows, steps, window_order):
        in_flight |= set(range(window.start, window.stop)) if step == 0 else set()
        slots = {ring.slot(frame) for frame in in_flight}
        assert len(slots) == len(in_flight)
        assert slots <= set(range(ring.slots))
        most = max(most, len(slots))
        in_flight -= set(final[window.index]) if step == steps - 1 else set()
    assert most == ring.slots


@given(plan=plans(), steps=st.integers(1, 6), window_order=WINDOW_ORDERS)
def test_a_window_lies_in_one_piece_or_two(plan: tuple[int, int, int], steps: int, window_order: str) -> None:
    windows = plan_windows(*plan)
    ring = LatentRing(windows, steps, window_order)
    for window in windows:
        frames, slots = np.arange(window.start, window.stop), np.arange(ring.slots)
        pieces = list(ring.pieces(window.start, window.stop))
        assert 1 <= len(pieces) <= 2
        np.testing.assert_array_equal(np.concatenate([frames[part] for part, _ in pieces]), frames)
        lying = np.concatenate([slots[part] for _, part in pieces]).tolist()
        assert lying == [ring.slot(frame) for frame in frames.tolist()]


@given(plan=plans(), steps=st.integers(1, 4), window_order=WINDOW_ORDERS)
def test_in_each_step_a_frame_hears_its_windows_one_by_one(
    plan: tuple[int, int, int], steps: int, window_order: str
) -> None:
    windows = plan_windows(*plan)
    ring, cover = LatentRing(windows, steps, window_order), coverage(windows, windows[-1].stop)
    accumulated = np.zeros_like(cover)
    for window, _ in walk(windows, steps, window_order):
        expected = [
            SlotUpdate(ring.slot(frame), int(accumulated[frame] % cover[frame]), int(cover[frame]))
            for frame in range(window.start, window.stop)
        ]
        assert ring.updates(window) == expected
        accumulated[window.start : window.stop] += 1
    np.testing.assert_array_equal(accumulated, steps * cover)


def test_slots_of_a_wavefront_are_those_of_about_as_many_windows_as_steps() -> None:
    for length in (1000, 3000):
        ring = LatentRing(plan_windows(length, 24, 4), 25)
        assert 24 + 23 * 20 <= ring.slots <= 24 + 26 * 20


def test_what_is_gathered_is_what_began_also_around_the_end_of_the_slots() -> None:
    windows = (Window(0, 0, 4), Window(1, 4, 8), Window(2, 8, 10))
    ring = LatentRing(windows, 1)
    assert ring.slots == 4
    latents = HostLatents(ring, LATENT)
    noise = np.random.default_rng(0).standard_normal((6, *LATENT)).astype(np.float32)
    latents.write(3, noise[:4])
    np.testing.assert_array_equal(latents.gather(Window(1, 3, 7)), noise[:4])
    np.testing.assert_array_equal(latents.take(5), noise[2:3])


def test_gathered_and_taken_latents_are_the_callers_own() -> None:
    window = Window(0, 0, 2)
    latents = HostLatents(LatentRing((window,), 1), LATENT)
    latents.write(0, np.ones((2, *LATENT), np.float32))
    latents.gather(window)[:] = 7
    latents.take(1)[:] = 7
    np.testing.assert_array_equal(latents.gather(window), 1)


@pytest.mark.parametrize("ending", ["end", "close", "failure"])
def test_latents_are_freed_however_a_run_ends(ending: str) -> None:
    freed = []

    class Watched(HostLatents):
        def close(self) -> None:
            freed.append(ending)

    def conditions(window: Window) -> Mapping[str, Any]:
        if window.index == 2 and ending == "failure":
            raise BackendError("memory ran out")
        return window_inputs(window)

    frames = make_denoiser(length=12, frames=4, overlap=1, steps=2, conditions=conditions, latents=Watched).run()
    next(frames)
    assert freed == []
    if ending == "close":
        frames.close()  # type: ignore[attr-defined]
    with contextlib.suppress(BackendError):
        list(frames)
    assert freed == [ending]
