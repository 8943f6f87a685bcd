"""What frames hear: one pass up to the limit, chunks beyond; features in their places, none twice, memory bounded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import seams
from tests.doubles.fakes import FakeEngine, fake_specs
from tests.media.test_audio import write_wav
from tests.support.factories import model_config
from vexpress_rt.backends.registry import Engines, choose
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.default_bundle import shipped_bundle
from vexpress_rt.bundle.engine_spec import AUDIO_SECONDS, EngineSpec, VideoShape
from vexpress_rt.errors import AudioError, BackendError
from vexpress_rt.media.audio import frame_rows, normalize, open_recording
from vexpress_rt.stages.audio_encoder import CHUNK_SECONDS, CONTEXT_SECONDS, Hearing, plan_chunks
from vexpress_rt.stages.conditioning import encode_audio
from vexpress_rt.types import Recording

RATE, WIDTH, STRIDE = 1000, 60, 50  # 20 features a second, of 60 samples each
MODEL = model_config(sample_rate=RATE, audio_minimum_samples=WIDTH, audio_stride=STRIDE, audio_normalize=False)


def convolve(spec: EngineSpec, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Features as wav2vec2's convolutions give them: each of WIDTH samples, one every STRIDE."""
    heard = np.lib.stride_tricks.sliding_window_view(inputs["samples"][0], WIDTH)[::STRIDE]
    return {"features": np.repeat(heard.mean(axis=1)[None, :, None], spec.outputs[0].shape[2] or 1, axis=2)}


def make_encoder() -> FakeEngine:
    return FakeEngine(fake_specs(MODEL, VideoShape(64, 64, 4))["audio_encoder"], convolve)


def record(count: int) -> Recording:
    samples = np.random.default_rng(count).uniform(-1, 1, count).astype(np.float32)
    return open_recording((samples, RATE), RATE)


def in_one_pass(recording: Recording) -> np.ndarray:
    """(T, A) features of a whole recording, as the public implementation has them."""
    assert isinstance(recording.source, tuple)
    return encode_audio(make_encoder(), recording.source[0], MODEL.audio_minimum_samples)


# Chunks


@given(st.integers(1, 400), st.integers(1, 60), st.data())
def test_chunks_give_every_feature_once_and_in_order(total: int, size: int, data: st.DataObject) -> None:
    context = data.draw(st.integers(0, (size - 1) // 2))
    chunks = plan_chunks(total, size, context)
    assert [feature for chunk in chunks for feature in chunk.kept] == list(range(total))
    assert {chunk.stop - chunk.start for chunk in chunks} == {min(size, total)}


@given(st.integers(1, 400), st.integers(1, 60), st.data())
def test_every_feature_hears_its_context_or_the_clips_end(total: int, size: int, data: st.DataObject) -> None:
    context = data.draw(st.integers(0, (size - 1) // 2))
    for chunk in plan_chunks(total, size, context):
        assert chunk.start in (0, *range(chunk.kept.start - context + 1))
        assert chunk.stop == total or chunk.stop >= chunk.kept.stop + context
        assert 0 <= chunk.start <= chunk.kept.start < chunk.kept.stop <= chunk.stop <= total


def test_what_fits_is_heard_in_one_pass() -> None:
    assert [chunk.kept for chunk in plan_chunks(30, 30, 5)] == [range(30)]
    assert [chunk.kept for chunk in plan_chunks(31, 30, 5)] == [range(15), range(15, 31)]


# Features


@given(st.integers(1, 15_000), st.integers(1, 90), st.floats(1, 4), st.floats(0, 3))
def test_chunks_of_convolutions_alone_give_the_features_of_one_pass(
    count: int, length: int, seconds: float, context: float
) -> None:
    """No attention here, so that every feature has to be exactly what and where it would be in one pass."""
    recording, encoder = record(count), make_encoder()
    hearing = Hearing(recording, MODEL, encoder, length, one_pass=seconds, chunk=seconds, context=context)
    expected = frame_rows(in_one_pass(recording), length, MODEL.audio_rows, 0, length)
    for start in range(0, length, 3):  # windows that overlap
        stop = min(start + 5, length)
        np.testing.assert_array_equal(hearing.rows(start, stop), expected[start:stop])
    assert len(encoder.calls) == len(hearing.chunks)
    assert max(call["samples"].size for call in encoder.calls) <= max(math.ceil(seconds * RATE) + 1, WIDTH)


def test_the_longest_recording_of_one_pass_is_given_to_the_encoder_whole() -> None:
    recording, encoder = record(AUDIO_SECONDS * RATE), make_encoder()
    Hearing(recording, MODEL, encoder, 60).rows(0, 60)
    assert isinstance(recording.source, tuple)
    np.testing.assert_array_equal(encoder.calls[0]["samples"][0], recording.source[0])


def test_a_second_more_is_heard_in_two_chunks_of_equal_length() -> None:
    recording, encoder = record((AUDIO_SECONDS + 1) * RATE), make_encoder()
    told: list[tuple[int, int]] = []
    Hearing(recording, MODEL, encoder, 61, lambda *what: told.append(what)).rows(0, 61)
    first, second = (call["samples"].size for call in encoder.calls)
    assert first == second <= CHUNK_SECONDS * RATE < AUDIO_SECONDS * RATE
    assert told == [(1, 2), (2, 2)]


def test_chunks_are_heard_as_frames_need_them() -> None:
    encoder = make_encoder()
    hearing = Hearing(record(10 * AUDIO_SECONDS * RATE), MODEL, encoder, 600)
    calls = []
    for start in range(600):
        hearing.rows(start, start + 1)
        calls.append(len(encoder.calls))
    assert calls[0] == 1
    assert calls[300] == pytest.approx(len(hearing.chunks) / 2, abs=1)
    assert calls[-1] == len(hearing.chunks) == 17


def test_no_more_is_held_than_a_chunk_and_what_windows_need() -> None:
    hearing = Hearing(record(10 * AUDIO_SECONDS * RATE), MODEL, make_encoder(), 600)
    most = 0
    for start in range(0, 590, 5):
        hearing.rows(start, start + 10)
        most = max(most, len(hearing._features))
        assert len(hearing._reader._held) <= AUDIO_SECONDS * RATE + 65536
    assert most <= (AUDIO_SECONDS + 10) * 20


@given(st.integers(1, 300), st.integers(0, 300))
def test_every_chunk_is_normalised_as_a_part_of_the_clip(seed: int, shift: int) -> None:
    rng = np.random.default_rng(seed)
    samples = (rng.normal(shift / 100, 0.1 + seed % 7, 7500) * np.linspace(0, 1, 7500)).astype(np.float32)
    recording = open_recording((samples, RATE), RATE)
    model = model_config(sample_rate=RATE, audio_minimum_samples=WIDTH, audio_stride=STRIDE)
    encoder = make_encoder()
    hearing = Hearing(recording, model, encoder, 100, one_pass=2, chunk=2, context=0.5)
    hearing.rows(0, 100)
    whole = normalize(samples)
    for chunk, call in zip(hearing.chunks, encoder.calls, strict=True):
        part = whole[STRIDE * chunk.start :][: call["samples"].size]
        np.testing.assert_allclose(call["samples"][0], part, rtol=1e-6, atol=1e-6)


def test_an_encoder_of_another_stride_is_refused() -> None:
    model = model_config(sample_rate=RATE, audio_minimum_samples=WIDTH, audio_stride=60, audio_normalize=False)
    with pytest.raises(BackendError, match=r"gave 4\d features for 2400 samples; expected 40, one every 60: build"):
        Hearing(record(2400), model, make_encoder(), 10).rows(0, 10)


def test_a_file_that_ends_before_it_did_is_told(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "speech.wav", np.full((1, 3000), 0.25), RATE)
    recording = open_recording(path, RATE)
    write_wav(path, np.full((1, 2000), 0.25), RATE)
    with pytest.raises(AudioError, match=r"had 3000 samples at 1000 Hz and now ends 1000 before: leave the file"):
        Hearing(replace(recording, stamp=None), MODEL, make_encoder(), 10).rows(0, 10)


# The model that ships


def test_no_seam_is_heard_between_chunks_of_speech() -> None:
    """Chunks of 12 s, so that one pass is affordable; what a whole minute gives is told by `benchmarks.seams`."""
    bundle = Bundle.open(shipped_bundle())
    engines, model = Engines(bundle, choose("cpu", bundle), None), bundle.manifest.model
    sound = seams.long_speech(seams.SPEECH, model.sample_rate, 24)
    encoder = engines.get("audio_encoder")
    whole, _ = seams.features(model, encoder, sound, one_pass=24)
    found, places = seams.features(model, encoder, sound, one_pass=12, chunk=12, context=2)
    engines.close()
    near = np.zeros(len(whole), bool)
    for place in places:
        near[place - 25 : place + 25] = True
    assert len(places) == 2
    assert CONTEXT_SECONDS >= 2
    assert seams.relative(found, whole, near) < 2 * seams.relative(found, whole, ~near) < 4e-3
