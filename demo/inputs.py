"""What the demo works on: a drawn portrait, synthesised speech, and two ways to say how the head moves."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from demo.acting import act
from demo.speech import RATE, synthesise, write_wav
from export.pocket.faces import Drawing, draw_face, keypoints, random_person
from vexpress_rt.audio import load_audio
from vexpress_rt.video import VideoWriter

PORTRAIT_SEED, DRIVING_SEED = 1, 11
DRIVING_SIZE = 256  # pixels


@dataclass(frozen=True)
class Inputs:
    """Files.

    portrait: a photo, here drawn.  speech: a recording, here synthesised.
    keypoints: of the same face in motion, for each frame, in pixels of the bundle's picture.
    driving: a video of somebody else who talks, here drawn.
    """

    portrait: Path
    speech: Path
    keypoints: Path
    driving: Path


def make_inputs(folder: Path, size: int, fps: int) -> Inputs:
    """Write the inputs into `folder`, the motion at `fps` frames a second; size: the bundle's height and width."""
    inputs = Inputs(*(folder / name for name in ("portrait.png", "speech.wav", "keypoints.npy", "driving.mp4")))
    Image.fromarray(draw_face(PORTRAIT_SEED).image).save(inputs.portrait)
    samples = synthesise()
    write_wav(inputs.speech, samples)
    poses, person = act(samples, RATE, fps), random_person(PORTRAIT_SEED)
    np.save(inputs.keypoints, np.stack([keypoints(person, pose, size, size) for pose in poses]))
    size = DRIVING_SIZE
    drawings = [draw_face(DRIVING_SEED, pose, height=size, width=size, oversampling=2) for pose in poses]
    _write_video(inputs.driving, drawings, inputs.speech, fps)
    return inputs


def _write_video(path: Path, drawings: list[Drawing], speech: Path, fps: int) -> None:
    sound = load_audio(speech, RATE)
    with VideoWriter(path, (DRIVING_SIZE, DRIVING_SIZE), Fraction(fps), sound, quality=16) as writer:
        for drawing in drawings:
            writer.write(drawing.image)
