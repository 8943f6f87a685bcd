"""Decoding of the packets of a sound stream, with a record of damage."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from vexpress_rt.errors import AudioError
from vexpress_rt.media.audio_timeline import STAMPED, AudioTimeline
from vexpress_rt.media.ffmpeg import counted, packets, reason, to_seconds
from vexpress_rt.media.file_extent import leading_tag
from vexpress_rt.types import Float32

_ELEMENTARY = frozenset(("aac", "ac3", "amr", "eac3", "mp3"))  # elementary streams, perhaps with tags and junk
_LOSSLESS = frozenset(("alac", "ape", "flac", "mlp", "tta", "truehd", "wavpack"))
LOUDEST_DECODED = 4.0  # times full scale; the overshoot of a lossy codec stays below 2
MAX_DAMAGE = 0.1  # share of a recording whose packets may fail to decode


class AudioDecoder:
    """A decoder of the frames of a stream, which records undecodable packets.

    Args:
        container: The open file.
        stream: The sound stream of the file.
        path: The file, for messages.

    Attributes:
        failure: The last exception of a packet, or None.
    """

    def __init__(self, container: InputContainer, stream: AudioStream, path: Path) -> None:
        self._container, self._stream, self._path = container, stream, path
        self._format = container.format.name.split(",")[0]
        self.failure: BaseException | None = None
        self._places: list[Fraction | None] = []  # time stamps of damage between decodable packets
        self._why: BaseException | None = None  # exception of the first damaged packet
        self._missing = Fraction(0)  # seconds missing by FLAC's sample numbers
        self._lost = Fraction(0)  # seconds of packets that do not decode
        self._unreadable: BaseException | None = None
        self._bursts: list[Fraction] = []  # seconds at which frames were silenced
        name = stream.codec_context.name
        self._lossy = not name.startswith("pcm_") and name not in _LOSSLESS
        self._read = 0  # bytes of packets

    def frames(self) -> Iterator[tuple[AudioFrame, Fraction | None]]:
        """Decode the stream.

        Yields:
            (frame, its time stamp in seconds or None).

        Raises:
            AudioError: The disk or the network fails.
        """
        pending: list[tuple[Fraction | None, Fraction, BaseException]] = []
        decoded, end = False, Fraction(0)
        for packet in packets(
            self._container, self._stream, self._path, "the audio", AudioError, self._note_unreadable
        ):
            self._read += packet.size
            try:
                frames = packet.decode()
            except MemoryError:
                raise
            except Exception as error:  # FFmpeg's errors, and PyAV's own on unexpected data
                if packet.size:  # an empty packet only flushes the decoder
                    self.failure = error
                    duration = to_seconds(packet.duration, packet.time_base) or Fraction(0)
                    pending.append((to_seconds(packet.pts, packet.time_base), duration, error))
                continue
            for frame in frames:
                assert isinstance(frame, AudioFrame)
                if not frame.samples or not frame.sample_rate:
                    continue
                begin = to_seconds(frame.pts, frame.time_base)
                if decoded:
                    self._count_lost(pending)
                    if self._format == "flac" and begin is not None and begin > end + Fraction(1, 1000):
                        self._missing += begin - end
                        self._places.append(begin)
                pending, decoded = [], True
                end = (end if begin is None else begin) + Fraction(frame.samples, frame.sample_rate)
                yield frame, begin

    def _count_lost(self, pending: list[tuple[Fraction | None, Fraction, BaseException]]) -> None:
        """Count packets that did not decode, between packets that did."""
        if not pending:
            return
        self._places.append(pending[0][0])
        self._why = self._why or pending[0][2]
        self._lost += sum((duration for _, duration, _ in pending), Fraction(0))

    def silence_bursts(self, blocks: list[Float32], timeline: AudioTimeline) -> list[Float32]:
        """Return the blocks of a frame, silenced if they are far louder than any encoder's input.

        A damaged packet of a lossy codec often decodes to a burst, which would dominate the level of the whole clip.

        Args:
            blocks: (channels, n) float32, full scale 1.
            timeline: The timeline that they are placed on next.
        """
        if not self._lossy or all(float(np.abs(block).max(initial=0)) <= LOUDEST_DECODED for block in blocks):
            return blocks
        self._bursts.append(timeline.seconds)
        self._lost += sum((Fraction(block.shape[1], timeline.rate) for block in blocks), Fraction(0))
        return [np.zeros_like(block) for block in blocks]

    def _note_unreadable(self, error: BaseException) -> None:
        self._unreadable = self._unreadable or error

    def check(self, timeline: AudioTimeline) -> None:
        """Check that no more than MAX_DAMAGE of the sound is lost.

        Args:
            timeline: The timeline after the last frame.

        Raises:
            AudioError: More is lost. The message names the first place.
        """
        lost = self._missing if self._format == "flac" else self._lost
        places = self._places and self._format not in _ELEMENTARY
        if not (places or self._bursts) or lost <= MAX_DAMAGE * timeline.seconds:
            return
        why = reason(self._why) if self._why else f"{float(lost):.2f} seconds are missing"
        first = min([*self._bursts, *([Fraction(self._first)] if places else [])])
        raise AudioError(
            f"the audio {self._path} is damaged {float(first):.2f} seconds in ({why}): transfer it again, or repair it "
            "by converting it to WAV"
        )

    @property
    def _first(self) -> float:
        """Seconds before the first damaged place."""
        start = self._stream.start_time if self._format in STAMPED else 0
        origin = to_seconds(start, self._stream.time_base) or Fraction(0)
        return max(0.0, float((self._places[0] or Fraction(0)) - origin))

    @property
    def notes(self) -> list[str]:
        """Notes on damage; complete after the last frame."""
        notes = []
        if self._places and self._format in _ELEMENTARY:
            notes.append(
                "audio: tags, junk or damaged frames are skipped in "
                f"{counted(len(self._places), 'place')}, the first {self._first:.2f} seconds in"
            )
        elif self._places:
            notes.append(
                f"audio: it cannot be decoded in {counted(len(self._places), 'place')}, the first {self._first:.2f} "
                "seconds in; replaced by silence"
            )
        if self._format == "aac" and (unread := self._path.stat().st_size - leading_tag(self._path) - self._read) > 0:
            notes.append(f"audio: {unread} bytes between its frames, such as tags or junk, are skipped")
        if self._bursts:
            notes.append(
                f"audio: {counted(len(self._bursts), 'damaged frame')} far beyond full scale, the first "
                f"{float(self._bursts[0]):.2f} seconds in; replaced by silence"
            )
        if self._unreadable:
            notes.append(f"audio: a part of the file cannot be read ({reason(self._unreadable)}) and is skipped")
        return notes
