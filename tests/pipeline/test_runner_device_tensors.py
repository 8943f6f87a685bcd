"""Tensors that stay on the device between engines: everything except latents, with every kind of engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.doubles.fakes import FakeBackend, FakeDeviceTensor
from tests.support.scenes import FAST, frames_of, photo, speech
from vexpress_rt.pipeline.generator import Generator

LATENTS = {"latents", "timestep", "reference_attention_weight", "audio_attention_weight"}


@pytest.fixture
def device_generator(generator: Generator, backend: FakeBackend) -> Iterator[Generator]:
    """A generator whose engines compute on a device."""
    backend.on_device = True
    return generator


def test_frames_do_not_depend_on_where_engines_compute(fake_bundle: Path, backend: FakeBackend) -> None:
    videos = []
    for backend.on_device in (False, True):
        with Generator(fake_bundle) as generator:
            videos.append(frames_of(generator.generate(photo(), speech(0.5), config=FAST)))
    np.testing.assert_array_equal(*videos)


def test_only_latents_and_scalars_go_to_the_denoiser_in_each_step(
    device_generator: Generator, backend: FakeBackend
) -> None:
    device_generator.generate(photo(), speech(0.5), config=FAST)
    denoiser = backend.engines["denoiser"]
    names = {tensor.name for tensor in denoiser.spec.inputs}
    assert len(denoiser.kept_inputs) > 1
    assert all(there == names - LATENTS for there in denoiser.kept_inputs)


def test_latent_of_the_photo_does_not_leave_the_device(device_generator: Generator, backend: FakeBackend) -> None:
    device_generator.prepare(photo())
    assert backend.engines["reference_net"].kept_inputs == [{"latent"}]


def test_portrait_keeps_its_keys_and_values_on_the_device(device_generator: Generator) -> None:
    portrait = device_generator.prepare(photo())
    assert all(isinstance(tensor, FakeDeviceTensor) and not tensor.closed for tensor in portrait.reference.values())
    assert len(portrait.reference) > 0


def test_frames_come_to_the_host(device_generator: Generator) -> None:
    frames = frames_of(device_generator.generate(photo(), speech(0.5), config=FAST))
    assert isinstance(frames, np.ndarray)
    assert frames.dtype == np.uint8
