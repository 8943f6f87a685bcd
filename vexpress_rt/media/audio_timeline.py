"""Positions of decoded sound by time stamps, with silence in gaps."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from vexpress_rt.errors import AudioError
from vexpress_rt.media.ffmpeg import LOUDEST, MAX_SECONDS, MAX_VALUES, counted, moving_pictures, to_seconds
from vexpress_rt.media.file_extent import ends_without_mark, file_extent
from vexpress_rt.types import Float32

BLOCK = 65536  # samples of silence in one block
# Containers with time stamps in their packets; in the others time is the count of samples.
STAMPED = frozenset(("asf", "flv", "matroska", "mov", "mpeg", "mpegts", "ogg"))
_DISCONTINUOUS = frozenset(("mpeg", "mpegts", "ogg"))  # time stamps may restart
TOLERANCE = Fraction(1, 25)  # seconds; a smaller offset between lips and voice is imperceptible
OGG_PAGE = 1  # seconds of sound in a page of the usual programs
# Longer jumps are a restart of the clock (FFmpeg's `dts_delta_threshold`) or an error, and not a pause.
LONGEST_GAP, LONGEST_GAP_OF_DISCONTINUOUS = 600, 10  # seconds
CUT = Fraction(1, 2)  # seconds by which a file may be shorter than it declares without a note


class AudioTimeline:
    """A timeline of blocks by their time stamps, with silence in gaps.

    Args:
        container: The open file.
        stream: The sound stream of the file.
        first: The first frame.
        begin: Time stamp of the first frame in seconds, or None.
        path: The file.
        declared: Declared length of the file in seconds, or None.

    Attributes:
        rate: Sample rate in Hz.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: AudioStream,
        first: AudioFrame,
        begin: Fraction | None,
        path: Path,
        declared: Fraction | None,
    ) -> None:
        self.rate, self._channels = first.sample_rate, first.layout.nb_channels
        self._path = path
        self._format = container.format.name.split(",")[0]
        self._stamped = self._format in STAMPED or self._format == "flac"
        self._longest = LONGEST_GAP_OF_DISCONTINUOUS if self._format in _DISCONTINUOUS else LONGEST_GAP
        start = container.start_time if moving_pictures(container) else None
        self._origin = begin if start is None else Fraction(start, av.time_base)
        # An Ogg page has a time stamp only for its last packet, so a gap inside a page appears at the page's edge.
        self._last = to_seconds(stream.duration, stream.time_base) if self._format == "ogg" else None
        if self._last is not None and start is None and begin is not None and 0 < begin <= OGG_PAGE:
            self._origin = Fraction(0)
        self._done = 0
        self._gaps: list[tuple[Fraction, Fraction]] = []
        self._end, self._declared = self._declare(container, stream, begin, declared)
        self._extent = file_extent(path)
        if self._format == "flac" and self._declared and self._declared * self.rate * self._channels > MAX_VALUES:
            raise self._too_much()

    def _declare(
        self, container: InputContainer, stream: AudioStream, begin: Fraction | None, length: Fraction | None
    ) -> tuple[Fraction | None, Fraction | None]:
        """Return the end and the length of the sound in seconds, as far as the file's declarations are reliable."""
        seconds = to_seconds(stream.duration, stream.time_base)
        if self._format == "mov" and seconds:
            late = (begin or Fraction(0)) - (self._origin or Fraction(0))
            return seconds + (late if late > TOLERANCE else 0), seconds
        if self._format in ("flv", "matroska", "wv") and len(container.streams) == 1 and length:
            late = begin or Fraction(0)  # the declared length counts from 0
            return None, length - (late if 0 < late < length else 0)
        return None, seconds if self._format == "flac" else None

    @property
    def seconds(self) -> Fraction:
        """Length of the blocks so far in seconds."""
        return Fraction(self._done, self.rate)

    @property
    def end(self) -> Fraction | None:
        """Time stamp of the end in seconds, if it is later than the end of the last frame; else None."""
        beyond = self._last is not None and self._origin is not None and self._last - self._origin > self.seconds
        return self._last if beyond else None

    def place(self, blocks: list[Float32], begin: Fraction | None) -> Iterator[tuple[Float32, int, Fraction | None]]:
        """Yield silence up to a time stamp, then blocks.

        Args:
            blocks: (channels, n) float32.
            begin: Time stamp of the first block in seconds; None to append it.

        Yields:
            (samples (channels, n) float32, rate in Hz, declared end in seconds or None).

        Raises:
            AudioError: A sample is NaN, infinite or beyond `LOUDEST`, or the recording is too long.
        """
        missing = self._missing(begin) if begin is not None and self._stamped else 0
        silence = (np.zeros((self._channels, min(BLOCK, missing - at)), np.float32) for at in range(0, missing, BLOCK))
        for block in chain(silence, blocks):
            self._check(block)
            self._done += block.shape[1]
            yield block, self.rate, self._end

    def _too_much(self) -> AudioError:
        """Return the error for more than MAX_VALUES samples."""
        return AudioError(
            f"the audio {self._path} has more than {MAX_VALUES / 1e9:.1f} billion samples ({self._channels} "
            f"channels of {self.rate} Hz); expected no more: convert it to mono of 16000 Hz, or cut it into parts"
        )

    def _missing(self, begin: Fraction) -> int:
        """Return the number of missing samples before the time stamp `begin`."""
        if self._origin is None:
            self._origin = begin - self.seconds
        ahead = begin - self._origin - self.seconds
        least = Fraction(1, 1000) if self._format == "flac" else TOLERANCE  # FLAC numbers its samples
        if abs(ahead) <= least:
            return 0
        if not 0 < ahead <= self._longest:  # the clock restarted
            self._origin += ahead
            return 0
        self._gaps.append((self.seconds, ahead))
        return round(ahead * self.rate)

    def _check(self, block: Float32) -> None:
        """Check a block that is about to be placed."""
        at = f"the audio {self._path}, {float(self.seconds):.2f} seconds in,"
        peak = float(np.abs(block).max(initial=0))  # NaN if there is one
        if not np.isfinite(peak):
            raise AudioError(f"{at} holds NaN or infinite samples: repair it, or convert it to 16-bit WAV")
        if peak > LOUDEST:
            raise AudioError(
                f"{at} holds samples of up to {peak:g}; expected full scale 1: divide them, or convert it to 16-bit WAV"
            )
        if (self._done + block.shape[1]) * self._channels > MAX_VALUES:
            raise self._too_much()
        if self._done + block.shape[1] > MAX_SECONDS * self.rate:
            raise AudioError(f"the audio {self._path} lasts more than {MAX_SECONDS / 3600:g} hours: cut it into parts")

    @property
    def notes(self) -> list[str]:
        """Notes on gaps and on a truncated end; complete after the last block."""
        notes = []
        gaps = list(self._gaps)
        if gaps and gaps[0][0] == 0:
            late = float(gaps.pop(0)[1])
            notes.append(f"audio: the sound begins {late:.2f} seconds late, after silence")
        if gaps and self._format != "flac":
            total = float(sum(length for _, length in gaps))
            notes.append(
                f"audio: {total:.2f} seconds are missing in {counted(len(gaps), 'place')}, the first "
                f"{float(gaps[0][0]):.2f} seconds in; replaced by silence"
            )
        return [*notes, *self._notes_of_ends()]

    def _notes_of_ends(self) -> list[str]:
        """Return notes on a file that ends before its declared end."""
        found = self.seconds
        if self._declared is not None and self._declared - found > max(CUT, self._declared / 100):
            return [
                f"audio: the file declares {float(self._declared):.2f} seconds of sound and has {float(found):.2f}: "
                "it is truncated"
            ]
        if self._format == "ogg" and ends_without_mark(self._path):
            return ["audio: its last page is not marked as the last; it may be truncated"]
        return self._extent.notes("audio") if self._extent is not None else []
