"""Noise without speech does not open the mouth, in recordings and live; speech is unchanged."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.noise import RATE, SPEECH, Person, at_level, noise
from export.pocket.evaluate.subjects import FIRST, make_subject
from tests.support.audio_encoders import STRIDE, WIDTH, make_encoder
from tests.support.factories import model_config
from tests.support.scenes import photo
from vexpress_rt import GenerationConfig, Generator
from vexpress_rt.bundle.engine_spec import ModelConfig
from vexpress_rt.live.audio_buffer import LEVEL_SECONDS, SessionAudio, normalize_live, voice_gains
from vexpress_rt.media.recording import open_recording
from vexpress_rt.media.voice_activity import find_voice, voice_gain
from vexpress_rt.stages.audio_encoder import AudioFeatureStream
from vexpress_rt.stages.audio_features import normalize

SAID = open_recording(SPEECH, RATE).read()
NORMALISED = model_config(audio_minimum_samples=WIDTH, audio_stride=STRIDE)
AS_IT_IS = model_config(audio_minimum_samples=WIDTH, audio_stride=STRIDE, audio_normalize=False)


def mixed() -> np.ndarray:
    """Noise, speech, noise, quieter speech, 12 s."""
    parts = [noise("fan", 3 * RATE, -45), SAID, noise("pink", 2 * RATE, -50), at_level(SAID, -40)]
    return np.concatenate(parts)[: 12 * RATE]


def given_to_the_encoder(
    samples: np.ndarray, model: ModelConfig = NORMALISED, *, gated: bool, **how: float
) -> list[np.ndarray]:
    """The encoder's input for a recording, in one pass or in chunks."""
    encoder, length = make_encoder(), 100
    recording = open_recording((samples, RATE), RATE)
    stream = AudioFeatureStream(recording, model, encoder, length, gated=gated, **how)
    stream.windows(0, length)
    assert len(encoder.calls) == len(stream.chunks)
    chunks = zip(stream.chunks, encoder.calls, strict=True)
    return [np.pad(call["samples"][0], (chunk.start * STRIDE, 0)) for chunk, call in chunks]


# Recordings


def test_speech_is_given_to_the_encoder_bit_for_bit_and_noise_as_silence() -> None:
    samples = mixed()
    (encoded,) = given_to_the_encoder(samples, gated=True)
    gain = voice_gain(find_voice(samples, RATE), RATE, 0, len(samples))
    np.testing.assert_array_equal(encoded[gain == 1], normalize(samples)[gain == 1])
    assert 0.5 < (gain == 1).mean() < 0.8
    assert not encoded[: 2 * RATE].any()


def test_a_recording_that_is_all_speech_is_not_changed() -> None:
    np.testing.assert_array_equal(given_to_the_encoder(SAID, gated=True)[0], given_to_the_encoder(SAID, gated=False)[0])


def test_chunks_are_gated_as_one_pass() -> None:
    samples = mixed()
    (whole,) = given_to_the_encoder(samples, gated=True)
    chunks = given_to_the_encoder(samples, gated=True, one_pass=3, chunk=3, context=0.5)
    assert len(chunks) > 4
    for number, part in enumerate(chunks):
        begin = 0 if number == 0 else int(np.flatnonzero(part)[0]) if part.any() else len(part)
        np.testing.assert_array_equal(part[begin:], whole[begin : len(part)])


def test_without_the_gate_or_for_a_model_without_normalisation_nothing_is_gated() -> None:
    samples = noise("white", 2 * RATE, -50)
    np.testing.assert_array_equal(given_to_the_encoder(samples, gated=False)[0], normalize(samples))
    np.testing.assert_array_equal(given_to_the_encoder(samples, AS_IT_IS, gated=True)[0], samples)


@pytest.mark.parametrize(
    ("samples", "options", "noted"),
    [
        (noise("pink", RATE, -60), {}, True),
        (noise("pink", RATE, -60), {"noise_gate": False}, False),
        (SAID[:RATE], {}, False),
        (np.zeros(RATE, np.float32), {}, False),
    ],
)
def test_a_recording_without_voice_is_noted(
    generator: Generator, samples: np.ndarray, options: dict[str, bool], noted: bool
) -> None:
    config = GenerationConfig(steps=1, overlap=2, **options)
    video = generator.generate(photo(), (samples, RATE), config=config)
    assert any("no voice was found" in note for note in video.notes) == noted


# Live


def live_sound(samples: np.ndarray) -> SessionAudio:
    sound = SessionAudio(RATE, RATE, GenerationConfig(fps=25).resolve({}, 12).rate, before=60, ahead=2, after=2)
    sound.push(samples, RATE)
    return sound


@pytest.mark.parametrize("stop", [40, 100, 150, 250])
def test_a_session_gates_as_a_recording_of_the_same_sound(stop: int) -> None:
    """Except for the last half second, whose continuation is unknown."""
    samples, unknown = mixed(), RATE // 2
    sound = live_sound(samples)
    gain, counted = voice_gains(sound.detection_input(stop - 8, stop), RATE)
    encoded, level = sound.model_input(stop - 8, stop)
    assert (len(gain), len(counted)) == (len(encoded), len(level))
    whole = voice_gain(find_voice(samples, RATE), RATE, 0, len(samples))
    known, begin = (stop + 2) * 640, max(0, (stop + 2 - 62) * 640)
    expected = whole[begin : known - unknown]
    np.testing.assert_array_equal(gain[len(gain) - (known - begin) :][: len(expected)], expected)
    earliest = max(0, known - LEVEL_SECONDS * RATE)
    np.testing.assert_array_equal(
        counted[len(counted) - (known - earliest) : -unknown], whole[earliest:][: known - unknown - earliest]
    )


@pytest.mark.parametrize("chunk", [320, 1600, 7000])
def test_the_sizes_of_live_pieces_change_nothing(chunk: int) -> None:
    samples = mixed()
    whole, pieces = live_sound(samples), live_sound(samples[:0])
    for start in range(0, len(samples), chunk):
        pieces.push(samples[start : start + chunk], RATE)
    for one, other in zip(
        *(voice_gains(sound.detection_input(90, 98), RATE) for sound in (whole, pieces)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_noise_before_a_voice_does_not_count_for_its_level() -> None:
    samples = np.concatenate([noise("white", 8 * RATE, -45), SAID[: 2 * RATE]])
    sound = live_sound(samples)
    encoded, level = sound.model_input(242, 248)
    gain, counted = voice_gains(sound.detection_input(242, 248), RATE)
    found = normalize_live(encoded, level * counted, RATE) * gain
    alone = normalize_live(encoded, np.where(np.arange(len(level)) < len(level) - 2 * RATE, 0, level), RATE)
    spoken = gain == 1
    np.testing.assert_allclose(found[spoken], alone[spoken], rtol=0.1, atol=0.02)
    assert np.abs(normalize_live(encoded, level, RATE)[spoken]).max() > 1.5 * np.abs(alone[spoken]).max()


# The model that ships


@pytest.fixture(scope="module")
def person() -> Iterator[Person]:
    with Generator(provider="cpu", threads=1) as shipped:
        yield Person(shipped, make_subject(FIRST), {"steps": 3, "fps": 10})


@pytest.mark.parametrize(("kind", "level", "way"), [("pink", -76, "file"), ("white", -45, "live")])
def test_noise_opens_the_mouth_without_the_gate_and_not_with_it(
    person: Person, kind: str, level: float, way: str
) -> None:
    assert person.widest(kind, level, None, way, gated=False) > 0.3
    assert person.widest(kind, level, None, way, gated=True) < 0.15


@pytest.mark.parametrize("way", ["file", "live"])
def test_the_mouth_is_closed_in_noise_before_speech_and_opens_with_it(person: Person, way: str) -> None:
    sound = noise("white", 2 * RATE, -45)
    sound[RATE:] += SAID[:RATE]
    openings = person.openings(sound, way, True)
    assert openings[:7].max() < 0.15
    assert openings[11:].max() > 0.5


def test_live_lips_follow_quiet_speech_as_they_do_without_the_gate(person: Person) -> None:
    speech = at_level(SAID[: round(1.6 * RATE)], -45)
    seen = [person.openings(speech, "live", gated) for gated in (False, True)]
    assert np.corrcoef(*seen)[0, 1] > 0.95
