"""Inputs of the examples: a drawn portrait, speech, and a video of somebody else."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from export.pocket.faces import Pose, draw_face, random_person
from tests.support import clips

SPEECH = Path(__file__).parents[2] / "demo" / "speech.flac"
SECONDS, RATE, FPS = Fraction(4, 10), 16000, 25
LENGTH = 10  # frames: ceil(SECONDS x FPS)


@dataclass(frozen=True)
class Inputs:
    """Files that an example is given; `samples` are those of the speech, (N,) float32 at RATE."""

    photo: str
    speech: str
    driving: str
    samples: np.ndarray


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("inputs")
    photo, speech, driving = (folder / name for name in ("photo.png", "speech.wav", "driving.mp4"))
    Image.fromarray(draw_face(random_person(1_000_028)).image).save(photo)
    samples = read_samples(SPEECH)[RATE // 10 :][: int(SECONDS * RATE)]
    write_wav(speech, samples)
    turns = np.linspace(-0.4, 0.4, LENGTH)
    other = random_person(1_000_050)
    pictures = [draw_face(other, Pose(yaw=turn), height=256, width=256, oversampling=1).image for turn in turns]
    clips.write(driving, pictures, Fraction(FPS), None)
    return Inputs(str(photo), str(speech), str(driving), samples)


def read_samples(path: Path | str) -> np.ndarray:
    """Decode a sound track: (N,) float32, mono at RATE."""
    resampler = av.AudioResampler("flt", "mono", RATE)
    with av.open(str(path)) as container:
        frames = [block for frame in container.decode(audio=0) for block in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def write_wav(path: Path, samples: np.ndarray) -> None:
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray((samples[None] * 32767).astype(np.int16), "s16", "mono")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
