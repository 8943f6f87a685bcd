"""Compare live mode with `generate` on the same person and speech."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.pocket.evaluate.measuring import correlation
from export.pocket.faces import mouth_opening
from export.pocket.lips import mouth_track
from vexpress_rt import GenerationConfig, Generator, Portrait
from vexpress_rt.config import Settings

Frames = NDArray[np.uint8]  # (L, H, W, 3) RGB
RATE, CHUNK = 16000, 640  # Hz, samples
SHIFTS = range(-6, 7)  # frames


def expected_lips(samples: NDArray[np.float32], fps: float) -> NDArray[np.float64]:
    """Return the mouth opening (L,) that is expected for (n,) mono samples at 16 kHz."""
    length = int(np.ceil(len(samples) * fps / RATE))
    return mouth_track(samples).at(length, fps)[:, 0].astype(float)


def measured_lips(frames: Frames, points: NDArray[np.float32] | None) -> NDArray[np.float64]:
    """Return the mouth opening (L,) of a still head with keypoints `points` (3, 2)."""
    assert points is not None
    return np.array([mouth_opening(frame, points) for frame in frames])


@dataclass(frozen=True)
class Speaker:
    """A prepared portrait and its speech. samples: (n,) float32, mono at 16 kHz."""

    portrait: Portrait
    samples: NDArray[np.float32]


def exact(generator: Generator, speaker: Speaker, config: GenerationConfig) -> Frames:
    """Return the frames of `generate`."""
    frames = generator.generate(speaker.portrait, (speaker.samples, RATE), config=config).frames
    assert frames is not None
    return frames


def live(generator: Generator, speaker: Speaker, config: GenerationConfig, **options: Any) -> Frames:
    """Return the frames of a live session that receives the speech in chunks.

    Args:
        generator: The generator.
        speaker: Portrait and speech.
        config: Configuration of the session.
        **options: Options of `Generator.live`.
    """
    with generator.live(speaker.portrait, config=config, **options) as session:
        frames = []
        for start in range(0, len(speaker.samples), CHUNK):
            session.push(speaker.samples[start : start + CHUNK])
            frames += [frame.image for frame in session.frames()]
        session.flush()
        frames += [frame.image for frame in session.frames()]
    return np.stack(frames)


def changes(frames: Frames) -> NDArray[np.float64]:
    """Return the mean square change (L - 1,) from each frame to the next."""
    return np.array([np.square(b.astype(float) - a).mean() for a, b in pairwise(frames)])


def decibels(squares: NDArray[np.float64]) -> float:
    """Return the PSNR of mean square errors in dB; 99 for no error."""
    mean = float(np.mean(squares))
    return 10 * np.log10(255**2 / mean) if mean > 0 else 99.0


def seams(frames: Frames, new: int) -> dict[str, float]:
    """Return the PSNR from a frame to the next, at the ends of windows of `new` frames and elsewhere."""
    squares = changes(frames)
    at = np.arange(1, len(frames)) % new == 0
    return {"seams_db": decibels(squares[at]), "elsewhere_db": decibels(squares[~at])}


def best_shift(measured: NDArray[np.float64], expected: NDArray[np.float64]) -> int:
    """Return the delay of the lips, in frames, with the highest correlation."""
    reach, count = max(SHIFTS), len(measured)
    middle = expected[reach : count - reach]
    return max(SHIFTS, key=lambda shift: correlation(measured[reach + shift : count - reach + shift], middle))


def compare(generator: Generator, speaker: Speaker, settings: Settings, **options: Any) -> dict[str, Any]:
    """Return the figures of both videos, made with the same settings, and the PSNR between them."""
    new = generator.bundle.manifest.shape.frames - settings.overlap
    videos = {"exact": exact(generator, speaker, settings), "live": live(generator, speaker, settings, **options)}
    expected = expected_lips(speaker.samples, float(settings.rate))
    figures: dict[str, Any] = {"frames": len(expected)}
    for name, frames in videos.items():
        lips = correlation(measured_lips(frames, speaker.portrait.keypoints), expected)
        figures[name] = {"lips": lips, **seams(frames, new)}
    difference = np.square(videos["exact"].astype(float) - videos["live"]).mean(axis=(1, 2, 3))
    return {**figures, "live_to_exact_db": decibels(difference)}
