"""An audio encoder that averages: each feature is the mean of the samples that its convolution covers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tests.doubles.fakes import FakeEngine, fake_specs
from tests.support.factories import model_config
from vexpress_rt.bundle.engine_spec import EngineSpec, VideoShape

RATE, WIDTH, STRIDE = 1000, 60, 50  # 20 features a second, of 60 samples each
MODEL = model_config(sample_rate=RATE, audio_minimum_samples=WIDTH, audio_stride=STRIDE, audio_normalize=False)


def convolve(spec: EngineSpec, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Features as wav2vec2's convolutions give them: each of WIDTH samples, one every STRIDE."""
    heard = np.lib.stride_tricks.sliding_window_view(inputs["samples"][0], WIDTH)[::STRIDE]
    return {"features": np.repeat(heard.mean(axis=1)[None, :, None], spec.outputs[0].shape[2] or 1, axis=2)}


def make_encoder() -> FakeEngine:
    return FakeEngine(fake_specs(MODEL, VideoShape(64, 64, 4))["audio_encoder"], convolve)
