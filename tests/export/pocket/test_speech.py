"""Training speech. In place of espeak-ng a program of that name writes a tone."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from export.errors import ExportError
from export.pocket.lips import RATE
from export.pocket.speech import ACCENTS, VARIANTS, clip, say, sentences

PROGRAM = f"""#!{sys.executable}
import array, math, sys, wave
arguments = sys.argv[1:]
name, words = arguments[arguments.index("-w") + 1], arguments[arguments.index("--") + 1].split()
assert arguments[arguments.index("-v") + 1].partition("+")[2]
with wave.open(name, "wb") as file:
    file.setnchannels(1); file.setsampwidth(2); file.setframerate(22050)
    tone = [round(9000 * math.sin(i * 0.05)) for i in range(4410 * len(words))]
    file.writeframes(array.array("h", tone).tobytes())
"""


@pytest.fixture
def espeak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin" / "espeak-ng"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent))
    return program


def test_what_is_said_comes_back_at_the_models_rate(espeak: Path) -> None:
    samples = say("four words are said", "en-us+f2", pitch=50, speed=160)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(4 * 0.2 * RATE, abs=4)
    assert 0.2 < np.abs(samples).max() < 0.4


def test_text_that_looks_like_an_option_is_said(espeak: Path) -> None:
    assert len(say("--version", "de+m1", pitch=0, speed=130)) > 0


def test_without_espeak_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExportError, match=r"espeak-ng is not installed; .*`apt-get install espeak-ng`"):
        say("hello", "en-us+m1", pitch=50, speed=160)


def test_talk_is_seeded_and_hardly_ever_the_same() -> None:
    talks = [sentences(np.random.default_rng(seed), 2) for seed in range(50)]
    assert len(set(talks)) == 50
    assert talks[3] == sentences(np.random.default_rng(3), 2)


@pytest.mark.parametrize("seed", range(6))
def test_a_clip_is_seeded_of_its_length_and_within_bounds(espeak: Path, seed: int) -> None:
    samples = clip(seed, 1.5)
    assert samples.dtype == np.float32
    assert len(samples) == 1.5 * RATE
    assert np.abs(samples).max() <= 1
    np.testing.assert_array_equal(samples, clip(seed, 1.5))


def test_some_clips_hold_no_speech(espeak: Path) -> None:
    assert np.abs(clip(0, 1.0, silent=1.0)).max() < 0.2
    levels = {float(np.abs(clip(seed, 0.5, silent=1.0)).max()) > 0 for seed in range(12)}
    assert levels == {False, True}


def test_there_are_many_voices() -> None:
    assert len(ACCENTS) * len(VARIANTS) >= 100
