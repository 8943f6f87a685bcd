"""Streaming reader of sound files: constant rate and channels, positions by time stamps.

Files are untrusted and often imperfect: concatenated, truncated, with gaps in their time stamps or packets that do not
decode. The decodable part is used, missing parts become silence, and `SoundInfo.notes` reports them. A file is refused
only if a large part of it is damaged.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer

from vexpress_rt.errors import AudioError
from vexpress_rt.media.audio_converter import AudioConverter, check_format
from vexpress_rt.media.audio_decoder import AudioDecoder
from vexpress_rt.media.audio_timeline import BLOCK, AudioTimeline
from vexpress_rt.media.ffmpeg import open_media, reason
from vexpress_rt.types import FileStamp, Float32

# Formats without a header of the whole file: FFmpeg estimates their length from the first packets.
ESTIMATED = frozenset(("aac", "ac3", "amr", "dv", "eac3", "mp3", "mpeg", "mpegts"))
SMALLEST_RATE = 50  # bytes per second of sound; Opus at its lowest rate takes more
LONGEST_PADDING = 2048  # samples: a packet of HE-AAC
# Slower decoding is refused as hostile: the slowest codecs reach twice this speed on one old core.
FREE_SECONDS = 60.0  # time of reading before the limit applies
SLOWEST = 10  # seconds of sound per second of reading


@dataclass
class SoundInfo:
    """Information about a recording that is filled in while it is read.

    Attributes:
        seconds: Declared length, or None; an estimate in some formats.
        declared: Declared length of a file that is large enough for it, in a format that declares its length exactly;
            None for others.
        layout: FFmpeg's name of the channel layout, such as "5.1"; None for unknown.
        notes: Repairs, conversions and omissions, one sentence each; complete after the last block.
    """

    seconds: Fraction | None = None
    declared: Fraction | None = None
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
        AudioError: The file cannot be read or holds no sound; more than `audio_decoder.MAX_DAMAGE` of it is damaged;
            its rate, channels or length are beyond the limits of `ffmpeg`; it decodes too slowly; a sample is NaN,
            infinite or beyond `ffmpeg.LOUDEST`; or its stamp differs, at any time.
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
    """Raise AudioError if the file has another stamp."""
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
        f"the audio {path} {change} while it was read; expected a file that does not change: leave it alone until it "
        "is read"
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
    """Yield (samples, rate in Hz, declared end in seconds or None) of a file."""
    with open_media(path, "the audio", AudioError) as container:
        stream = _sound_stream(container, path, info)
        decoder, timeline, converter = AudioDecoder(container, stream, path), None, None
        for frame, begin in decoder.frames():
            if converter is None:
                check_format(frame, path)
                converter = AudioConverter(frame, path)
                timeline = AudioTimeline(container, stream, frame, begin, path, info.seconds)
                info.layout = converter.layout
            assert timeline is not None
            blocks = converter.convert(frame, timeline.seconds)
            yield from timeline.place(decoder.silence_bursts(blocks, timeline), begin)
        if timeline is None or converter is None:
            why = f" ({reason(decoder.failure)})" if decoder.failure else ""
            raise AudioError(f"the audio {path} holds no samples{why}; expected speech: check that it plays")
        yield from timeline.place(converter.finish(), timeline.end)
        decoder.check(timeline)
        info.notes += [*converter.notes, *decoder.notes, *timeline.notes]


def _sound_stream(container: InputContainer, path: Path, info: SoundInfo) -> AudioStream:
    """Return the sound stream to use, and fill in what the file declares."""
    tracks = list(container.streams.audio)
    stream = container.streams.best("audio")
    if not isinstance(stream, AudioStream) or stream.codec_context is None:
        found = ", ".join(s.type for s in container.streams) or "nothing"
        raise AudioError(f"{path} holds {found} but no sound that can be decoded; expected speech: check the file")
    if len(tracks) > 1:
        info.notes.append(f"audio: of its {len(tracks)} sound tracks number {tracks.index(stream) + 1} is used")
    if container.duration is not None and container.duration > 0:
        info.seconds = Fraction(container.duration, av.time_base)
        exact = container.format.name.split(",")[0] not in ESTIMATED
        if exact and path.stat().st_size >= SMALLEST_RATE * info.seconds:
            info.declared = info.seconds
    return stream
