"""What the demo works on: synthesised speech, motion, and the sheet that shows them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from demo.acting import act, frame_count, loudness
from demo.inputs import make_inputs
from demo.sheet import Strip, contact_sheet
from demo.speech import RATE, SENTENCE, synthesise, write_wav
from vexpress_rt.audio import load_audio
from vexpress_rt.driving import read_frames
from vexpress_rt.image import load_image
from vexpress_rt.keypoints import load_keypoints


@pytest.fixture(scope="module")
def speech() -> NDArray[np.float32]:
    return synthesise()


# Speech


def test_the_same_seed_speaks_the_same(speech: NDArray[np.float32]) -> None:
    assert np.array_equal(speech, synthesise())
    assert not np.array_equal(speech, synthesise(seed=1))


def test_speech_lasts_as_long_as_its_sounds(speech: NDArray[np.float32]) -> None:
    assert len(speech) / RATE == pytest.approx(sum(milliseconds for _, milliseconds in SENTENCE) / 1000, abs=1e-3)
    assert abs(speech).max() == pytest.approx(0.8)


def levels(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Loudness of each hundredth of a second, as a share of the loudest."""
    return loudness(samples, RATE, 100)


def test_speech_has_pauses(speech: NDArray[np.float32]) -> None:
    quiet = np.concatenate([[False], levels(speech) < 0.02, [False]])
    starts, stops = np.flatnonzero(~quiet[:-1] & quiet[1:]), np.flatnonzero(quiet[:-1] & ~quiet[1:])
    assert (stops - starts >= 10).sum() >= 3


def test_speech_is_heard_for_most_of_the_time(speech: NDArray[np.float32]) -> None:
    assert (levels(speech) > 0.1).mean() > 0.5


def sound(samples: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """The middle of the first occurrence of a sound."""
    names = [each for each, _ in SENTENCE]
    ends = np.cumsum([milliseconds for _, milliseconds in SENTENCE]) * RATE // 1000
    start, stop = ([0, *ends][names.index(name)], ends[names.index(name)])
    margin = (stop - start) // 5
    return samples[start + margin : stop - margin]


def pitch(samples: NDArray[np.float32]) -> tuple[float, float]:
    """The frequency between 70 and 250 Hz at which a sound repeats itself, and how exactly it does, up to 1."""
    lags = range(RATE // 250, RATE // 70)
    similarity = [float(np.corrcoef(samples[lag:], samples[:-lag])[0, 1]) for lag in lags]
    return RATE / lags[int(np.argmax(similarity))], max(similarity)


@pytest.mark.parametrize("vowel", ["o", "a", "i"])
def test_vowels_have_the_pitch_of_a_voice(speech: NDArray[np.float32], vowel: str) -> None:
    frequency, exactness = pitch(sound(speech, vowel))
    assert exactness > 0.4
    assert 90 < frequency < 180


def test_hissing_has_no_pitch(speech: NDArray[np.float32]) -> None:
    assert pitch(sound(speech, "s"))[1] < 0.2


def test_hissing_lies_above_vowels(speech: NDArray[np.float32]) -> None:
    def middle_frequency(name: str) -> float:
        power = abs(np.fft.rfft(sound(speech, name))) ** 2
        return float((power * np.linspace(0, RATE / 2, len(power))).sum() / power.sum())

    assert middle_frequency("s") > 4000
    assert max(middle_frequency(vowel) for vowel in "aoi") < 1500


def test_a_written_recording_is_read_back(speech: NDArray[np.float32], tmp_path: Path) -> None:
    write_wav(tmp_path / "speech.wav", speech)
    read = load_audio(tmp_path / "speech.wav", RATE)
    assert read.duration == Fraction(len(speech), RATE)
    assert abs(read.samples - speech).max() < 1e-4


# Motion, files, sheet


def test_there_is_one_pose_for_each_frame(speech: NDArray[np.float32]) -> None:
    frames = load_audio((speech, RATE), 16000).frame_count(Fraction(8))
    assert len(act(speech, RATE, 8)) == frame_count(speech, RATE, 8) == frames


def test_the_mouth_opens_with_the_speech(speech: NDArray[np.float32]) -> None:
    mouths = np.array([pose.mouth for pose in act(speech, RATE, 25)])
    assert mouths[:2].max() < 0.05
    assert mouths.max() == pytest.approx(1)


def test_inputs_are_files_that_the_runtime_reads(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path, 64, 1)
    frames = load_audio(inputs.speech, 16000).frame_count(Fraction(1))
    track = load_keypoints(inputs.keypoints).points
    assert load_image(inputs.portrait).shape == (512, 512, 3)
    assert track.shape == (frames, 3, 2)
    assert ((track > 0) & (track < 64)).all()
    assert len(list(read_frames(inputs.driving).frames())) == frames


def test_a_contact_sheet_holds_every_picture() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    pictures = [np.full((8, 8, 3), colour, np.uint8) for colour in colours]
    sheet = contact_sheet("heading", "note", [Strip("one", "", [pictures[:2]]), Strip("two", "", [pictures[2:]] * 4)])
    shown = np.asarray(sheet).reshape(-1, 3)
    counts = [(shown == colour).all(axis=1).sum() for colour in colours]
    assert counts == [128 * 128, 128 * 128, 4 * 128 * 128]
