"""Training speech: espeak-ng speaks random sentences in many voices, with pauses and noise.

Only training needs espeak-ng (the Debian package `espeak-ng`); the model and the demo do not.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError
from export.pocket.lips import RATE
from vexpress_rt.media.recording import open_recording

Samples = NDArray[np.float32]

ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "de", "fr", "es", "it")
VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5", "klatt", "klatt2", "klatt3")
_WORDS = {
    "subject": (
        "my sister, the old pilot, every child, our neighbour, a quiet farmer, the whole team, somebody, her uncle"
    ),
    "verb": "carries, opens, follows, paints, remembers, throws, borrows, watches, sells, loves, breaks, understands",
    "object": (
        "a blue umbrella, the heavy door, five small boats, music, the last page, two warm coats, bread and cheese, "
        "a low wall, nothing at all, the harbour, many good ideas, that yellow house"
    ),
    "adverbial": (
        "on Monday, before noon, while it rains, at the end of the day, in early summer, for a moment, "
        "again and again, too soon, without a word, by the river"
    ),
    "interjection": (
        "Oh!; Well.; Listen.; Yes.; No.; Wait a moment.; I am not sure.; How are you?; Thank you very much.; "
        "Who would have thought it?"
    ),
}


def sentences(rng: np.random.Generator, count: int) -> str:
    """Make random sentences.

    Args:
        rng: Random generator of the sentences.
        count: Number of sentences; interjections may follow them.
    """

    def pick(kind: str) -> str:
        return str(rng.choice(re.split("[,;] ", _WORDS[kind])))

    said = []
    for _ in range(count):
        sentence = f"{pick('subject')} {pick('verb')} {pick('object')} {pick('adverbial')}".capitalize()
        said += [
            f"{sentence}{rng.choice(['.', '.', '?', '!'])}",
            *([pick("interjection")] if rng.random() < 0.4 else []),
        ]
    return " ".join(said)


def say(text: str, voice: str, pitch: int, speed: int) -> Samples:
    """Synthesize speech with espeak-ng.

    Args:
        text: The text.
        voice: ACCENT+VARIANT.
        pitch: 0 to 99.
        speed: Words per minute.

    Returns:
        Mono at 16 kHz, (N,) float32.

    Raises:
        ExportError: espeak-ng is not installed.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise ExportError("espeak-ng is not installed; training needs it: `apt-get install espeak-ng`")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        options = ["-v", voice, "-p", str(pitch), "-s", str(speed), "-w", str(path)]
        subprocess.run([program, *options, "--", text], check=True, capture_output=True, timeout=60)
        return open_recording(path, RATE).read()


def clip(seed: int, seconds: float, *, silent: float = 0.2) -> Samples:
    """Make a recording with a random voice, level, noise, start and pause.

    Args:
        seed: Seed of the recording.
        seconds: Its duration.
        silent: Probability of silence or noise without speech.

    Returns:
        Mono at 16 kHz, (N,) float32.

    Raises:
        ExportError: espeak-ng is not installed.
    """
    rng = np.random.default_rng((seed, 16))
    count = round(seconds * RATE)
    if rng.random() < silent:
        return (_noise(rng, count) * rng.choice([0.0, 0.003, 0.03])).astype(np.float32)
    voice = f"{rng.choice(ACCENTS)}+{rng.choice(VARIANTS)}"
    speech = say(sentences(rng, 3), voice, int(rng.integers(20, 80)), int(rng.integers(130, 200)))
    start = int(rng.integers(0, max(1, len(speech) - count // 2)))
    piece = speech[start : start + count]
    if rng.random() < 0.5:  # a pause
        at, pause = int(rng.integers(0, len(piece))), int(rng.uniform(0.2, 1.0) * RATE)
        piece = np.concatenate([piece[:at], np.zeros(pause, np.float32), piece[at:]])[:count]
    piece = np.pad(piece, (0, count - len(piece)))
    level = rng.uniform(0.05, 0.9) / max(float(np.abs(piece).max()), 1e-6)
    noise = _noise(rng, count) * 10 ** rng.uniform(-4, -2.2)
    return (piece * level + noise * level).astype(np.float32)


def _noise(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return white or brown noise (as of wind and traffic) of unit variance."""
    white = rng.standard_normal(count)
    if rng.random() < 0.5:
        return white
    spectrum = np.fft.rfft(white) / np.sqrt(np.arange(count // 2 + 1) + 20.0)
    brown = np.fft.irfft(spectrum, count)
    return brown / brown.std()
