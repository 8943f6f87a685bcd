"""The three scenes of V-Express, generated, and what of them goes onto the contact sheet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demo.inputs import Inputs
from demo.sheet import Picture, Strip
from vexpress_rt import GenerationConfig, Generator, Portrait, Video
from vexpress_rt.driving import read_frames
from vexpress_rt.keypoints import draw_keypoints

SIZE = 128  # pixels, height and width
WINDOW = 14  # frames
CONFIG = GenerationConfig(steps=3, fps=8, overlap=2)
MOMENTS = 7  # on the contact sheet


@dataclass(frozen=True)
class Scene:
    """name: of its video.  title: in words.  source: the field of `Inputs` that says how the head moves, or None."""

    name: str
    title: str
    source: str | None
    retarget: str

    def keypoints(self, inputs: Inputs) -> Path | None:
        """The file that says how the head moves."""
        return None if self.source is None else getattr(inputs, self.source)


SCENES = (
    Scene("scene1_no_retarget", "Scene 1: the portrait, moved by its own face's keypoints", "keypoints", "no_retarget"),
    Scene("scene2_fix_face", "Scene 2: the portrait and any speech, the head held still", None, "fix_face"),
    Scene("scene3_naive_retarget", "Scene 3: somebody else's motion, in full", "driving", "naive_retarget"),
    Scene("scene3_offset_retarget", "Scene 3: somebody else's motion, slight", "driving", "offset_retarget"),
)


def play(generator: Generator, portrait: Portrait, inputs: Inputs, scene: Scene, folder: Path) -> Video:
    """Generate a scene as an MP4 in `folder`."""
    return generator.generate(
        portrait,
        inputs.speech,
        keypoints=scene.keypoints(inputs),
        retarget=scene.retarget,
        config=CONFIG,
        output=folder / f"{scene.name}.mp4",
        keep_frames=True,
    )


def input_strip(portrait: Portrait, inputs: Inputs, moments: list[int]) -> Strip:
    """The portrait, its keypoints, and the driving video."""
    assert portrait.keypoints is not None
    driving = list(read_frames(inputs.driving).frames())
    columns = [[portrait.image], [draw_keypoints(portrait.keypoints, SIZE, SIZE)]]
    columns += [[driving[frame]] for frame in moments[: MOMENTS - 2]]
    return Strip("Inputs, drawn", "the portrait, the keypoints found in it, and frames of the driving video", columns)


def scene_strip(scene: Scene, video: Video) -> Strip:
    """What the model was shown of the face's place, and what it made, at some moments."""
    assert video.frames is not None
    columns: list[list[Picture]] = [
        [draw_keypoints(video.keypoints[frame], SIZE, SIZE), video.frames[frame]] for frame in moments(video.length)
    ]
    note = f"{scene.name}.mp4: keypoints above, generated frames below (noise, for want of trained weights)"
    return Strip(scene.title, note, columns)


def moments(length: int) -> list[int]:
    """Frames for the contact sheet, evenly spread."""
    return [round(moment) for moment in np.linspace(0, length - 1, MOMENTS).tolist()]
