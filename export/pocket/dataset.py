"""Make the training data: drawings of people, and synthesized speech. An interrupted run resumes.

    python -m export.pocket.dataset --output build/pocket/data --people 2000

The files are speech.npz, recordings with the movement of their mouths, and people-NNNNN.npz, each a `Shard` of
PER_SHARD people.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.pocket.acting import random_motion, random_pose
from export.pocket.architecture import FPS, SIZE, WINDOW
from export.pocket.faces import Pose, draw_face, random_person
from export.pocket.lips import mouth_track
from export.pocket.speech import clip
from vexpress_rt.utils.cpus import usable_cpus

CLIPS, CLIP_SECONDS = 900, 4.0
PER_SHARD = 25
STILLS = 4  # images of a person in random poses, besides a clip of WINDOW frames
OVERSAMPLING = 2


@dataclass(frozen=True)
class Shard:
    """P people with N = WINDOW + STILLS images each: a clip, then images in random poses.

    Attributes:
        images: (P, N, H, W, 3) uint8.
        keypoints: (P, N, 3, 2) float32, pixels.
        mouths: Openness, width and rounding, (P, N, 3) float32.
        speech: Number of the recording, and the frame of it at which the clip begins, (P, 2).
    """

    images: NDArray[np.uint8]
    keypoints: NDArray[np.float32]
    mouths: NDArray[np.float32]
    speech: NDArray[np.int64]


def make_speech(path: Path) -> None:
    """Write recordings (CLIPS, samples) float16 and the movement of their mouths (CLIPS, frames, 3) float32.

    Args:
        path: The .npz file; an existing one is kept.

    Raises:
        ExportError: espeak-ng is not installed.
    """
    if path.exists():
        return
    clips = np.stack([clip(seed, CLIP_SECONDS) for seed in range(CLIPS)])
    mouths = np.stack([mouth_track(samples).at(round(CLIP_SECONDS * FPS), FPS) for samples in clips])
    save(path, clips=clips.astype(np.float16), mouths=mouths)


def make_shard(folder: Path, number: int) -> None:
    """Draw PER_SHARD people and write them to a file; an existing one is kept.

    Args:
        folder: Directory of the training data; its speech.npz is read.
        number: Number of the shard.
    """
    path = folder / f"people-{number:05}.npz"
    if path.exists():
        return
    mouths = _mouths(folder / "speech.npz")
    people = [_draw_person(seed, mouths) for seed in range(number * PER_SHARD, (number + 1) * PER_SHARD)]
    images, keypoints, shown, speech = (np.stack(parts) for parts in zip(*people, strict=True))
    save(path, images=images, keypoints=keypoints, mouths=shown, speech=speech)


def load_shard(path: Path) -> Shard:
    """Read a shard.

    Args:
        path: The .npz file.
    """
    with np.load(path) as data:
        return Shard(**{name: data[name] for name in ("images", "keypoints", "mouths", "speech")})


def _draw_person(seed: int, mouths: NDArray[np.float32]) -> tuple[NDArray[np.generic], ...]:
    rng, person = np.random.default_rng((seed, 4)), random_person(seed)
    recording = int(rng.integers(len(mouths)))
    first = int(rng.integers(mouths.shape[1] - WINDOW + 1))
    poses: list[Pose] = random_motion(rng, mouths[recording, first : first + WINDOW], FPS)
    poses += [random_pose(rng) for _ in range(STILLS)]
    drawings = [draw_face(person, pose, height=SIZE, width=SIZE, oversampling=OVERSAMPLING) for pose in poses]
    return (
        np.stack([drawing.image for drawing in drawings]),
        np.stack([drawing.keypoints for drawing in drawings]),
        np.array([(pose.mouth, pose.width, pose.rounding) for pose in poses], np.float32),
        np.array([recording, first]),
    )


@cache
def _mouths(path: Path) -> NDArray[np.float32]:
    with np.load(path) as data:
        found: NDArray[np.float32] = data["mouths"]
        return found


def save(path: Path, **arrays: NDArray[np.generic]) -> None:
    """Write an .npz file, which appears when it is complete.

    Args:
        path: The file.
        arrays: Arrays by name.
    """
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    os.replace(part, path)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Command-line arguments; None for those of the process.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description="Draw the people and record the speech that the pocket model learns.")
    parser.add_argument("--output", type=Path, default=Path("build/pocket/data"))
    parser.add_argument("--people", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=usable_cpus())
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    make_speech(given.output / "speech.npz")
    numbers = range(-(-given.people // PER_SHARD))
    with ProcessPoolExecutor(given.processes) as pool:
        list(pool.map(make_shard, [given.output] * len(numbers), numbers))  # raises the error of a process
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
