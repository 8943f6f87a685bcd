"""Conditions of the denoiser: the inputs of the engines, and the padding of windows beyond the video."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from tests.doubles.fakes import FakeEngine, fake_specs
from tests.support.factories import model_config
from vexpress_rt.bundle.engine_spec import EngineSpec, VideoShape
from vexpress_rt.diffusion.context_windows import Window, plan_windows
from vexpress_rt.stages.conditioning import WindowConditions, encode_audio, encode_portrait
from vexpress_rt.stages.spatial import SpatialFeatures, SpatialSignal

SPECS = fake_specs(model_config(), VideoShape(64, 64, 4))
Arrays = Mapping[str, np.ndarray]


def constant(name: str, of: str) -> FakeEngine:
    """An engine whose outputs are filled with the mean of its input `of`."""

    def compute(spec: EngineSpec, inputs: Arrays) -> dict[str, np.ndarray]:
        return {t.name: np.full(t.shape, inputs[of].mean(), t.dtype) for t in spec.outputs}

    return FakeEngine(SPECS[name], compute)


def test_a_photo_goes_through_encoder_and_reference_net_once() -> None:
    encoder, net = constant("vae_encoder", "image"), constant("reference_net", "latent")
    image = np.full((64, 64, 3), 77, np.uint8)
    reference = encode_portrait(encoder, net, image)
    assert (len(encoder.calls), len(net.calls)) == (1, 1)
    np.testing.assert_array_equal(encoder.calls[0]["image"], image)
    assert set(reference) == {t.name for t in SPECS["denoiser"].inputs if "/" in t.name}
    assert {float(array.mean()) for array in reference.values()} == {77.0}


def test_speech_goes_through_the_encoder_as_it_is() -> None:
    engine = FakeEngine(SPECS["audio_encoder"])
    samples = np.linspace(-1, 1, 1000, dtype=np.float32)
    features = encode_audio(engine, samples, minimum=400)
    assert features.shape == (7, 32)
    np.testing.assert_array_equal(engine.calls[0]["samples"], samples[None])


def test_a_clip_too_short_for_the_encoder_is_continued_with_silence() -> None:
    engine = FakeEngine(SPECS["audio_encoder"])
    encode_audio(engine, np.ones(3, np.float32), minimum=400)
    np.testing.assert_array_equal(engine.calls[0]["samples"][0], [1, 1, 1, *[0] * 397])


def make_conditions(length: int) -> WindowConditions:
    """Feature rows and drawings that are filled with their frame's number."""

    def rows(start: int, stop: int) -> np.ndarray:
        return np.stack([np.full((10, 32), frame, np.float32) for frame in range(start, stop)])

    return WindowConditions(
        audio_projection=FakeEngine(SPECS["audio_projection"]),
        spatial=SpatialFeatures(
            {"pose_guider": FakeEngine(SPECS["pose_guider"])}.__getitem__,
            [SpatialSignal("keypoints", 1.0, lambda frame: np.full((64, 64, 3), frame, np.uint8))],
            SPECS["pose_guider"].outputs[0],
        ),
        length=length,
        feature_windows=rows,
    )


def frames_given(conditions: WindowConditions) -> list[tuple[list[int], list[int]]]:
    """Return for each window the frames of the feature windows, and of the keypoint maps, that the engines received."""
    guider = conditions.spatial.get_engine("pose_guider")
    return [
        (heard["feature_rows"][:, 0, 0].astype(int).tolist(), seen["drawings"][:, 0, 0, 0].tolist())
        for heard, seen in zip(conditions.audio_projection.calls, guider.calls, strict=True)  # type: ignore[attr-defined]
    ]


def test_a_window_gets_the_sound_and_the_drawings_of_its_own_frames() -> None:
    conditions = make_conditions(length=9)
    for window in plan_windows(9, 4, 1):
        conditions(window)
    assert frames_given(conditions) == [([*range(first, first + 4)],) * 2 for first in (0, 3, 5)]


def test_a_windows_conditions_are_the_denoisers_inputs() -> None:
    outputs = make_conditions(length=9)(Window(0, 0, 4))
    wanted = {t.name: t for t in SPECS["denoiser"].inputs}
    assert set(outputs) == {"audio_tokens", "pose_feature"}
    for name, array in outputs.items():
        assert (array.shape, str(array.dtype)) == (wanted[name].shape, wanted[name].dtype)


@pytest.mark.parametrize(
    ("length", "frames"), [(1, [0, 0, 0, 0]), (2, [0, 1, 1, 1]), (3, [0, 1, 2, 2]), (4, [0, 1, 2, 3])]
)
def test_beyond_a_short_videos_end_its_last_frame_is_repeated(length: int, frames: list[int]) -> None:
    conditions = make_conditions(length)
    conditions(Window(0, 0, 4))
    assert frames_given(conditions) == [(frames, frames)]
