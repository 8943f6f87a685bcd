"""The shipped bundle is small, and speech moves the mouth of a person outside the training data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from demo.inputs import SPEECH
from export.pocket.evaluate.cases import Case, cases_of
from export.pocket.evaluate.measuring import correlation, measure
from export.pocket.evaluate.subjects import FIRST, gallery, make_subject
from export.pocket.evaluate.video_sources import GeneratedVideos, Portraits
from vexpress_rt import GenerationConfig, Generator
from vexpress_rt.media.recording import open_recording

SECONDS = 2.0


@pytest.fixture(scope="module")
def generator() -> Iterator[Generator]:
    with Generator(provider="cpu") as made:
        yield made


@pytest.fixture(scope="module")
def case() -> Case:
    """A person speaks the demo's recording with a still head."""

    def voice(seed: int, seconds: float) -> NDArray[np.float32]:
        heard = open_recording(SPEECH, 16000)
        return heard.read()[: round(seconds * heard.rate)]

    return next(case for case in cases_of(make_subject(FIRST), SECONDS, voice) if case.scene == "voice")


def test_it_has_every_engine_and_at_most_24_megabytes(generator: Generator) -> None:
    manifest = generator.bundle.manifest
    assert set(manifest.engines) >= set(manifest.specs())
    assert sum(file.bytes for file in manifest.files.values()) < 24e6
    assert sum(path.stat().st_size for path in generator.bundle.folder.iterdir()) < 24e6


def test_a_portrait_needs_no_keypoints(generator: Generator, case: Case) -> None:
    photo = case.subject.photo()
    portrait = generator.prepare(photo.image)
    assert portrait.keypoints is not None
    given = generator.prepare(photo.image, keypoints=photo.keypoints).keypoints
    assert given is not None
    assert np.abs(portrait.keypoints - given).max() < 0.04 * generator.size[1]


def test_the_mouth_follows_the_voice_and_the_head_stays(generator: Generator, case: Case) -> None:
    frames = GeneratedVideos(Portraits(generator), GenerationConfig(steps=5))(case)
    found = measure(case, frames, gallery([make_subject(FIRST + i) for i in range(3)], 0))
    assert found.correlation > 0.5
    assert correlation(found.openings, case.followed[::-1]) < found.correlation - 0.2
    assert np.median(found.strays) < 0.03
