"""What pickles, what does not, and what to do instead."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from tests.support.live_sessions import open_session
from tests.support.scenes import FAST, collect, photo, speech
from vexpress_rt import Generator, Portrait


def test_a_portrait_pickles_and_gives_the_same_frames(generator: Generator, portrait: Portrait) -> None:
    copied = pickle.loads(pickle.dumps(portrait))
    np.testing.assert_array_equal(
        collect(generator.stream(copied, speech(), config=FAST)),
        collect(generator.stream(portrait, speech(), config=FAST)),
    )


def test_photos_and_videos_pickle(generator: Generator) -> None:
    video = generator.generate(pickle.loads(pickle.dumps(generator.read_photo(photo()))), speech(), config=FAST)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(video)).frames, video.frames)


@pytest.mark.parametrize("kind", ["Generator", "FrameStream", "LiveSession", "AsyncFrameStream"])
def test_what_belongs_to_a_process_says_what_to_send_instead(
    generator: Generator, portrait: Portrait, kind: str
) -> None:
    make, remedy = {
        "Generator": (lambda: generator, "pass the bundle's folder, and make a Generator in the other process"),
        "FrameStream": (lambda: generator.stream(portrait, speech()), "send its frames"),
        "AsyncFrameStream": (lambda: generator.astream(portrait, speech()), "send its frames"),
        "LiveSession": (lambda: open_session(generator, portrait), "send its frames"),
    }[kind]
    found = make()
    for function in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=f"^an? {kind} cannot be pickled or copied.+: {remedy}"):
            function(found)  # type: ignore[operator]
