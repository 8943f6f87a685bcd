"""The arithmetic of the CUDA kernels, compiled for the CPU, against the reference implementations in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.kernel_cases import (
    HostArena,
    HostMemory,
    NoStream,
    Step,
    assert_same_bits,
    check_correction,
    check_guided_step,
    check_median,
    check_nv12,
    host_kernels,
    random_picture,
)
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec
from vexpress_rt.diffusion.context_windows import Window, coverage, plan_windows, walk
from vexpress_rt.diffusion.denoiser import Denoiser
from vexpress_rt.diffusion.guidance import Guidance
from vexpress_rt.diffusion.noise_schedule import alphas_cumprod
from vexpress_rt.diffusion.samplers import Sampler, make_sampler
from vexpress_rt.native.device_kernels import Kernels
from vexpress_rt.native.latent_step import SlotUpdate

SEEDS = st.integers(0, 2**32)
ARENA = HostArena()


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return host_kernels()


# The guided step.


@given(
    frames=st.integers(1, 9), values=st.integers(1, 40), seed=SEEDS, guided=st.booleans(), state_size=st.integers(1, 3)
)
def test_guided_step_gives_what_numpy_gives_bit_for_bit(
    kernels: Kernels, frames: int, values: int, seed: int, guided: bool, state_size: int
) -> None:
    step = Step.random(frames=frames, values=values, seed=seed, guided=guided, state_size=state_size)
    check_guided_step(kernels, ARENA, step)


@pytest.mark.parametrize("frames", [63, 64, 65, 129])
def test_windows_of_any_length_are_taken_whole(kernels: Kernels, frames: int) -> None:
    check_guided_step(kernels, ARENA, Step.random(frames=frames, values=5))


def test_first_prediction_replaces_what_a_total_held(kernels: Kernels) -> None:
    step = Step.random(frames=1, values=4)
    step = replace(step, totals=np.full_like(step.totals, np.nan), updates=[SlotUpdate(0, 0, 2)])
    check_guided_step(kernels, ARENA, step)


def test_slots_of_other_frames_stay_as_they_are(kernels: Kernels) -> None:
    step = Step.random(frames=2, values=8, spare_slots=4, state_size=3)
    others = sorted(set(range(6)) - {update.slot for update in step.updates})
    for found, before in zip(step.run(kernels, ARENA), (step.state, step.totals), strict=True):
        assert_same_bits(found[..., others, :], before[..., others, :])


def test_what_is_not_remembered_yet_may_be_anything(kernels: Kernels) -> None:
    step = Step.random(frames=3, values=4, state_size=3)
    step.state[1:] = np.nan
    step = replace(step, updates=[SlotUpdate(slot, 0, 1) for slot in (4, 0, 2)], coefficients=((0.5, 0, 0, 0.25),) * 3)
    check_guided_step(kernels, ARENA, step)
    assert np.isfinite(step.run(kernels, ARENA)[0][:, [4, 0, 2]]).all()


class MixingEngine:
    """Predictions that depend on every latent of the window, so that a wrong one anywhere shows."""

    spec = EngineSpec("denoiser", (TensorSpec("latents", ("F", "c", "h", "w"), (None, 4, 2, 3), "float32"),), ())

    def run(self, inputs: Mapping[str, np.ndarray], *, keep_on_device: bool = False) -> dict[str, np.ndarray]:
        latents = inputs["latents"]
        mixed = np.sin(latents + latents.mean(axis=0)) + np.float32(inputs["timestep"][0] / 1000)
        return {"unconditional": np.cos(mixed), "conditional": mixed}


ALPHA_BARS = alphas_cumprod(1000, 0.00085, 0.012)


def noise(frame: int) -> np.ndarray:
    return np.random.default_rng(frame).standard_normal((4, 2, 3)).astype(np.float32)


def walk_with_kernel(
    kernels: Kernels, windows: tuple[Window, ...], length: int, guidance: Guidance, sampler: Sampler
) -> np.ndarray:
    """Denoise as `Denoiser.run` does, with frame k of the video in slot k and the sums computed by the kernel."""
    slots = max(length, windows[-1].stop)
    state = HostMemory(np.full((sampler.state_size, slots, 24), np.nan, np.float32))
    state.array[0] = np.stack([noise(frame) for frame in range(slots)]).reshape(slots, -1)
    totals = HostMemory(np.full((slots, 24), np.nan, np.float32))
    cover, accumulated, engine = coverage(windows, slots), [0] * slots, MixingEngine()
    for window, step in walk(windows, len(sampler)):
        frames = range(window.start, window.stop)
        stacked = state.array[0, window.start : window.stop].reshape(-1, 4, 2, 3)
        outputs = engine.run({"latents": stacked, "timestep": np.array([sampler.timesteps[step]], np.float32)})
        kernels.guided_step(
            state, totals,
            HostMemory(outputs["unconditional"]) if guidance.scale > 1 else None, HostMemory(outputs["conditional"]),
            values=24, slots=slots,
            updates=[SlotUpdate(frame, accumulated[frame], int(cover[frame])) for frame in frames],
            scale=guidance.scale, coefficients=sampler.coefficients[step], stream=NoStream(),
        )  # fmt: skip
        for frame in frames:
            accumulated[frame] = (accumulated[frame] + 1) % int(cover[frame])
    return state.array[0, :length].reshape(length, 4, 2, 3)


@pytest.mark.parametrize(("length", "frames", "overlap"), [(5, 8, 2), (21, 8, 3), (19, 6, 4)])
@pytest.mark.parametrize("scale", [3.5, 1.0])
@pytest.mark.parametrize("sampler", ["ddim", "dpm++2m", "unipc"])
def test_whole_videos_are_denoised_to_the_same_bits_as_without_the_kernel(
    kernels: Kernels, length: int, frames: int, overlap: int, scale: float, sampler: str
) -> None:
    windows, guidance, made = (
        plan_windows(length, frames, overlap),
        Guidance(scale, 1, 1),
        make_sampler(sampler, 4, ALPHA_BARS),
    )
    engines = dict.fromkeys(guidance.engines(4), MixingEngine())
    denoiser = Denoiser(engines, {}, guidance, made, windows, length, noise, lambda window: {})  # type: ignore[arg-type]
    expected = np.concatenate([latent for _, latent in denoiser.run()])
    assert_same_bits(walk_with_kernel(kernels, windows, length, guidance, made), expected)


# The correction of predictions.


@given(frames=st.integers(1, 9), values=st.integers(1, 40), seed=SEEDS, guided=st.booleans())
def test_corrected_predictions_are_what_numpy_gives_bit_for_bit(
    kernels: Kernels, frames: int, values: int, seed: int, guided: bool
) -> None:
    check_correction(kernels, ARENA, frames=frames, values=values, seed=seed, guided=guided)


@pytest.mark.parametrize("frames", [63, 64, 65, 129])
def test_predictions_of_windows_of_any_length_are_corrected(kernels: Kernels, frames: int) -> None:
    check_correction(kernels, ARENA, frames=frames, values=5)


# The median.


@given(height=st.integers(1, 9), width=st.integers(1, 12), seed=SEEDS, levels=st.sampled_from([2, 5, 256]))
def test_median_gives_what_its_reference_gives(
    kernels: Kernels, height: int, width: int, seed: int, levels: int
) -> None:
    check_median(kernels, ARENA, random_picture(3, height, width, 3, seed=seed, levels=levels))


def test_one_frame_may_be_all_three(kernels: Kernels) -> None:
    frame = HostMemory(random_picture(6, 7, 3))
    out = HostMemory(np.zeros_like(frame.array))
    kernels.median_3x3x3(frame, frame, frame, out, height=6, width=7, stream=NoStream())
    check_median(kernels, ARENA, np.stack([frame.array] * 3))
    assert out.array.any()


# NV12.


@given(rows=st.integers(1, 6), columns=st.integers(1, 8), seed=SEEDS, levels=st.sampled_from([2, 256]))
def test_nv12_gives_what_its_reference_gives(kernels: Kernels, rows: int, columns: int, seed: int, levels: int) -> None:
    picture = random_picture(2 * rows, 2 * columns, 3, seed=seed, levels=levels) * np.uint8(255 // (levels - 1))
    check_nv12(kernels, ARENA, picture)
