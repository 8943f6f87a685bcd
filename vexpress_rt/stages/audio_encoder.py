"""Audio features of video frames: the audio encoder runs over a recording in chunks, as frames are requested.

The encoder's self-attention is quadratic in the length. Recordings of up to `engine_spec.AUDIO_SECONDS` are encoded in
one pass, as in the public implementation; longer ones in overlapping chunks. A chunk starts at a multiple of the
encoder's stride, so that its features have the same positions as in one pass. In an overlap, each chunk contributes the
features that are nearer to its own middle. Memory holds one chunk, and the features for later frames.
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
from vexpress_rt.utils.project_links import EXPORTER

CHUNK_SECONDS = 45  # shorter than one pass: the allocator keeps memory of several chunks, which must not exceed its
CONTEXT_SECONDS = 5  # minimum on each side of a feature, except at the clip's ends; 1 second is enough to avoid seams


@dataclass(frozen=True)
class Chunk:
    """One run of the encoder.

    Attributes:
        start: Index in the clip of the first feature that the run computes.
        stop: Index after the last one.
        kept: Indices in the clip of the features that are used.
    """

    start: int
    stop: int
    kept: range


def plan_chunks(total: int, size: int, context: int) -> tuple[Chunk, ...]:
    """Plan overlapping chunks of equal size, so that an engine plans its memory once.

    Args:
        total: Features of the clip.
        size: Features of a chunk.
        context: Minimum number of features of the chunk on each side of a kept feature, except at the clip's ends,
            0 <= context < size / 2.

    Returns:
        Chunks that keep each feature once, in order; one chunk of `total` features if `size` suffices.
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
    """The feature windows of a video's frames, computed in order.

    Args:
        recording: The speech.
        model: The bundle's model.
        encoder: The engine `audio_encoder`.
        length: Frames of the video.
        progress: Called after each chunk with the number of chunks done and their total.
        gated: Whether the noise gate is on, see `GenerationConfig.noise_gate`. It applies only to models that take
            speech of unit variance.
        one_pass: Maximum seconds of a recording that is encoded in one pass.
        chunk: Seconds of a chunk of a longer recording.
        context: Minimum seconds on each side of a feature in its chunk.

    Attributes:
        total: Features of the recording.
        chunks: The planned runs of the encoder.
    """

    def __init__(
        self,
        recording: Recording,
        model: ModelConfig,
        encoder: Engine,
        length: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
        *,
        gated: bool = False,
        one_pass: float = AUDIO_SECONDS,
        chunk: float = CHUNK_SECONDS,
        context: float = CONTEXT_SECONDS,
    ) -> None:
        self._recording, self._model, self._encoder = recording, model, encoder
        self._length, self._progress = length, progress
        self._gated = gated and model.audio_normalize
        self.total = self._features_of(recording.count)
        whole = recording.count <= one_pass * model.sample_rate
        size = self.total if whole else self._features_of(round(chunk * model.sample_rate))
        margin = round(context * model.sample_rate / model.audio_stride)
        self.chunks = plan_chunks(self.total, size, min(margin, (size - 1) // 2))
        self._done = 0
        self._features = np.empty((0, model.audio_hidden_size), np.float32)
        self._first = 0

    def windows(self, start: int, stop: int) -> Float32:
        """Return the feature windows of the frames [start, stop), start < stop; see `audio_features.feature_windows`.

        Args:
            start: First frame, no less than in the previous call: earlier features are dropped.
            stop: Frame after the last, no less than in the previous call.

        Returns:
            (stop - start, R, A) float32, R features of size A per frame.

        Raises:
            AudioError: The temporary file that keeps a long recording cannot be read.
            BackendError: The encoder fails, or the number of features that it returns does not match its stride.
        """
        size = self._model.audio_rows
        span = feature_span(self.total, self._length, size, start, stop)
        assert span.start >= self._first
        self._drop(span.start)
        while self._first + len(self._features) < span.stop:
            kept = self._next_chunk()
            self._features = np.concatenate([self._features, kept])
            self._drop(span.start)
        return feature_windows(self._features, self._length, size, start, stop, first=self._first, total=self.total)

    def close(self) -> None:
        """Free the features. Closing twice is allowed."""
        self._features = self._features[:0].copy()

    def _drop(self, before: int) -> None:
        """Drop the features before an index."""
        count = min(before - self._first, len(self._features))
        if count > 0:
            self._features = self._features[count:].copy()
            self._first += count

    def _next_chunk(self) -> Float32:
        """Encode the next chunk and return its kept features, (n, A)."""
        chunk, model = self.chunks[self._done], self._model
        start = chunk.start * model.audio_stride
        stop = self._recording.count
        if len(self.chunks) > 1:  # later samples contribute to no feature
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
                f"`python -m export.build --engine audio_encoder` {EXPORTER}"
            )
        self._done += 1
        self._progress(self._done, len(self.chunks))
        return features[chunk.kept.start - chunk.start : chunk.kept.stop - chunk.start]

    def _features_of(self, samples: int) -> int:
        """Return the number of features of `samples` samples; the encoder's convolutions do not pad."""
        least = self._model.audio_minimum_samples
        return (max(samples, least) - least) // self._model.audio_stride + 1
