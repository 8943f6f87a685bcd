"""Latents out of range are an error that names the cause, before they become a black picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from tests.doubles.fakes import COMPUTE, FakeBackend, FakeDeviceTensor
from tests.support.denoisers import LATENT, calls, make_denoiser, noise, window_inputs
from tests.support.live_sessions import push_all, voice
from tests.support.scenes import FAST, photo, speech
from vexpress_rt.config import WINDOW_ORDERS, GenerationConfig
from vexpress_rt.diffusion.context_windows import Window
from vexpress_rt.diffusion.latent_check import LATENT_LIMIT, check_latents, is_within
from vexpress_rt.diffusion.noise import NOISE_LIMIT, choose_noise
from vexpress_rt.errors import BackendError, InputError
from vexpress_rt.pipeline.generator import Generator

LATENTS = np.zeros((3, *LATENT), np.float32)


@pytest.mark.parametrize(("value", "right"), [(0, True), (9.9, True), (-10, True), (10.1, False), (-11, False)])
def test_numbers_are_within_a_limit_or_not(value: float, right: bool) -> None:
    array = np.zeros((2, 3, 4), np.float32)
    array[1, 2, 3] = value
    assert is_within(array, 10) is right


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_within_no_limit(value: float, dtype: Any) -> None:
    array = np.zeros((2, 3, 4), dtype)
    array[0, 1, 2] = value
    assert not is_within(array)
    assert not is_within(array, LATENT_LIMIT)
    assert is_within(np.empty(0, dtype))


def noise_with(frame: int, value: float) -> Callable[[int], np.ndarray]:
    return lambda asked: np.full(LATENT, value, np.float32) if asked == frame else noise(asked)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38, -2e3])
def test_noise_out_of_range_is_named_by_its_frame(value: float) -> None:
    latents = LATENTS.copy()
    latents[1] = np.nan
    with pytest.raises(BackendError, match=r"latents of frame 6 hold NaN \(16 of 16 .*: the noise of frame 7 holds"):
        check_latents(latents, 5, {}, noise_with(7, value), range(4, 9))


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("audio_tokens", "audio_projection"),
        ("pose_feature", "pose_guider or depth_guider"),
        ("reference_key/mid_block.attentions.0", "reference_net"),
    ],
)
@pytest.mark.parametrize("kept", [np.asarray, FakeDeviceTensor], ids=["host", "device"])
def test_the_engine_that_returned_non_finite_values_is_named(
    name: str, engine: str, kept: Callable[[Any], Any]
) -> None:
    inputs = {"audio_tokens": np.zeros(2, np.float32), "pose_feature": np.zeros(2, np.float32), name: None}
    wrong = kept(np.array([0, np.inf], np.float16))
    with pytest.raises(
        BackendError, match=rf"engine {engine} returned {name} with values up to inf; its weights .* again"
    ):
        check_latents(LATENTS + np.float32(1e30), 0, {**inputs, name: wrong}, noise, range(3))


def test_without_another_cause_the_denoiser_is_named() -> None:
    with pytest.raises(
        BackendError, match=r"hold values up to 2e\+04; expected at most 10000: all inputs of the denoiser"
    ):
        check_latents(LATENTS - np.float32(2e4), 0, window_inputs(Window(0, 0, 3)), noise, range(3))


def test_latents_of_any_trained_model_pass() -> None:
    check_latents(LATENTS + np.float32(500), 0, {}, noise, range(3))


@pytest.mark.parametrize("window_order", WINDOW_ORDERS)
@pytest.mark.parametrize("frame", [0, 7, 12])
def test_a_window_with_latents_out_of_range_gives_no_frame(frame: int, window_order: str) -> None:
    given: list[int] = []
    video = make_denoiser(13, 5, 1, 3, noise=noise_with(frame, np.nan)).run(window_order)
    with pytest.raises(BackendError, match=rf"the noise of frame {frame} holds NaN"):
        given.extend(number for number, _ in video)
    assert given == list(range(len(given)))
    assert len(given) <= frame


def test_a_window_out_of_range_is_an_error_in_its_last_step() -> None:
    """The check needs no further call of an engine."""

    def conditions(window: Window) -> dict[str, np.ndarray]:
        return {
            name: array * (np.nan if name == "pose_feature" else 1) for name, array in window_inputs(window).items()
        }

    denoiser = make_denoiser(5, 5, 0, 3, conditions=conditions)
    with pytest.raises(BackendError, match="engine pose_guider or depth_guider returned pose_feature with NaN"):
        list(denoiser.run())
    assert len(calls(denoiser)) == 3


# From a photo to a video


def break_engine(backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make an engine return NaN, as with NaN weights."""
    right = COMPUTE[name]

    def wrong(spec: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {key: np.full_like(array, np.nan) for key, array in right(spec, inputs).items()}

    monkeypatch.setitem(COMPUTE, name, wrong)


# The outputs of the other engines hide NaN; test_weight_check.py covers their weights.
ENGINES = ["vae_encoder", "reference_net", "audio_encoder", "audio_projection", "pose_guider"]


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
def test_a_video_of_an_engine_with_damaged_weights_is_an_error_that_names_it(
    generator: Generator, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, name: str, on_device: bool
) -> None:
    backend.on_device = on_device
    break_engine(backend, monkeypatch, name)
    # Outputs on a device are checked as the denoiser's inputs.
    of_device = {"vae_encoder": "reference_net", "pose_guider": "pose_guider or depth_guider"}
    blamed = of_device.get(name, name) if on_device else name
    with pytest.raises(
        BackendError, match=rf"engine {blamed} returned .* NaN .*build the bundle again, with --precision"
    ):
        generator.generate(photo(), speech(0.3), config=FAST)


@pytest.mark.parametrize("scale", [1.0, 3.5])
def test_a_video_of_a_denoiser_with_damaged_weights_is_an_error(
    generator: Generator, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    break_engine(backend, monkeypatch, "denoiser" if scale > 1 else "denoiser_cond")
    with pytest.raises(BackendError, match=r"latents of frame 0 hold NaN .* all inputs of the denoiser are finite"):
        generator.generate(photo(), speech(0.3), config=GenerationConfig(steps=2, overlap=2, guidance_scale=scale))


@pytest.mark.parametrize("name", ["audio_encoder", "audio_projection", "pose_guider", "denoiser"])
def test_a_live_session_with_damaged_weights_is_an_error(
    generator: Generator, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    portrait = generator.prepare(photo())
    break_engine(backend, monkeypatch, name)
    with (
        pytest.raises(
            BackendError,
            match=rf"(engine {name} returned|all inputs of the denoiser are finite,) .*its weights are damaged",
        ),
        generator.live(portrait, config=FAST) as session,
    ):
        push_all(session, [voice(2.0)])


@pytest.mark.parametrize("value", [1e38, -1e38, 1.1e3, np.nan, np.inf])
def test_noise_out_of_range_is_refused(value: float) -> None:
    given = np.zeros((1, 4, 3, 2, 2), np.float32)
    given[0, 1, 2, 0, 1] = value
    with pytest.raises(InputError, match=r"noise holds .*expected .*standard normal"):
        choose_noise(given, 0, 3, 3, (4, 2, 2), 0)


def test_noise_may_be_scaled_as_samplers_scale_it() -> None:
    given = np.full((1, 4, 3, 2, 2), NOISE_LIMIT, np.float32)
    assert choose_noise(given, 0, 3, 3, (4, 2, 2), 0)(1).max() == NOISE_LIMIT
