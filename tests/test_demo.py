"""What the demo works on: drawn portraits, synthesised speech, motion, and the sheet that shows them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from demo.acting import act, frame_count, loudness
from demo.canvas import Canvas, curve, ellipse
from demo.inputs import DRIVING_SEED, PORTRAIT_SEED, make_inputs
from demo.people import Pose, keypoints, random_person
from demo.portrait import draw_portrait
from demo.sheet import Strip, contact_sheet
from demo.speech import RATE, SENTENCE, synthesise, write_wav
from export.detector import synthetic_detector
from vexpress_rt.audio import load_audio
from vexpress_rt.driving import read_frames
from vexpress_rt.faces import Detector, detect, largest_face
from vexpress_rt.image import load_image
from vexpress_rt.keypoints import load_keypoints

POSES = st.builds(
    Pose, yaw=st.floats(-0.4, 0.4), pitch=st.floats(-0.25, 0.25), roll=st.floats(-0.3, 0.3), x=st.floats(-0.1, 0.1),
    y=st.floats(-0.08, 0.08), mouth=st.floats(0, 1), blink=st.floats(0, 1),
)  # fmt: skip


def small(person: int, pose: Pose | None = None, side: int = 96) -> NDArray[np.int64]:
    """A drawing small enough for a test, as integers that can be subtracted."""
    return draw_portrait(person, pose or Pose(), height=side, width=side, oversampling=2).image.astype(int)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    path = tmp_path_factory.mktemp("detector") / "face_detector.onnx"
    synthetic_detector(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda blob: session.run(None, {"input.1": blob})


@pytest.fixture(scope="module")
def speech() -> NDArray[np.float32]:
    return synthesise()


# Portraits


def test_the_same_seed_draws_the_same_picture() -> None:
    assert np.array_equal(small(3), small(3))


def test_other_seeds_draw_other_people() -> None:
    pictures = [small(seed) for seed in range(6)]
    assert all(abs(a - b).mean() > 4 for i, a in enumerate(pictures) for b in pictures[:i])


def test_a_portrait_has_the_asked_size() -> None:
    drawing = draw_portrait(0, height=64, width=96, oversampling=1)
    assert drawing.image.shape == (64, 96, 3)
    assert drawing.image.dtype == np.uint8


def test_a_portrait_is_the_same_at_every_size() -> None:
    halved = small(5, side=192).reshape(96, 2, 96, 2, 3).mean(axis=(1, 3))
    assert abs(halved - small(5)).mean() < 3


@given(seed=st.integers(0, 10_000), pose=POSES, height=st.integers(64, 512), width=st.integers(64, 512))
def test_keypoints_lie_inside_and_make_a_face(seed: int, pose: Pose, height: int, width: int) -> None:
    points = keypoints(random_person(seed), pose, height, width)
    left, right, nose = points
    assert (points > 0).all()
    assert (points < (width, height)).all()
    assert left[0] < right[0]
    assert nose[1] > (left[1] + right[1]) / 2


@pytest.mark.parametrize("pose", [Pose(), Pose(yaw=0.3, pitch=-0.1), Pose(roll=-0.2, x=0.05)])
def test_pupils_are_where_the_keypoints_say(pose: Pose) -> None:
    drawing = draw_portrait(0, pose, height=256, width=256, oversampling=2)
    for x, y in drawing.keypoints[:2].round().astype(int):
        assert drawing.image[y - 2 : y + 3, x - 2 : x + 3].min() < 40


def test_a_turning_head_moves_its_nose_further_than_its_eyes() -> None:
    person = random_person(0)
    moved = keypoints(person, Pose(yaw=0.3), 256, 256) - keypoints(person, Pose(), 256, 256)
    assert moved[2, 0] > moved[:2, 0].max() > 0


def test_talking_changes_nothing_above_the_nose() -> None:
    drawing = draw_portrait(0, height=96, width=96)
    changed = abs(small(0, Pose(mouth=1)) - small(0)).max(axis=(1, 2)) > 3
    assert changed.any()
    assert np.flatnonzero(changed).min() > drawing.keypoints[2, 1]


def test_a_blink_hides_the_eyes() -> None:
    drawing = draw_portrait(0, height=96, width=96)
    x, y = drawing.keypoints[0].round().astype(int)
    assert small(0, Pose(blink=1))[y - 1, x].max() > small(0)[y - 1, x].max() + 60


@pytest.mark.parametrize("seed", [PORTRAIT_SEED, DRIVING_SEED, 4, 9, 15, 22])
@pytest.mark.parametrize("side", [128, 256])
def test_the_detector_finds_the_drawn_face(run: Detector, seed: int, side: int) -> None:
    drawing = draw_portrait(seed, height=side, width=side, oversampling=2)
    found = largest_face(detect(run, drawing.image)).keypoints[:3]
    between_eyes = np.linalg.norm(drawing.keypoints[1] - drawing.keypoints[0])
    assert np.linalg.norm(found - drawing.keypoints, axis=1).max() < 0.4 * between_eyes


def test_the_detector_follows_the_drawn_face(run: Detector) -> None:
    poses = [Pose(x=x, y=y) for x, y in [(-0.08, 0), (0, -0.05), (0, 0), (0, 0.05), (0.08, 0)]]
    drawings = [draw_portrait(DRIVING_SEED, pose, height=128, width=128, oversampling=2) for pose in poses]
    found = np.stack([largest_face(detect(run, d.image)).keypoints[:3] for d in drawings])
    drift = (found - np.stack([d.keypoints for d in drawings])).mean(axis=1)
    assert abs(drift - drift.mean(axis=0)).max() < 3


# Painting


def test_a_shape_covers_as_much_as_its_area() -> None:
    canvas = Canvas(40, 40)
    canvas.fill(ellipse(20, 20, 10, 5), (255, 255, 255))
    assert canvas.image()[..., 0].sum() / 255 == pytest.approx(np.pi * 10 * 5, rel=0.02)


def test_a_blurred_shape_covers_as_much_as_a_sharp_one() -> None:
    canvas = Canvas(90, 90)
    canvas.fill(ellipse(45, 45, 10, 5), (255, 255, 255), soft=8)
    assert canvas.image()[..., 0].max() < 128
    assert canvas.image()[..., 0].sum() / 255 == pytest.approx(np.pi * 10 * 5, rel=0.1)


def test_a_shape_beyond_the_edge_is_cut_off() -> None:
    canvas = Canvas(20, 20)
    canvas.fill(ellipse(0, 10, 5, 5), (255, 255, 255), soft=1)
    canvas.fill(ellipse(60, 10, 5, 5), (255, 255, 255), soft=1)
    columns = canvas.image()[..., 0].max(axis=0)
    assert columns[0] > 200
    assert not columns[12:].any()


def test_a_curve_runs_through_its_points() -> None:
    points = np.array([(0, 0), (3, 5), (9, 4), (7, -2)])
    assert np.array_equal(curve(points, steps=10)[::10], points)
    assert np.array_equal(curve(points, closed=False)[[0, -1]], points[[0, -1]])


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
