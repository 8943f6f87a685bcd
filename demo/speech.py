"""Synthesised speech: a voice source through moving formants, after D. H. Klatt, "Software for a cascade/parallel
formant synthesizer", J. Acoust. Soc. Am. 67(3), 1980. It says, roughly: "Hello. How are you? See me speak now."
"""

from __future__ import annotations

import math
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]
RATE = 24000  # Hz


@dataclass(frozen=True)
class Phone:
    """A sound: its first three formants in Hz, and how loud voice, breath and hiss are.

    Breath goes through the formants as the voice does; hiss arises in front of them, around its own frequency in Hz.
    """

    formants: tuple[float, float, float]
    voice: float = 1.0
    breath: float = 0.0
    hiss: float = 0.0
    hiss_frequency: float = 3000.0


PHONES = {
    "a": Phone((730, 1100, 2450)),
    "e": Phone((540, 1820, 2500)),
    "i": Phone((290, 2250, 2950)),
    "I": Phone((400, 1950, 2550)),
    "o": Phone((500, 920, 2400)),
    "u": Phone((320, 900, 2250)),
    "l": Phone((360, 1150, 2750), voice=0.55),
    "r": Phone((420, 1250, 1600), voice=0.7),
    "y": Phone((280, 2250, 3000), voice=0.6),
    "m": Phone((260, 1100, 2200), voice=0.35),
    "n": Phone((260, 1600, 2500), voice=0.35),
    "h": Phone((600, 1500, 2500), voice=0.0, breath=0.35),
    "s": Phone((350, 1700, 2600), voice=0.0, hiss=0.4, hiss_frequency=6200),
    "p": Phone((350, 800, 2200), voice=0.0, hiss=0.2, hiss_frequency=900),
    "k": Phone((300, 1900, 2400), voice=0.0, hiss=0.35, hiss_frequency=2200),
    "-": Phone((300, 1400, 2400), voice=0.0),  # closed lips, or a pause
    ".": Phone((500, 1500, 2500), voice=0.0),
}
# Sound and milliseconds. Stops are silence, a burst and a little breath.
SENTENCE = (
    ("." , 120), ("h", 60), ("e", 80), ("l", 70), ("o", 130), ("u", 100), (".", 220),
    ("h", 60), ("a", 130), ("u", 70), ("a", 90), ("r", 80), ("y", 60), ("u", 190), (".", 300),
    ("s", 120), ("i", 150), ("m", 80), ("i", 120), ("s", 100), ("-", 50), ("p", 15), ("h", 20), ("i", 140), ("-", 60),
    ("k", 25), ("h", 30), ("n", 70), ("a", 160), ("u", 120), (".", 180),
)  # fmt: skip
# Pitch, in Hz, at moments given as shares of the whole: it falls in a statement and rises in a question.
_PITCH = ((0.0, 128), (0.08, 140), (0.25, 104), (0.32, 132), (0.42, 118), (0.52, 158), (0.6, 136), (0.85, 112), (1, 92))
_BANDWIDTHS = (70.0, 100.0, 150.0)
_HIGHER = ((3500.0, 220.0), (4600.0, 300.0))  # formants that stay where they are, and their bandwidths


def synthesise(seed: int = 0, rate: int = RATE) -> NDArray[np.float32]:
    """The sentence, mono (N,) float32 in [-0.8, 0.8] at `rate` Hz; `seed` is of breath and the voice's unevenness."""
    rng = np.random.default_rng(seed)
    phones = [PHONES[name] for name, _ in SENTENCE]
    lengths = [round(rate * milliseconds / 1000) for _, milliseconds in SENTENCE]

    def track(values: list[float], seconds: float) -> Samples:
        return _smooth(np.repeat(np.array(values, float), lengths), round(seconds * rate))

    voice = track([p.voice for p in phones], 0.04)
    breath, hiss = (track([getattr(p, name) for p in phones], 0.018) for name in ("breath", "hiss"))
    noise = rng.standard_normal(len(voice))
    sound = voice * _glottal_source(len(voice), rate, rng) + 0.04 * breath * noise
    for number, bandwidth in enumerate(_BANDWIDTHS):
        sound = _resonate(sound, track([p.formants[number] for p in phones], 0.075), bandwidth, rate)
    for frequency, bandwidth in _HIGHER:
        sound = _resonate(sound, np.full(len(sound), frequency), bandwidth, rate)
    sound -= 0.7 * np.roll(sound, 1)  # lips radiate high tones better than low ones
    places = track([p.hiss_frequency for p in phones], 0.005)
    hissing = _resonate(np.diff(hiss * noise, prepend=0), places, 1400.0, rate)
    sound = sound / np.abs(sound).max() + 0.25 * hissing / np.abs(hissing).max()
    loudest = np.abs(sound).max()
    return np.asarray(0.8 * sound / loudest, np.float32)


def write_wav(path: Path, samples: NDArray[np.float32], rate: int = RATE) -> None:
    """Mono, 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def _smooth(values: Samples, width: int) -> Samples:
    """Average (N,) values over a bell of `width` samples, the ends held."""
    bell = np.hanning(width + 2)[1:-1]
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, bell / bell.sum(), mode="valid")


def _glottal_source(count: int, rate: int, rng: np.random.Generator) -> Samples:
    """Change of the air flow through vocal folds that open slowly and close fast, (count,)."""
    moments, pitches = zip(*_PITCH, strict=True)
    wander = _smooth(rng.standard_normal(count), rate // 20) * 8  # no voice holds its pitch
    pitch = np.interp(np.linspace(0, 1, count), moments, pitches) * (1 + 0.05 * wander)
    phase = np.cumsum(pitch / rate) % 1
    opening = (1 - np.cos(np.pi * phase / 0.4)) / 2
    closing = np.cos(np.pi / 2 * (phase - 0.4) / 0.18)
    flow = np.where(phase < 0.4, opening, np.where(phase < 0.58, closing, 0))
    return np.diff(flow, prepend=flow[0])


def _resonate(sound: Samples, frequency: Samples, bandwidth: float, rate: int) -> Samples:
    """Klatt's digital resonator, its frequency (N,) in Hz moving from sample to sample."""
    radius = math.exp(-math.pi * bandwidth / rate)
    feedback = 2 * radius * np.cos(2 * np.pi * frequency / rate)
    gain = 1 - feedback + radius**2
    output, last, before = [], 0.0, 0.0
    for driven, b in zip((gain * sound).tolist(), feedback.tolist(), strict=True):
        last, before = driven + b * last - radius**2 * before, last
        output.append(last)
    return np.array(output)
