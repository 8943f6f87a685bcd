"""Latents become frames one by one, and the streaming median is that of the whole clip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from tests.doubles.fakes import FakeEngine, FakeResident, fake_specs
from vexpress_rt import native
from vexpress_rt.bundle.engine_spec import EngineSpec
from vexpress_rt.errors import ConfigError
from vexpress_rt.stages.frame_decoder import HostFrames, decode, median

SPEC = fake_specs()["vae_decoder"]
MIDDLE = HostFrames().median_3x3x3


def clip(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, 256, (length, 6, 5, 3), np.uint8)


def test_latents_are_decoded_in_order_and_only_when_asked_for() -> None:
    def compute(spec: EngineSpec, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"frame": np.full((64, 64, 3), inputs["latent"].mean(), np.uint8)}

    engine = FakeEngine(SPEC, compute)
    frames = decode(engine, ((frame, np.full((1, 4, 8, 8), 10 + frame, np.float32)) for frame in range(3)))
    assert engine.calls == []
    assert np.mean(next(frames)) == 10
    assert len(engine.calls) == 1
    assert [np.mean(frame) for frame in frames] == [11, 12]


@pytest.mark.parametrize("keep_on_device", [True, False])
def test_frames_stay_where_they_are_computed_if_asked_to(keep_on_device: bool) -> None:
    (frame,) = decode(
        FakeEngine(SPEC, away=True), [(0, np.zeros((1, 4, 8, 8), np.float32))], keep_on_device=keep_on_device
    )
    assert isinstance(frame, FakeResident if keep_on_device else np.ndarray)


@pytest.mark.parametrize("length", range(1, 7))
def test_the_streaming_median_is_that_of_the_whole_clip(length: int) -> None:
    frames = clip(length)
    np.testing.assert_array_equal(np.stack(list(median(frames, MIDDLE))), native.median_filter(frames))


def test_no_frames_have_no_median() -> None:
    assert list(median([], MIDDLE)) == []


def test_a_frame_leaves_as_soon_as_the_next_is_there() -> None:
    taken = []

    def source() -> Iterator[np.ndarray]:
        for index, frame in enumerate(clip(4)):
            taken.append(index)
            yield frame

    seen = [len(taken) for _ in median(source(), MIDDLE)]
    assert seen == [2, 3, 4, 4]


def test_an_impossible_number_of_threads_is_refused() -> None:
    with pytest.raises(ConfigError, match="threads is 0"):
        list(median(clip(3), HostFrames(threads=0).median_3x3x3))
