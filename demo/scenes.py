"""V-Express's three scenes, and the generation of their videos."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.inputs import Inputs, Sitter
from demo.lips import FaceFinder
from vexpress_rt import GenerationConfig, Generator, Portrait, Video
from vexpress_rt.backends.onnxruntime import engine as onnxruntime
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR
from vexpress_rt.face.detector import detect
from vexpress_rt.face.keypoint_map import draw_keypoint_map
from vexpress_rt.media.video_reader import read_frames
from vexpress_rt.types import UInt8


@dataclass(frozen=True)
class Scene:
    """A scene of V-Express.

    Attributes:
        name: Part of the names of its videos.
        title: Description.
        retarget: Retargeting mode.
        motion: Returns the file with the motion of a sitter's head; None for a head that stays still.
    """

    name: str
    title: str
    retarget: str
    motion: Callable[[Inputs, Sitter], Path | None]


SCENES = (
    Scene("fix_face", "the head held still", "fix_face", lambda inputs, sitter: None),
    Scene("keypoints", "led by keypoints", "no_retarget", lambda inputs, sitter: sitter.keypoints),
    Scene("retargeted", "led by another face", "naive_retarget", lambda inputs, sitter: inputs.driving),
)


@dataclass(frozen=True)
class Take:
    """A generated video of a scene with a sitter.

    Attributes:
        sitter: The person.
        scene: The scene.
        path: File of the video.
        lead: (h, w, 3) uint8 RGB, a picture of the source of the head's motion.
        frames: (L, H, W, 3) uint8 RGB.
        seconds: Duration of the generation.
    """

    sitter: Sitter
    scene: Scene
    path: Path
    lead: UInt8
    frames: UInt8
    seconds: float


def perform(generator: Generator, inputs: Inputs, config: GenerationConfig, folder: Path) -> Iterator[Take]:
    """Generate every scene with every sitter, each as an MP4 in `folder`."""
    for sitter in inputs.sitters:
        start = time.monotonic()
        portrait = generator.prepare(sitter.photo)
        for scene in SCENES:
            source = scene.motion(inputs, sitter)
            path = folder / f"{sitter.name}_{scene.name}.mp4"
            video = generator.generate(
                portrait, inputs.audio, keypoints=source, retarget=scene.retarget, config=config,
                output=path, keep_frames=True,
            )  # fmt: skip
            seconds = time.monotonic() - start
            assert video.frames is not None
            yield Take(sitter, scene, path, _lead(portrait, source, video), video.frames, seconds)
            start = time.monotonic()


def _lead(portrait: Portrait, source: Path | None, video: Video) -> UInt8:
    """Return a picture of the motion's source: the photo, or a keypoint map or driving frame after a quarter."""
    if source is None:
        return portrait.image
    moment = video.length // 4
    if source.suffix == ".npy":
        return draw_keypoint_map(video.keypoints[moment], *portrait.image.shape[:2])
    return list(read_frames(source).frames())[moment]


@contextmanager
def face_finder(bundle: Bundle) -> Iterator[FaceFinder]:
    """Return a function that finds faces in pictures with the detector of a bundle, on the CPU."""
    with closing(onnxruntime.load(bundle.engine_path(FACE_DETECTOR), None, threads=None)) as engine:
        yield lambda picture: detect(engine.run_positional, picture)
