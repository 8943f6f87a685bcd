"""Measure how far noise without speech opens the mouth, and the effect of the noise gate on speech.

python -m benchmarks.noise                                        # all kinds, -80 to -40 dB: half an hour on one core
python -m benchmarks.noise --kinds white fan --levels -40 --no-speech
python -m benchmarks.noise --json noise.json

Noise: the sound is two seconds of noise, alone or followed by speech in the same noise. A video of a drawn person is
made from a recording and in a live session, with `noise_gate` off and on. The measure is the widest mouth opening, as a
share of its range, in frames up to LEAD seconds before the speech.

Speech: videos of the same person with several kinds of speech. The measure is the correlation of the measured mouth
opening with the opening expected from the clean speech, with `noise_gate` off and on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.arguments import positive
from benchmarks.live.quality import RATE, Speaker, exact, expected_lips, live
from export.command import run
from export.pocket.evaluate.measuring import correlation
from export.pocket.evaluate.subjects import FIRST, Subject, make_subject
from export.pocket.faces import mouth_opening
from vexpress_rt import GenerationConfig, Generator
from vexpress_rt.media.recording import open_recording

Samples = NDArray[np.float32]

SPEECH = Path(__file__).parents[1] / "demo" / "speech.flac"
SECONDS, LEAD = 2.0, 0.25  # of noise; before the speech, where the mouth may open already
LEVELS = (-80.0, -70.0, -60.0, -50.0, -40.0)
SNR = 20.0  # dB, speech to background noise
WAYS: dict[str, Callable[..., NDArray[np.uint8]]] = {"file": exact, "live": live}


def at_level(samples: NDArray[np.floating[Any]], level: float) -> Samples:
    """Scale (n,) samples to a standard deviation of `level` dB of full scale."""
    return (samples * (10 ** (level / 20) / samples.std())).astype(np.float32)


def _coloured(shape: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Callable[..., NDArray[np.float64]]:
    """Return a generator of noise with a spectral shape, a function of frequency in Hz."""

    def make(count: int, seed: int) -> NDArray[np.float64]:
        spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(count))
        return np.asarray(np.fft.irfft(spectrum * shape(np.fft.rfftfreq(count, 1 / RATE)), count))

    return make


def _hum(frequency: float, harmonics: int) -> Callable[..., NDArray[np.float64]]:
    def make(count: int, seed: int) -> NDArray[np.float64]:
        phase = 2 * np.pi * frequency * np.arange(count) / RATE
        return np.sum([np.sin(k * phase + k * seed) / k for k in range(1, harmonics + 1)], axis=0)

    return make


def _fan(count: int, seed: int) -> NDArray[np.float64]:
    """Return noise below 500 Hz with a slow swell, and the tone of the blades."""
    seconds = np.arange(count) / RATE
    air = _coloured(lambda f: (f > 60) / (1 + np.square(f / 500)))(count, seed)
    swell = 1 + 0.3 * np.sin(2 * np.pi * 0.7 * seconds) + 0.15 * np.sin(2 * np.pi * 3 * seconds)
    return np.asarray(swell * air / air.std() + 0.3 * np.sin(2 * np.pi * 117 * seconds))


# Generators of noise: count of samples at RATE, and seed -> samples.
KINDS: dict[str, Callable[[int, int], NDArray[np.float64]]] = {
    "white": _coloured(np.ones_like),
    "pink": _coloured(lambda f: (f >= 20) / np.sqrt(np.maximum(f, 20))),
    "brown": _coloured(lambda f: (f >= 20) / np.maximum(f, 20)),
    "rumble": _coloured(lambda f: 1 / (1 + (f / 80) ** 4)),
    "hum, 50 Hz": _hum(50, 1),
    "hum, 60 Hz and harmonics": _hum(60, 11),
    "fan": _fan,
}


def noise(kind: str, count: int, level: float, seed: int = 1) -> Samples:
    """Return (count,) samples of one of KINDS at RATE, `level` dB of full scale."""
    return at_level(KINDS[kind](count, seed), level)


def whispered(samples: Samples) -> Samples:
    """Turn speech to a whisper: random phases, and the spectral envelope of each 16 ms in 20 bands."""
    size, rng = 256, np.random.default_rng(0)
    taper = np.hanning(size + 1)[:-1]
    pieces = np.lib.stride_tricks.sliding_window_view(np.pad(samples, size), size)[:: size // 2]
    power = np.square(np.abs(np.fft.rfft(pieces * taper, axis=1)))
    bands = np.linspace(0, power.shape[1], 21).astype(int)
    mean = np.add.reduceat(power, bands[:-1], axis=1) / np.diff(bands)
    envelope = np.sqrt(np.repeat(mean, np.diff(bands), axis=1))
    made = np.fft.irfft(envelope * np.exp(2j * np.pi * rng.random(power.shape)), size, axis=1) * taper
    out = np.zeros(len(samples) + 3 * size)
    for number, piece in enumerate(made):
        out[number * size // 2 :][:size] += piece
    return at_level(out[size:][: len(samples)], 20 * np.log10(samples.std()))


def raised(samples: Samples, factor: float) -> Samples:
    """Resample speech so that it is faster and higher by `factor`, as a child's."""
    places = np.arange(0, len(samples) - 1, factor)
    return np.interp(places, np.arange(len(samples)), samples).astype(np.float32)


def speeches(speech: Samples) -> dict[str, tuple[Samples, Samples]]:
    """Return (samples, clean speech) of each kind of speech by name; both have the same length."""
    child, word, silence = raised(speech, 1.5), speech[: round(0.35 * RATE)], np.zeros(10 * RATE, np.float32)
    own = 20 * np.log10(speech.std())
    found = {"as recorded": (speech, speech)}
    found |= {f"at {level} dB": (at_level(speech, level), speech) for level in (-40, -50)}
    found |= {f"with {kind}": (speech + noise(kind, len(speech), own - SNR), speech) for kind in KINDS}
    late = np.concatenate([silence, speech])
    return found | {
        "whispered": (whispered(speech), speech),
        "whispered at -50 dB": (at_level(whispered(speech), -50), speech),
        "as high as a child's": (child, child),
        "a word": (np.pad(word, RATE // 2), np.pad(word, RATE // 2)),
        "after 10 s of silence": (late, late),
    }


@dataclass(frozen=True)
class Person:
    """A drawn person, with the generator and options that animate it."""

    generator: Generator
    subject: Subject
    config: dict[str, Any]

    def openings(self, samples: Samples, way: str, gated: bool) -> NDArray[np.float64]:
        """Return (L,), the mouth opening in each frame: 0 closed, 1 fully open."""
        photo, subject = self.subject.photo(), self.subject
        portrait = self.generator.prepare(photo.image, keypoints=photo.keypoints)
        config = GenerationConfig(**self.config, noise_gate=gated)
        frames = WAYS[way](self.generator, Speaker(portrait, samples), config)
        points = subject.rest.keypoints
        seen = np.array([mouth_opening(frame, points) for frame in frames])
        return (seen - subject.closed) / (subject.opened - subject.closed)

    def widest(self, kind: str, level: float, speech: Samples | None, way: str, gated: bool) -> float:
        """Return the widest opening in SECONDS of noise, alone or before speech in the same noise."""
        count = round(SECONDS * RATE)
        said = np.zeros(0, np.float32) if speech is None else speech
        samples = noise(kind, count + len(said), level)
        samples[count:] += said
        quiet = SECONDS if speech is None else SECONDS - LEAD
        return float(self.openings(samples, way, gated)[: int(quiet * self.config["fps"])].max())

    def follows(self, heard: Samples, asked: Samples, way: str, gated: bool) -> float:
        """Return the correlation of the measured opening with the opening expected from the clean speech."""
        seen, lips = self.openings(heard, way, gated), expected_lips(asked, self.config["fps"])
        return correlation(seen, lips[: len(seen)])


def rows_of_noise(person: Person, kinds: Iterable[str], levels: Iterable[float]) -> Iterable[dict[str, Any]]:
    """Yield one row per kind and level; each cell is (gate off, gate on)."""
    speech = open_recording(SPEECH, RATE).read()[: round(1.2 * RATE)]
    for kind in kinds:
        for level in levels:
            row: dict[str, Any] = {"noise": kind, "dB": level}
            for name, said in (("alone", None), ("before", speech)):
                for way in WAYS:
                    row[f"{name}, {way}"] = [person.widest(kind, level, said, way, gated) for gated in (False, True)]
            yield row


def rows_of_speech(person: Person) -> Iterable[dict[str, Any]]:
    """Yield one row per kind of speech; each cell is (gate off, gate on)."""
    for name, (heard, asked) in speeches(open_recording(SPEECH, RATE).read()).items():
        found = {way: [person.follows(heard, asked, way, gated) for gated in (False, True)] for way in WAYS}
        yield {"speech": name, **found}


def table(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print rows as a Markdown table as they arrive, and return them."""
    kept: list[dict[str, Any]] = []
    for row in rows:
        if not kept:
            print("| " + " | ".join(row) + " |\n|" + "---|" * len(row), flush=True)
        cells = [
            " -> ".join(f"{v:.2f}" for v in cell) if isinstance(cell, list) else str(cell) for cell in row.values()
        ]
        print("| " + " | ".join(cells) + " |", flush=True)
        kept.append(row)
    return kept


def measure(given: argparse.Namespace) -> None:
    """Print both tables, and write their figures to `--json`."""
    config = {"steps": given.steps, "fps": given.fps}
    with Generator(given.bundle, provider="cpu", threads=given.threads) as generator:
        person = Person(generator, make_subject(FIRST), config)
        print(f"{generator.bundle.folder}, {given.steps} steps, {given.fps:g} frames a second; gate off -> on\n")
        found = {"noise": table(rows_of_noise(person, given.kinds, given.levels))}
        if given.speech:
            print()
            found["speech"] = table(rows_of_speech(person))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="bundle (default: the one that ships)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of noise (all)")
    parser.add_argument(
        "--levels",
        type=float,
        nargs="+",
        default=LEVELS,
        metavar="DB",
        help="levels of noise, dB of full scale (-80..-40)",
    )
    parser.add_argument("--steps", type=int, default=4, help="denoising steps (4)")
    parser.add_argument("--fps", type=positive, default=12.5, help="frames a second (12.5)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    parser.add_argument(
        "--speech", action=argparse.BooleanOptionalAction, default=True, help="measure speech as well (on)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    given = parser.parse_args(arguments)
    return run(lambda: measure(given))


if __name__ == "__main__":
    raise SystemExit(main())
