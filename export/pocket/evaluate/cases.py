"""Which videos are made: of each person one a scene, in which one signal moves and the others are held.

voice: the person's own speech, head held still.  silence: nothing said, head held still.  pose: nothing said, the
person's own motion.  photo: speech, motion and noise that are the same for everybody.  recorded: real speech from a
file, head held still; of the first few people.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.pocket.acting import act
from export.pocket.architecture import FPS, SIZE
from export.pocket.evaluate.subjects import FIRST, Subject
from export.pocket.faces import Pose, keypoints
from export.pocket.lips import LIPS, RATE, mouth_track
from export.pocket.speech import Samples, clip
from vexpress_rt.media.audio import load_audio

SCENES = ("voice", "silence", "pose", "photo", "recorded")
SHARED = 2 * FIRST  # seed of what is the same for everybody
RECORDED_PEOPLE, RECORDED_SECONDS = 4, 4.0
LOUDNESS = 0.6  # exponent of sound pressure: S. S. Stevens, "The measurement of loudness", JASA 27(5), 1955

Voice = Callable[[int, float], Samples]  # of a seed, and seconds


@dataclass(frozen=True)
class Case:
    """A video to make, L frames.

    samples: (N,) float32, mono at 16 kHz.  noise: seed of the diffusion's noise.
    poses: what the video should show, L of them.  points: (L, 3, 2) float32, their keypoints in pixels.
    held: no keypoints are given, as the head stays where the photo has it.
    followed: (L,), what the mouth's opening should go with: openness, or loudness of what is recorded.
    """

    scene: str
    subject: Subject
    samples: Samples
    noise: int
    poses: tuple[Pose, ...]
    points: NDArray[np.float32]
    held: bool
    followed: NDArray[np.float64]


def speech(seed: int, seconds: float) -> Samples:
    """A clip that holds speech, whatever its seed."""
    return clip(seed, seconds, silent=0.0)


def cases_of(subject: Subject, seconds: float, voice: Voice = speech) -> list[Case]:
    """A person's videos of all scenes but `recorded`."""
    seed = subject.seed
    silence, everybodys = np.zeros(round(seconds * RATE), np.float32), voice(SHARED, seconds)
    own, shared = _motion(silence, seed), _motion(everybodys, SHARED)
    return [
        _held("voice", subject, voice(seed, seconds)),
        _held("silence", subject, clip(seed, seconds, silent=1.0)),  # nothing, or a steady noise
        _moved("pose", subject, silence, seed, own, subject.person.eye_distance),
        # Keypoints of average proportions, so that nothing differs but the photo.
        _moved("photo", subject, everybodys, SHARED, shared, 1.0),
    ]


def all_cases(
    subjects: Sequence[Subject], seconds: float, recorded: Sequence[Path], voice: Voice = speech
) -> list[Case]:
    """Videos of all scenes, person after person.

    recorded: files of real speech. Raises AudioError for one that is unreadable, ExportError without espeak-ng.
    """
    recordings = [load_audio(path, RATE).samples[: round(RECORDED_SECONDS * RATE)] for path in recorded]
    cases = []
    for number, subject in enumerate(subjects):
        cases += cases_of(subject, seconds, voice)
        if number < RECORDED_PEOPLE:
            cases += [replace(_held("recorded", subject, heard), followed=loudness(heard)) for heard in recordings]
    return cases


def loudness(samples: Samples) -> NDArray[np.float64]:
    """(L,): how loud a recording is heard around each frame of its video, within the time that lips take to follow."""
    reach = round(LIPS * RATE)
    bell = np.hanning(2 * reach + 1)
    padded = np.pad(np.square(_as_heard(samples)), reach)
    middles = np.minimum((np.arange(_frames(samples)) + 0.5) * RATE / FPS, len(samples) - 1).astype(int)
    power = np.array([np.average(padded[at : at + 2 * reach + 1], weights=bell) for at in middles])
    return np.asarray(power ** (LOUDNESS / 2))


def _as_heard(samples: Samples) -> NDArray[np.float64]:
    """With each frequency as strong as an ear takes it: curve A of IEC 61672, up to a constant."""
    square = np.square(np.fft.rfftfreq(len(samples), 1 / RATE))
    low, middle, upper, high = np.square((20.6, 107.7, 737.9, 12194.0))
    curve = square**2 / ((square + low) * np.sqrt((square + middle) * (square + upper)) * (square + high))
    return np.asarray(np.fft.irfft(np.fft.rfft(samples) * curve * high, len(samples)))


def _frames(samples: Samples) -> int:
    return max(1, -(-len(samples) * FPS // RATE))


def _motion(samples: Samples, seed: int) -> tuple[Pose, ...]:
    """Poses of somebody who says that."""
    mouths = mouth_track(samples).at(_frames(samples), FPS)
    return tuple(act(np.random.default_rng((seed, 8)), mouths, FPS))


def _held(scene: str, subject: Subject, samples: Samples) -> Case:
    mouths = mouth_track(samples).at(_frames(samples), FPS)
    poses = tuple(Pose(mouth=float(m), width=float(w), rounding=float(r)) for m, w, r in mouths)
    points = np.repeat(subject.rest.keypoints[None], len(poses), axis=0)
    return Case(scene, subject, samples, subject.seed, poses, points, True, mouths[:, 0].astype(float))


def _moved(
    scene: str, subject: Subject, samples: Samples, noise: int, poses: tuple[Pose, ...], eye_distance: float
) -> Case:
    person = replace(subject.person, eye_distance=eye_distance)
    points = np.stack([keypoints(person, pose, SIZE, SIZE) for pose in poses])
    return Case(scene, subject, samples, noise, poses, points, False, np.array([pose.mouth for pose in poses]))
