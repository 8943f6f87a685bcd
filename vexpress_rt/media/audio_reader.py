"""A streaming decoder for sound files: constant rate and channels, positions by time stamps.

Files are untrusted and often imperfect: concatenated, truncated, with gaps in their time stamps or packets that do not
decode. The decodable part is used, missing parts become silence, and `SoundInfo.notes` reports them. A file is refused
only if a large part of it is damaged.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.filter import Graph
from av.packet import Packet

from vexpress_rt.errors import AudioError
from vexpress_rt.media.channel_mix import conversion_weights
from vexpress_rt.media.ffmpeg import (
    LOUDEST,
    MAX_CHANNELS,
    MAX_RATE,
    MAX_SECONDS,
    MAX_VALUES,
    MIN_RATE,
    moving_pictures,
    open_media,
    packets,
    reason,
)
from vexpress_rt.media.file_extent import ends_without_mark, file_extent, leading_tag
from vexpress_rt.types import FileStamp, Float32

BLOCK = 65536
LONGEST_PADDING = 2048  # samples: a packet of HE-AAC
# Containers with time stamps in their packets; in the others time is the count of samples.
_STAMPED = frozenset(("asf", "flv", "matroska", "mov", "mpeg", "mpegts", "ogg"))
_DISCONTINUOUS = frozenset(("mpeg", "mpegts", "ogg"))  # whose time stamps may restart
_ELEMENTARY = frozenset(("aac", "ac3", "amr", "eac3", "mp3"))  # elementary streams, perhaps with tags and junk
_LOSSLESS = frozenset(("alac", "ape", "flac", "mlp", "tta", "truehd", "wavpack"))
LOUDEST_DECODED = 4.0  # times full scale; the overshoot of a lossy codec stays below 2
TOLERANCE = Fraction(1, 25)  # seconds; a smaller offset between lips and voice is imperceptible
OGG_PAGE = 1  # seconds of sound in a page of the usual programs
# Longer jumps are a restart of the clock (FFmpeg's `dts_delta_threshold`) or an error, and not a pause.
LONGEST_GAP, LONGEST_GAP_OF_DISCONTINUOUS = 600, 10  # seconds
MAX_DAMAGE = 0.1  # share of a recording whose packets may fail to decode
CUT = Fraction(1, 2)  # seconds by which a file may be shorter than it declares without a note
# Slower decoding is refused as hostile: the slowest codecs reach twice this speed on one old core.
FREE_SECONDS = 60.0  # time of reading before the limit applies
SLOWEST = 10  # seconds of sound per second of reading


@dataclass
class SoundInfo:
    """Information about a recording that is filled in while it is read.

    Attributes:
        seconds: Declared length, or None; an estimate in some formats.
        layout: FFmpeg's name of the channel layout, such as "5.1"; None for unknown.
        notes: Repairs, conversions and omissions, one sentence each; complete after the last block.
    """

    seconds: Fraction | None = None
    layout: str | None = None
    notes: list[str] = field(default_factory=list)


def sound_blocks(
    source: Path | tuple[Float32, int], stamp: FileStamp | None = None, info: SoundInfo | None = None
) -> Generator[tuple[Float32, int], None, None]:
    """Decode the sound of a recording block by block; memory does not grow with its length.

    All blocks have the rate and the channels of the first frame; later changes are converted. In a video, time starts
    with the earlier of sound and picture; in a sound file, with the first sample. Gaps between time stamps and packets
    that do not decode become silence of their length. In streams without time stamps (MP3, AAC) they are skipped, like
    tags and junk between frames. The padding of the last packet is dropped if the file declares the exact length.

    Args:
        source: The file, or (samples (channels, N) or (N,) float32, rate in Hz).
        stamp: The file's stamp from an earlier pass; None accepts any.
        info: Filled in during the pass.

    Yields:
        (samples (channels, n) float32, rate in Hz), n >= 1.

    Raises:
        AudioError: The file cannot be read or holds no sound; more than MAX_DAMAGE of it is damaged; its rate is not in
            `MIN_RATE` to `MAX_RATE`; it has more than `MAX_CHANNELS` channels or lasts more than `MAX_SECONDS`; it
            decodes too slowly; a sample is NaN, infinite or beyond `LOUDEST`; or its stamp differs, at any time.
    """
    if isinstance(source, Path):
        decoded = _in_time(_decode_file(source, SoundInfo() if info is None else info), source)
        yield from _unchanged(_without_padding(decoded), source, stamp)
        return
    samples, rate = source
    channels = samples.reshape(-1, samples.shape[-1])
    for start in range(0, channels.shape[1], BLOCK):
        yield channels[:, start : start + BLOCK], rate


def _unchanged(
    blocks: Iterator[tuple[Float32, int]], path: Path, stamp: FileStamp | None
) -> Iterator[tuple[Float32, int]]:
    """Yield the blocks of a file; compare its stamp before each, which takes a microsecond."""
    _check_stamp(path, stamp)
    try:
        for block in blocks:
            _check_stamp(path, stamp)
            yield block
    except AudioError:
        _check_stamp(path, stamp)  # a changed file is the real cause
        raise
    _check_stamp(path, stamp)


def _check_stamp(path: Path, stamp: FileStamp | None) -> None:
    found = FileStamp.of(path)
    if stamp is None or found == stamp:
        return
    if found is None:
        change = "was removed"
    elif found.inode != stamp.inode:
        change = f"was replaced by another file, of {found.size} bytes"
    elif found.size != stamp.size:
        change = f"was written to, and has {found.size} bytes instead of {stamp.size}"
    else:
        change = "was written to"
    raise AudioError(
        f"the audio {path} {change} since it was first read; expected it to stay as it was: leave the file alone while "
        "the video is made"
    )


def _in_time(
    blocks: Iterator[tuple[Float32, int, Fraction | None]], path: Path
) -> Iterator[tuple[Float32, int, Fraction | None]]:
    """Yield the blocks, and refuse a file that decodes too slowly; the time of the consumer does not count."""
    spent, done = 0.0, 0
    while True:
        began = time.perf_counter()
        block = next(blocks, None)
        spent += time.perf_counter() - began
        if block is None:
            return
        done += block[0].shape[1]
        if spent > FREE_SECONDS and done < SLOWEST * spent * block[1]:
            raise AudioError(
                f"the audio {path} took {spent:.0f} seconds to read its first {done / block[1]:.0f} "
                f"seconds ({len(block[0])} channels, {block[1]} Hz); expected sound that decodes at least {SLOWEST} "
                "times as fast as it plays: convert it to mono WAV of 16000 Hz"
            )
        yield block


def _without_padding(blocks: Iterator[tuple[Float32, int, Fraction | None]]) -> Iterator[tuple[Float32, int]]:
    """Cut blocks of (samples, rate, declared seconds) at the declared length, if at most padding follows it.

    FFmpeg drops an encoder's padding itself, except at the end of AAC in MP4. A file with more sound than padding after
    its declared length declares a wrong length, and is used whole.
    """
    done, beyond = 0, list[Float32]()
    for block, rate, seconds in blocks:
        before, done = done, done + block.shape[1]
        end = done if seconds is None else max(1, round(seconds * rate))
        if 0 < done - end <= LONGEST_PADDING:
            room = max(0, end - before)
            beyond.append(block[:, room:])
            block = block[:, :room]
        elif beyond:
            block = np.concatenate([*beyond, block], axis=1)
            beyond.clear()
        if block.shape[1]:
            yield block, rate


def _decode_file(path: Path, info: SoundInfo) -> Iterator[tuple[Float32, int, Fraction | None]]:
    with open_media(path, "the audio", AudioError) as container:
        stream = _sound_stream(container, path, info)
        decoder, timeline, converter = _Decoder(container, stream, path), None, None
        for frame, begin in decoder.frames():
            if converter is None:
                _check_format(frame, path)
                converter = _Converter(frame, path)
                timeline = _Timeline(container, stream, frame, begin, path, info)
                info.layout = converter.layout
            assert timeline is not None
            blocks = converter.convert(frame, timeline.seconds)
            yield from timeline.place(decoder.silence_spoilt(blocks, timeline), begin)
        if timeline is None or converter is None:
            why = f" ({reason(decoder.failure)})" if decoder.failure else ""
            raise AudioError(f"the audio {path} holds no samples{why}; expected speech: check that it plays")
        yield from timeline.place(converter.finish(), timeline.end)
        decoder.check(timeline)
        info.notes += [*converter.notes, *decoder.notes, *timeline.notes]


def _sound_stream(container: InputContainer, path: Path, info: SoundInfo) -> AudioStream:
    tracks = list(container.streams.audio)
    stream = container.streams.best("audio")
    if not isinstance(stream, AudioStream) or stream.codec_context is None:
        found = ", ".join(s.type for s in container.streams) or "nothing"
        raise AudioError(f"{path} holds {found} but no sound that can be decoded; expected speech: check the file")
    if len(tracks) > 1:
        info.notes.append(f"audio: of its {len(tracks)} sound tracks number {tracks.index(stream) + 1} is used")
    if container.duration is not None and container.duration > 0:
        info.seconds = Fraction(container.duration, av.time_base)
    return stream


def _check_format(frame: AudioFrame, path: Path) -> None:
    rate, channels = frame.sample_rate, frame.layout.nb_channels
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(
            f"the audio {path} has {rate} Hz; expected {MIN_RATE} to {MAX_RATE}: resample it, to 16000 for example"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(
            f"the audio {path} has {channels} channels; expected 1 to {MAX_CHANNELS}: convert it to mono or stereo"
        )


class _Decoder:
    """Decodes the frames of a stream and records undecodable packets.

    Attributes:
        failure: The last exception of a packet, or None.
    """

    def __init__(self, container: InputContainer, stream: AudioStream, path: Path) -> None:
        self._container, self._stream, self._path = container, stream, path
        self._format = container.format.name.split(",")[0]
        self.failure: BaseException | None = None
        self._places: list[Fraction | None] = []  # time stamps of damage between decodable packets
        self._why: BaseException | None = None  # exception of the first damaged place
        self._missing = Fraction(0)  # seconds missing by FLAC's sample numbers
        self._lost = Fraction(0)  # seconds of packets that do not decode
        self._unreadable: BaseException | None = None
        self._spoilt: list[Fraction] = []  # of frames that are no sound
        name = stream.codec_context.name
        self._lossy = not name.startswith("pcm_") and name not in _LOSSLESS
        self._read = 0  # bytes of packets

    def frames(self) -> Iterator[tuple[AudioFrame, Fraction | None]]:
        """Yield (frame, its time stamp in seconds or None)."""
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
                    pending.append((_seconds(packet.pts, packet.time_base), _duration(packet), error))
                continue
            for frame in frames:
                assert isinstance(frame, AudioFrame)
                if not frame.samples or not frame.sample_rate:
                    continue
                begin = _seconds(frame.pts, frame.time_base)
                if decoded:
                    self._count_lost(pending)
                    if self._format == "flac" and begin is not None and begin > end + Fraction(1, 1000):
                        self._missing += begin - end
                        self._places.append(begin)
                pending, decoded = [], True
                end = (end if begin is None else begin) + Fraction(frame.samples, frame.sample_rate)
                yield frame, begin

    def _count_lost(self, pending: list[tuple[Fraction | None, Fraction, BaseException]]) -> None:
        if not pending:
            return
        self._places.append(pending[0][0])
        self._why = self._why or pending[0][2]
        self._lost += sum((duration for _, duration, _ in pending), Fraction(0))

    def silence_spoilt(self, blocks: list[Float32], timeline: _Timeline) -> list[Float32]:
        """Return the blocks of a frame, silenced if they are far louder than any encoder's input.

        A damaged packet of a lossy codec often decodes to a burst, which would decide the level of the whole clip.
        """
        if not self._lossy or all(float(np.abs(block).max(initial=0)) <= LOUDEST_DECODED for block in blocks):
            return blocks
        self._spoilt.append(timeline.seconds)
        self._lost += sum((Fraction(block.shape[1], timeline.rate) for block in blocks), Fraction(0))
        return [np.zeros_like(block) for block in blocks]

    def _note_unreadable(self, error: BaseException) -> None:
        self._unreadable = self._unreadable or error

    def check(self, timeline: _Timeline) -> None:
        """Raise AudioError if more than MAX_DAMAGE of the sound does not decode."""
        lost = self._missing if self._format == "flac" else self._lost
        places = self._places and self._format not in _ELEMENTARY
        if not (places or self._spoilt) or lost <= MAX_DAMAGE * timeline.seconds:
            return
        why = reason(self._why) if self._why else f"{float(lost):.2f} seconds are missing"
        first = min([*self._spoilt, *([Fraction(self._first)] if places else [])])
        raise AudioError(
            f"the audio {self._path} is damaged {float(first):.2f} seconds in ({why}): transfer it anew, or repair it "
            "by converting it to WAV"
        )

    @property
    def _first(self) -> float:
        start = self._stream.start_time if self._format in _STAMPED else 0
        origin = _seconds(start, self._stream.time_base) or Fraction(0)
        return max(0.0, float((self._places[0] or Fraction(0)) - origin))

    @property
    def notes(self) -> list[str]:
        notes = []
        if self._places and self._format in _ELEMENTARY:
            notes.append(
                "audio: tags, junk or damaged frames are passed over in "
                f"{_counted(len(self._places), 'place')}, the first {self._first:.2f} seconds in"
            )
        elif self._places:
            notes.append(
                f"audio: it cannot be decoded in {_counted(len(self._places), 'place')}, the first {self._first:.2f} "
                "seconds in; silence stands in for what is lost"
            )
        if self._format == "aac" and (unread := self._path.stat().st_size - leading_tag(self._path) - self._read) > 0:
            notes.append(f"audio: {unread} bytes between its frames, such as tags or junk, are passed over")
        if self._spoilt:
            notes.append(
                f"audio: {_counted(len(self._spoilt), 'damaged frame')} far beyond full scale, the first "
                f"{float(self._spoilt[0]):.2f} seconds in; silence stands in for what is lost"
            )
        if self._unreadable:
            notes.append(f"audio: a part of the file cannot be read ({reason(self._unreadable)}) and is left out")
        return notes


class _Converter:
    """Converts frames to (channels, n) float32, full scale 1, with the layout and rate of the first frame.

    libswresample does the conversion, because PyAV's `AudioFrame.planes` reads beyond FFmpeg's list of planes for eight
    or more channels. The filters return packed samples, which have one plane.

    Attributes:
        layout: FFmpeg's name of the first frame's channel layout.
    """

    def __init__(self, first: AudioFrame, path: Path) -> None:
        self.layout = first.layout.name
        self._channels, self._rate, self._path = first.layout.nb_channels, first.sample_rate, path
        self._format: tuple[str, str, int] | None = None
        self._graph: Graph | None = None
        self._changes: list[tuple[Fraction, int, str]] = []

    def convert(self, frame: AudioFrame, at: Fraction) -> list[Float32]:
        """Convert a frame. at: seconds of sound before it, for messages."""
        found = frame.format.name, frame.layout.name, frame.sample_rate
        pieces = []
        try:
            if found != self._format:
                pieces = self.finish()
                self._open(frame, found, at)
            assert self._graph is not None
            frame.pts = None  # with time stamps, the filters drop or repeat samples at jumps
            self._graph.push(frame)
            return [*pieces, *self._pull()]
        except MemoryError:
            raise
        except Exception as error:  # a frame with impossible parameters
            raise AudioError(
                f"the audio {self._path}, {float(at):.2f} seconds in, has samples that cannot be converted "
                f"({reason(error)}): convert it to WAV"
            ) from error

    def _open(self, frame: AudioFrame, found: tuple[str, str, int], at: Fraction) -> None:
        if self._format is not None and (found[1:] != self._format[1:]):
            _check_format(frame, self._path)
            self._changes.append((at, frame.sample_rate, frame.layout.name))
        graph = Graph()
        source = f"sample_fmt={found[0]}:channel_layout={found[1]}:sample_rate={found[2]}:time_base=1/{found[2]}"
        nodes = [
            graph.add("abuffer", source),
            graph.add("aformat", f"sample_fmts=flt:sample_rates={self._rate}"),
            graph.add("abuffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        self._graph, self._format = graph, found
        self._weights = None
        if frame.layout.nb_channels != self._channels or (self.layout != found[1] and self._channels > 2):
            self._weights = conversion_weights(found[1], frame.layout.nb_channels, self.layout, self._channels)

    def finish(self) -> list[Float32]:
        """Return the samples that remain in the filters after a conversion of the rate."""
        if self._graph is None or self._format is None or self._format[2] == self._rate:
            return []
        self._graph.push(None)
        return self._pull()

    def _pull(self) -> list[Float32]:
        assert self._graph is not None
        pieces: list[Float32] = []
        while True:
            try:
                frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return pieces
            assert isinstance(frame, AudioFrame)
            count = frame.layout.nb_channels
            samples = frame.to_ndarray().astype(np.float32, copy=False).reshape(-1, count).T
            if self._weights is not None:
                samples = (self._weights @ samples.astype(np.float64)).astype(np.float32)
            pieces.append(np.ascontiguousarray(samples))

    @property
    def notes(self) -> list[str]:
        if not self._changes:
            return []
        at, rate, layout = self._changes[0]
        more = f", and changes {_counted(len(self._changes) - 1, 'time')} more" if len(self._changes) > 1 else ""
        return [
            f"audio: {float(at):.2f} seconds in, the sound turns to {rate} Hz, {layout}{more}; all of it is converted "
            f"to {self._rate} Hz, {self.layout}"
        ]


class _Timeline:
    """Places blocks by their time stamps, with silence in gaps.

    Attributes:
        rate: Sample rate in Hz.
        seconds: Length of the blocks so far.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: AudioStream,
        first: AudioFrame,
        begin: Fraction | None,
        path: Path,
        info: SoundInfo,
    ) -> None:
        self.rate, self._channels = first.sample_rate, first.layout.nb_channels
        self._path, self._info = path, info
        self._format = container.format.name.split(",")[0]
        self._stamped = self._format in _STAMPED or self._format == "flac"
        self._longest = LONGEST_GAP_OF_DISCONTINUOUS if self._format in _DISCONTINUOUS else LONGEST_GAP
        start = container.start_time if moving_pictures(container) else None
        self._origin = begin if start is None else Fraction(start, av.time_base)
        # An Ogg page has a time stamp only for its last packet, so a gap inside a page appears at the page's edge.
        self._last = _seconds(stream.duration, stream.time_base) if self._format == "ogg" else None
        if self._last is not None and start is None and begin is not None and 0 < begin <= OGG_PAGE:
            self._origin = Fraction(0)
        self._done = 0
        self._gaps: list[tuple[Fraction, Fraction]] = []
        self._end, self._declared = self._declare(container, stream, begin)
        self._extent = file_extent(path)
        if self._format == "flac" and self._declared and self._declared * self.rate * self._channels > MAX_VALUES:
            raise self._too_much()

    def _declare(
        self, container: InputContainer, stream: AudioStream, begin: Fraction | None
    ) -> tuple[Fraction | None, Fraction | None]:
        """Return the end and the length of the sound in seconds, as far as the file's declarations are reliable."""
        seconds = _seconds(stream.duration, stream.time_base)
        if self._format == "mov" and seconds:
            late = (begin or Fraction(0)) - (self._origin or Fraction(0))
            return seconds + (late if late > TOLERANCE else 0), seconds
        if self._format in ("flv", "matroska", "wv") and len(container.streams) == 1 and self._info.seconds:
            late = begin or Fraction(0)  # the declared length counts from 0
            return None, self._info.seconds - (late if 0 < late < self._info.seconds else 0)
        return None, seconds if self._format == "flac" else None

    @property
    def seconds(self) -> Fraction:
        return Fraction(self._done, self.rate)

    @property
    def end(self) -> Fraction | None:
        """Return the time stamp of the end, if it is later than the end of the last frame."""
        beyond = self._last is not None and self._origin is not None and self._last - self._origin > self.seconds
        return self._last if beyond else None

    def place(self, blocks: list[Float32], begin: Fraction | None) -> Iterator[tuple[Float32, int, Fraction | None]]:
        """Yield silence up to the time stamp `begin`, then the blocks."""
        missing = self._missing(begin) if begin is not None and self._stamped else 0
        silence = (np.zeros((self._channels, min(BLOCK, missing - at)), np.float32) for at in range(0, missing, BLOCK))
        for block in chain(silence, blocks):
            self._check(block)
            self._done += block.shape[1]
            yield block, self.rate, self._end

    def _too_much(self) -> AudioError:
        return AudioError(
            f"the audio {self._path} has more than {MAX_VALUES / 1e9:.1f} thousand million samples ({self._channels} "
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
        notes = []
        gaps = list(self._gaps)
        if gaps and gaps[0][0] == 0:
            late = float(gaps.pop(0)[1])
            notes.append(f"audio: the sound begins {late:.2f} seconds late; silence stands before it")
        if gaps and self._format != "flac":
            total = float(sum(length for _, length in gaps))
            notes.append(
                f"audio: {total:.2f} seconds are missing in {_counted(len(gaps), 'place')}, the first "
                f"{float(gaps[0][0]):.2f} seconds in; silence stands in for them"
            )
        return [*notes, *self._notes_of_ends()]

    def _notes_of_ends(self) -> list[str]:
        heard = self.seconds
        if self._declared is not None and self._declared - heard > max(CUT, self._declared / 100):
            return [
                f"audio: the file declares {float(self._declared):.2f} seconds of sound and has {float(heard):.2f}: "
                "it is cut short"
            ]
        if self._format == "ogg" and ends_without_mark(self._path):
            return ["audio: its last page does not say that it is the last; it may be cut short"]
        return self._extent.notes("audio") if self._extent is not None else []


def _seconds(ticks: int | None, base: Fraction | None) -> Fraction | None:
    return None if ticks is None or not base else ticks * base


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _duration(packet: Packet[AudioStream]) -> Fraction:
    return _seconds(packet.duration, packet.time_base) or Fraction(0)
