"""Memory that a video needs is compared with the free memory before its inputs are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.scenes import FAST, speech
from tests.support.sound_files import write_wav
from vexpress_rt import ConfigError, Generator, Portrait
from vexpress_rt.media import recording
from vexpress_rt.pipeline import generator as generator_module


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a megabyte be free; frames of 64 x 64 pixels take 12 KB each."""
    monkeypatch.setattr(generator_module, "free_memory", lambda: 1_000_000)


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize("kind", ["array", "file"])
def test_a_video_that_does_not_fit_is_refused_before_its_speech_is_read(
    generator: Generator, portrait: Portrait, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def read(samples: object) -> None:
        raise AssertionError("the speech was read")

    monkeypatch.setattr(recording._Moments, "add", read)
    samples, rate = speech(20)
    audio = (samples, rate) if kind == "array" else write_wav(tmp_path / "speech.wav", samples[None], rate)
    with pytest.raises(ConfigError, match=r"a video of 600 frames needs .+ of memory .+: write them to a file"):
        generator.generate(portrait, audio, config=FAST)


@pytest.mark.usefixtures("small_machine")
def test_a_recording_that_declares_no_length_is_refused_while_it_is_read(
    generator: Generator, portrait: Portrait, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_PROGRESS_SECONDS", 0)
    monkeypatch.setattr("vexpress_rt.media.audio_reader.ESTIMATED", {"wav"})
    read: list[int] = []
    samples, rate = speech(20)
    path = write_wav(tmp_path / "speech.wav", samples[None], rate)
    with pytest.raises(ConfigError, match="write them to a file"):
        generator.generate(portrait, path, config=FAST, progress=lambda stage, done, total: read.append(done))
    assert max(read, default=0) < 5


def test_memory_that_the_system_refuses_is_named_with_the_remedy(
    generator: Generator, portrait: Portrait, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = np.empty

    def refuse(shape: Any, *more: Any, **options: Any) -> np.ndarray:
        if shape == (9, 64, 64, 3):
            raise MemoryError("Unable to allocate 158 GiB")
        return empty(shape, *more, **options)

    monkeypatch.setattr(generator_module.np, "empty", refuse)
    with pytest.raises(ConfigError, match=r"9 frames does not fit into memory .+158 GiB.+: write them to a file"):
        generator.generate(portrait, speech(), config=FAST)
