"""What each frame hears: a recording -> the audio encoder -> rows of features, as far as frames need them.

The encoder's self-attention is quadratic in the clip. Up to `specs.AUDIO_SECONDS` it hears the recording in one pass,
as the public implementation does; beyond, in chunks that overlap. A chunk starts at a multiple of the encoder's stride,
so that its features stand exactly where those of one pass would; of two chunks, each gives those that are nearer to
its own middle. Memory holds one chunk, and the features that windows to come may need.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vexpress_rt.backends.base import Engine
from vexpress_rt.bundle.engine_spec import AUDIO_SECONDS, ModelConfig
from vexpress_rt.diffusion.context_windows import plan_windows
from vexpress_rt.errors import BackendError
from vexpress_rt.media.recording import Recording
from vexpress_rt.media.voice_activity import voice_gain
from vexpress_rt.stages.audio_features import feature_span, feature_windows, normalize
from vexpress_rt.stages.conditioning import encode_audio
from vexpress_rt.types import Float32

CHUNK_SECONDS = 45  # less than one pass, so that many of them take no more memory than that, whatever an arena loses
CONTEXT_SECONDS = 5  # that a feature hears to each side at least, but at the clip's ends; seams are gone from 1 on


@dataclass(frozen=True)
class Chunk:
    """One run of the encoder: it gives features `start` to `stop` - 1 of the clip's; `kept` are taken from it."""

    start: int
    stop: int
    kept: range


def plan_chunks(total: int, size: int, context: int) -> tuple[Chunk, ...]:
    """Chunks of `size` features that give each of `total` once, in order.

    A feature has at least `context` others of its chunk, 0 <= context < size / 2, to each side, or all that there are.
    All chunks have the same size, so that an engine's memory is laid out once: the last is moved back. If `size`
    is enough for all, there is the one chunk of `total`.
    """
    if total <= size:
        return (Chunk(0, total, range(total)),)
    windows = plan_windows(total, size, 2 * context)
    seams = [0, *((before.stop + after.start) // 2 for before, after in pairwise(windows)), total]
    return tuple(
        Chunk(window.start, window.stop, range(*seam)) for window, seam in zip(windows, pairwise(seams), strict=True)
    )


def gate_notes(recording: Recording, model: ModelConfig, gated: bool) -> tuple[str, ...]:
    """Return a note if the noise gate silences all of a recording that is not silent.

    Args:
        recording: The speech.
        model: The bundle's model.
        gated: The option `noise_gate`.
    """
    if recording.voice or not gated or not model.audio_normalize or recording.variance == 0:
        return ()
    return (
        "audio: no voice was found, only noise, so the mouth stays closed; noise_gate=False (--no-noise-gate) lets "
        "noise move it",
    )


class AudioFeatureStream:
    """The rows of audio features of a video's frames, in order.

    recording: what is said.  model: of the bundle.  encoder: its engine.  length: frames of the video.
    heard: called when a chunk is done, with their number so far and that of all.
    gated: whether the noise gate is on, see `GenerationConfig.noise_gate`. It applies only to models that take speech
        of unit variance.
    one_pass, chunk, context: seconds that are heard in one pass at most; beyond, of a chunk, and of what a feature
        hears to each side.
    """

    def __init__(
        self,
        recording: Recording,
        model: ModelConfig,
        encoder: Engine,
        length: int,
        heard: Callable[[int, int], None] = lambda done, total: None,
        *,
        gated: bool = False,
        one_pass: float = AUDIO_SECONDS,
        chunk: float = CHUNK_SECONDS,
        context: float = CONTEXT_SECONDS,
    ) -> None:
        self._recording, self._model, self._encoder = recording, model, encoder
        self._length, self._heard = length, heard
        self._gated = gated and model.audio_normalize
        self.total = self._features_of(recording.count)
        whole = recording.count <= one_pass * model.sample_rate
        size = self.total if whole else self._features_of(round(chunk * model.sample_rate))
        aside = round(context * model.sample_rate / model.audio_stride)
        self.chunks = plan_chunks(self.total, size, min(aside, (size - 1) // 2))
        self._done = 0
        self._features = np.empty((0, model.audio_hidden_size), np.float32)
        self._first = 0

    def rows(self, start: int, stop: int) -> Float32:
        """Feature rows (stop - start, R, A) float32 of frames [start, stop), start < stop; see `feature_windows`.

        Neither may be less than in the call before: what lies before is dropped. Raises AudioError if the recording
        cannot be read again, BackendError if the encoder fails or its features are not as many as its stride says.
        """
        rows = self._model.audio_rows
        span = feature_span(self.total, self._length, rows, start, stop)
        assert span.start >= self._first
        self._drop(span.start)
        while self._first + len(self._features) < span.stop:
            kept = self._next_chunk()
            self._features = np.concatenate([self._features, kept])
            self._drop(span.start)
        return feature_windows(self._features, self._length, rows, start, stop, first=self._first, total=self.total)

    def close(self) -> None:
        """Free the features. Closing twice is allowed."""
        self._features = self._features[:0].copy()

    def _drop(self, before: int) -> None:
        count = min(before - self._first, len(self._features))
        if count > 0:
            self._features = self._features[count:].copy()
            self._first += count

    def _next_chunk(self) -> Float32:
        """The features kept of the next chunk."""
        chunk, model = self.chunks[self._done], self._model
        start = chunk.start * model.audio_stride
        stop = self._recording.count
        if len(self.chunks) > 1:  # what follows the last feature's samples would be heard by nothing
            stop = (chunk.stop - 1) * model.audio_stride + model.audio_minimum_samples
        samples = self._recording.read(start, stop)
        if model.audio_normalize:
            samples = normalize(samples, self._recording)
        if self._gated:
            samples *= voice_gain(self._recording.voice, self._recording.rate, start, start + len(samples))
        features = encode_audio(self._encoder, samples, model.audio_minimum_samples)
        if len(features) != chunk.stop - chunk.start:
            raise BackendError(
                f"the audio encoder gave {len(features)} features for {len(samples)} samples; expected "
                f"{chunk.stop - chunk.start}, one every {model.audio_stride}: build the bundle again with "
                "--engine audio_encoder"
            )
        self._done += 1
        self._heard(self._done, len(self.chunks))
        return features[chunk.kept.start - chunk.start : chunk.kept.stop - chunk.start]

    def _features_of(self, samples: int) -> int:
        """How many features the encoder's convolutions, which do not pad, make of as many samples."""
        least = self._model.audio_minimum_samples
        return (max(samples, least) - least) // self._model.audio_stride + 1
