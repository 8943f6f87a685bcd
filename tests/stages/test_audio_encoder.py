"""Recordings are encoded in one pass up to the limit, in chunks beyond; each feature once, in bounded memory."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import seams
from tests.support.audio_encoders import MODEL, RATE, STRIDE, WIDTH, make_encoder
from tests.support.factories import model_config
from tests.support.sound_files import write_wav
from vexpress_rt.backends.loaded_engines import Engines
from vexpress_rt.backends.registry import choose
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.default_bundle import shipped_bundle
from vexpress_rt.bundle.engine_spec import AUDIO_SECONDS
from vexpress_rt.errors import BackendError
from vexpress_rt.media.recording import Recording, open_recording
from vexpress_rt.stages.audio_encoder import CHUNK_SECONDS, CONTEXT_SECONDS, AudioFeatureStream, plan_chunks
from vexpress_rt.stages.audio_features import feature_windows, normalize
from vexpress_rt.stages.conditioning import encode_audio


def record(count: int) -> Recording:
    samples = np.random.default_rng(count).uniform(-1, 1, count).astype(np.float32)
    return open_recording((samples, RATE), RATE)


def in_one_pass(recording: Recording) -> np.ndarray:
    """(T, A) features of a whole recording, as the public implementation has them."""
    return encode_audio(make_encoder(), recording.read(), MODEL.audio_minimum_samples)


# Chunks


@given(st.integers(1, 400), st.integers(1, 60), st.data())
def test_chunks_give_every_feature_once_and_in_order(total: int, size: int, data: st.DataObject) -> None:
    context = data.draw(st.integers(0, (size - 1) // 2))
    chunks = plan_chunks(total, size, context)
    assert [feature for chunk in chunks for feature in chunk.kept] == list(range(total))
    assert {chunk.stop - chunk.start for chunk in chunks} == {min(size, total)}


@given(st.integers(1, 400), st.integers(1, 60), st.data())
def test_every_feature_has_its_context_or_the_clips_end(total: int, size: int, data: st.DataObject) -> None:
    context = data.draw(st.integers(0, (size - 1) // 2))
    for chunk in plan_chunks(total, size, context):
        assert chunk.start in (0, *range(chunk.kept.start - context + 1))
        assert chunk.stop == total or chunk.stop >= chunk.kept.stop + context
        assert 0 <= chunk.start <= chunk.kept.start < chunk.kept.stop <= chunk.stop <= total


def test_a_clip_of_one_chunk_is_encoded_in_one_pass() -> None:
    assert [chunk.kept for chunk in plan_chunks(30, 30, 5)] == [range(30)]
    assert [chunk.kept for chunk in plan_chunks(31, 30, 5)] == [range(15), range(15, 31)]


# Features


@given(st.integers(1, 15_000), st.integers(1, 90), st.floats(1, 4), st.floats(0, 3))
def test_chunks_of_convolutions_alone_give_the_features_of_one_pass(
    count: int, length: int, seconds: float, context: float
) -> None:
    """No attention here, so that every feature has to be exactly what and where it would be in one pass."""
    recording, encoder = record(count), make_encoder()
    stream = AudioFeatureStream(recording, MODEL, encoder, length, one_pass=seconds, chunk=seconds, context=context)
    expected = feature_windows(in_one_pass(recording), length, MODEL.audio_rows, 0, length)
    for start in range(0, length, 3):  # windows that overlap
        stop = min(start + 5, length)
        np.testing.assert_array_equal(stream.windows(start, stop), expected[start:stop])
    assert len(encoder.calls) == len(stream.chunks)
    assert max(call["samples"].size for call in encoder.calls) <= max(math.ceil(seconds * RATE) + 1, WIDTH)


def test_the_longest_recording_of_one_pass_is_given_to_the_encoder_whole() -> None:
    recording, encoder = record(AUDIO_SECONDS * RATE), make_encoder()
    AudioFeatureStream(recording, MODEL, encoder, 60).windows(0, 60)
    np.testing.assert_array_equal(encoder.calls[0]["samples"][0], recording.read())


def test_a_second_more_is_encoded_in_two_chunks_of_equal_length() -> None:
    recording, encoder = record((AUDIO_SECONDS + 1) * RATE), make_encoder()
    reported: list[tuple[int, int]] = []
    AudioFeatureStream(recording, MODEL, encoder, 61, lambda *what: reported.append(what)).windows(0, 61)
    first, second = (call["samples"].size for call in encoder.calls)
    assert first == second <= CHUNK_SECONDS * RATE < AUDIO_SECONDS * RATE
    assert reported == [(1, 2), (2, 2)]


def test_chunks_are_encoded_as_frames_need_them() -> None:
    encoder = make_encoder()
    stream = AudioFeatureStream(record(10 * AUDIO_SECONDS * RATE), MODEL, encoder, 600)
    calls = []
    for start in range(600):
        stream.windows(start, start + 1)
        calls.append(len(encoder.calls))
    assert calls[0] == 1
    assert calls[300] == pytest.approx(len(stream.chunks) / 2, abs=1)
    assert calls[-1] == len(stream.chunks) == 17


def test_memory_holds_one_chunk_and_the_features_of_later_windows() -> None:
    encoder = make_encoder()
    stream = AudioFeatureStream(record(10 * AUDIO_SECONDS * RATE), MODEL, encoder, 600)
    most = 0
    for start in range(0, 590, 5):
        stream.windows(start, start + 10)
        most = max(most, len(stream._features))
    assert max(call["samples"].size for call in encoder.calls) <= CHUNK_SECONDS * RATE
    assert most <= (AUDIO_SECONDS + 10) * 20


@given(st.integers(1, 300), st.integers(0, 300))
def test_every_chunk_is_normalised_as_a_part_of_the_clip(seed: int, shift: int) -> None:
    rng = np.random.default_rng(seed)
    samples = (rng.normal(shift / 100, 0.1 + seed % 7, 7500) * np.linspace(0, 1, 7500)).astype(np.float32)
    recording = open_recording((samples, RATE), RATE)
    model = model_config(sample_rate=RATE, audio_minimum_samples=WIDTH, audio_stride=STRIDE)
    encoder = make_encoder()
    stream = AudioFeatureStream(recording, model, encoder, 100, one_pass=2, chunk=2, context=0.5)
    stream.windows(0, 100)
    whole = normalize(samples)
    for chunk, call in zip(stream.chunks, encoder.calls, strict=True):
        part = whole[STRIDE * chunk.start :][: call["samples"].size]
        np.testing.assert_allclose(call["samples"][0], part, rtol=1e-6, atol=1e-6)


def test_an_encoder_of_another_stride_is_refused() -> None:
    model = model_config(sample_rate=RATE, audio_minimum_samples=WIDTH, audio_stride=60, audio_normalize=False)
    with pytest.raises(BackendError, match=r"gave 4\d features for 2400 samples; expected 40, one every 60: build"):
        AudioFeatureStream(record(2400), model, make_encoder(), 10).windows(0, 10)


def test_a_file_that_is_truncated_after_it_was_read_gives_the_same_features(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "speech.wav", np.full((1, 3000), 0.25), RATE)
    expected = AudioFeatureStream(open_recording(path, RATE), MODEL, make_encoder(), 10).windows(0, 10)
    recording = open_recording(path, RATE)
    write_wav(path, np.full((1, 2000), 0.25), RATE)
    found = AudioFeatureStream(recording, MODEL, make_encoder(), 10).windows(0, 10)
    np.testing.assert_array_equal(found, expected)


# The model that ships


def test_chunks_of_speech_have_no_audible_seam() -> None:
    """Chunks of 12 s, so that one pass is affordable; `benchmarks.seams` measures a whole minute."""
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
