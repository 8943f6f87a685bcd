"""The frames of a live session."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.types import Float32, UInt8

_FULL_SCALE = 1 << 15  # of int16, as pushed int16 is read


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """A frame of a session, with its sound.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        index: Number of the frame: 0, 1, 2 and so on; `overload="skip"` leaves out the numbers of skipped frames.
        time: index / fps seconds, exactly.
        samples: (n,) float32, mono, at the session's `sample_rate`, from `time` until the next frame. Concatenated, the
            samples of all frames are the pushed sound without a gap; idle frames carry the silence between utterances.
            n varies by one if `sample_rate` is not a multiple of `fps`.
        idle: Whether the frame lies between utterances, and its samples are silence.
        utterance: Number of the frame's utterance, from 1; of an idle frame, that of the utterance before, or 0.
        first: Whether no earlier frame of the utterance was pulled.
        last: Whether the utterance ends with this frame. False in an utterance that was interrupted, or whose end was
            skipped. Without look-ahead and median filter, the last frame can be pulled before the utterance ends; then
            it is False too.
        held: Whether the image is that of the frame before, because the session had fallen behind
            (`overload="drop"`).
    """

    image: UInt8 = field(repr=False)
    index: int
    time: Fraction
    samples: Float32 = field(repr=False)
    idle: bool = False
    utterance: int = 0
    first: bool = False
    last: bool = False
    held: bool = False

    @property
    def samples_int16(self) -> NDArray[np.int16]:
        """`samples` as (n,) int16, rounded and clipped to full scale. Pushed int16 comes back exactly."""
        scaled = np.rint(self.samples * np.float32(_FULL_SCALE))
        clipped: NDArray[np.int16] = np.clip(scaled, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
        return clipped

    @property
    def image_bytes(self) -> bytes:
        """`image` as H * W * 3 bytes: RGB24, row by row from the top."""
        return self.image.tobytes()
