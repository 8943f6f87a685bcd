"""Compare the audio features of long speech encoded in chunks with those encoded in one pass.

python -m benchmarks.seams                                    # the small model
python -m benchmarks.seams --engines engines/tiny --seconds 150 --contexts 2 10
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.arguments import not_negative, positive
from export.command import run
from vexpress_rt.backends.base import Engine
from vexpress_rt.backends.loaded_engines import Engines
from vexpress_rt.backends.registry import choose
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.default_bundle import shipped_bundle
from vexpress_rt.bundle.engine_spec import ModelConfig
from vexpress_rt.media.recording import open_recording
from vexpress_rt.stages.audio_encoder import CHUNK_SECONDS, AudioFeatureStream
from vexpress_rt.types import Float32

SPEECH = Path(__file__).parents[1] / "demo" / "speech.flac"
NEAR = 0.5  # seconds around a seam that count as near


def long_speech(path: Path, rate: int, seconds: float) -> Float32:
    """Return (N,) speech of any length: a recording repeated with random level, pause and noise."""
    rng, said = np.random.default_rng(0), open_recording(path, rate).read()
    parts, count, needed = [], 0, round(seconds * rate)
    while count < needed:
        part = np.concatenate([said * rng.uniform(0.2, 1), np.zeros(round(rng.uniform(0, 1.5) * rate))])
        parts.append(part + rng.normal(0, 10 ** rng.uniform(-4, -2), len(part)))
        count += len(part)
    return np.concatenate(parts)[:needed].astype(np.float32)


def features(model: ModelConfig, encoder: Engine, sound: Float32, **how: float) -> tuple[Float32, list[int]]:
    """Return all features (T, A) of a clip, and the indices where chunks meet.

    Args:
        model: Configuration of the model.
        encoder: The audio encoder.
        sound: (N,) samples at the model's rate.
        **how: Options of `AudioFeatureStream`.
    """
    recording = open_recording((sound, model.sample_rate), model.sample_rate)
    kept: list[Float32] = []

    class RecordingEncoder:
        """The encoder, which also keeps the features of each run."""

        spec = encoder.spec

        def run(self, inputs: Any, *, keep_on_device: bool = False) -> Any:
            outputs = encoder.run(inputs, keep_on_device=keep_on_device)
            kept.append(outputs["features"][0])
            return outputs

    length = frame_count(recording.duration)
    stream = AudioFeatureStream(recording, model, RecordingEncoder(), length, **how)  # type: ignore[arg-type]
    stream.windows(length - 1, length)
    pairs = zip(stream.chunks, kept, strict=True)
    parts = [given[chunk.kept.start - chunk.start : chunk.kept.stop - chunk.start] for chunk, given in pairs]
    return np.concatenate(parts), [chunk.kept.start for chunk in stream.chunks[1:]]


def frame_count(duration: Any) -> int:
    """Return the number of frames of a clip at 25 frames a second."""
    return max(1, int(duration * 25))


def relative(found: Float32, expected: Float32, where: NDArray[np.bool_]) -> float:
    """Return the root mean square error of the features at `where`, relative to the root mean square of all."""
    error = np.sqrt(np.mean(np.square(found - expected, dtype=np.float64)[where]))
    return float(error / np.sqrt(np.mean(np.square(expected, dtype=np.float64))))


def measure(folder: Path, seconds: float, contexts: list[float], chunk: float) -> None:
    """Print a table: context, chunks, relative error near the seams, elsewhere, and of the worst feature."""
    bundle = Bundle.open(folder)
    model, engines = bundle.manifest.model, Engines(bundle, choose("cpu", bundle), None)
    encoder, sound = engines.get("audio_encoder"), long_speech(SPEECH, model.sample_rate, seconds)
    whole, _ = features(model, encoder, sound, one_pass=seconds)
    scale = np.sqrt(np.mean(np.square(whole, dtype=np.float64)))
    print(f"{folder}: {seconds:g} s of speech, {len(whole)} features, chunks of {chunk:g} s")
    print(f"{'context':>8} {'chunks':>7} {'at seams':>10} {'elsewhere':>10} {'worst':>10}")
    for context in contexts:
        found, seams = features(model, encoder, sound, one_pass=0, chunk=chunk, context=context)
        index = np.arange(len(found))
        near = np.zeros(len(found), bool)
        for seam in seams:
            near |= np.abs(index - seam) <= NEAR * model.sample_rate / model.audio_stride
        worst = np.sqrt(np.mean(np.square(found - whole, dtype=np.float64), axis=1)).max() / scale
        row = (relative(found, whole, near), relative(found, whole, ~near), worst)
        print(f"{context:6g} s {len(seams) + 1:7} " + " ".join(f"{value:10.2e}" for value in row), flush=True)
    engines.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=Path, default=shipped_bundle(), metavar="DIR")
    parser.add_argument("--seconds", type=positive, default=120, metavar="X", help="seconds of speech (default: 120)")
    parser.add_argument("--chunk", type=positive, default=CHUNK_SECONDS, metavar="X", help="seconds of a chunk")
    parser.add_argument("--contexts", type=not_negative, nargs="+", default=[0, 1, 2, 5, 10, 20], metavar="X")
    given = parser.parse_args(arguments)
    return run(lambda: measure(given.engines, given.seconds, given.contexts, given.chunk))


if __name__ == "__main__":
    raise SystemExit(main())
