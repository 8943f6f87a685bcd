"""Sound and video files as PyAV reads them, opened so that an untrusted file can do no harm.

FFmpeg also reads playlists and scripts (HLS, DASH, concat, lavfi) that name further files and addresses, and picks a
reader by content, not by name. So the readers are listed, nothing but the file itself may be opened, and
the sizes that a file may declare are bounded.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet

from vexpress_rt.errors import AudioError, InputError
from vexpress_rt.paths import input_file
from vexpress_rt.records import FileStamp, Float32

READERS = (
    *("aac", "ac3", "aiff", "amr", "ape", "asf", "au", "avi", "caf", "dv", "eac3", "flac", "flv", "matroska", "mov"),
    *("mp3", "mpeg", "mpegts", "mxf", "ogg", "voc", "w64", "wav", "wv"),
)
MAX_PIXELS = 8192 * 4320
MAX_SECONDS = 4 * 3600
MIN_RATE, MAX_RATE = 1000, 768_000  # Hz; beyond them resampling takes memory out of all proportion
LOUDEST = 1e4  # full scales: what is far from 1 is of another scale, and 3e38 is infinite after a sum or a filter
BLOCK = 65536
LONGEST_PADDING = 2048  # samples: a packet of HE-AAC
# Readers that pass over what they cannot read, and say so only by the time of what follows: there each frame has the
# number of its first sample, so that nothing else leaves a gap.
_GAPLESS = ("flac",)
_ROUNDING = 1e-3  # seconds
# Full scale of the integer sample formats; 8-bit samples are unsigned around 128.
_SCALE = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31}


@contextmanager
def open_media(path: Path, kind: str, error: type[InputError]) -> Iterator[InputContainer]:
    """Open a sound or video file for reading; `kind` ("the audio") and `error` are for complaints.

    Raises `error` for a path that is no regular file and for a file that none of `READERS` can read.
    """
    path = input_file(path, kind, "a sound or video file", error)
    try:
        # The prefix keeps a name like "concat:a|b" or "http:x" from being taken as an address.
        container = av.open(
            f"file:{path}",
            "r",
            options={"max_pixels": str(MAX_PIXELS)},
            container_options={"protocol_whitelist": "file", "format_whitelist": ",".join(READERS)},
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError) as cause:
        raise error(
            f"{kind} {path} cannot be read ({reason(cause)}); expected a sound or video file such as WAV, MP3, MP4 "
            "or MKV: check that it plays, or convert it"
        ) from cause
    with container:
        yield container


def reason(error: BaseException) -> str:
    """What FFmpeg or the system said, without the path and numbers around it."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def sound_blocks(
    source: Path | tuple[Float32, int], stamp: FileStamp | None = None
) -> Generator[tuple[Float32, int], None, None]:
    """The sound of a recording, as (samples (channels, n) float32, rate in Hz) pieces from its start, n >= 1.

    A file is decoded as it is consumed, so memory does not grow with its length. The sound starts with its first
    sample, wherever the file places it against a picture; gaps between time stamps are not filled, and in FLAC, where
    only damage makes them, are refused. Undecodable packets are passed over at the start and the end (tags, cut files),
    but not in between. What an encoder added to fill its last packet does not count, where the file tells how long the
    sound really is.

    stamp: of the file when it was read before; None lets it be another now.

    Raises AudioError when a file cannot be read, holds no sound, is damaged in the middle, changes its rate, has one
    that is not in `MIN_RATE` to `MAX_RATE`, lasts more than `MAX_SECONDS`, has samples that are NaN, infinite, or
    beyond `LOUDEST`, or has not the stamp, at the start or later.
    """
    if isinstance(source, Path):
        yield from _unchanged(_without_padding(_decode_file(source)), source, stamp)
        return
    samples, rate = source
    channels = samples.reshape(-1, samples.shape[-1])
    for start in range(0, channels.shape[1], BLOCK):
        yield channels[:, start : start + BLOCK], rate


def _unchanged(
    blocks: Iterator[tuple[Float32, int]], path: Path, stamp: FileStamp | None
) -> Iterator[tuple[Float32, int]]:
    """Blocks of a file, each looked at again after it was read: it takes a microsecond, and nothing wrong is given."""
    _check_stamp(path, stamp)
    try:
        for block in blocks:
            _check_stamp(path, stamp)
            yield block
    except AudioError:
        _check_stamp(path, stamp)  # then that is why
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


def _without_padding(blocks: Iterator[tuple[Float32, int, Fraction | None]]) -> Iterator[tuple[Float32, int]]:
    """Blocks of (samples, rate, declared seconds) up to the declared length, if little more than that is there.

    FFmpeg drops an encoder's padding by itself, but for the end of AAC in MP4. A file that goes on for more than
    padding declares a wrong length, and is taken whole.
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


def _decode_file(path: Path) -> Iterator[tuple[Float32, int, Fraction | None]]:
    rate = done = 0
    for frame, seconds in _decode_frames(path):
        rate = rate or frame.sample_rate
        at = f"the audio {path}, {done / rate:.2f} seconds in," if rate else f"the audio {path}"
        if frame.sample_rate != rate:
            raise AudioError(f"{at} turns from {rate} to {frame.sample_rate} Hz; expected one rate: convert it to WAV")
        if not MIN_RATE <= rate <= MAX_RATE:
            raise AudioError(
                f"the audio {path} has {rate} Hz; expected {MIN_RATE} to {MAX_RATE}: resample it, to 16000 for example"
            )
        block = _samples(frame, at)
        _check_samples(block, at)
        done += block.shape[1]
        if done > MAX_SECONDS * rate:
            raise AudioError(f"the audio {path} lasts more than {MAX_SECONDS / 3600:g} hours: cut it into parts")
        if block.shape[1]:
            yield block, rate, seconds


def _check_samples(block: Float32, at: str) -> None:
    peak = float(np.abs(block).max(initial=0))  # NaN if there is one
    if not np.isfinite(peak):
        raise AudioError(f"{at} holds NaN or infinite samples: repair it, or convert it to 16-bit WAV")
    if peak > LOUDEST:
        raise AudioError(
            f"{at} holds samples of up to {peak:g}; expected full scale 1: divide them, or convert it to 16-bit WAV"
        )


def _decode_frames(path: Path) -> Iterator[tuple[AudioFrame, Fraction | None]]:
    """Frames, and how many seconds of sound the file declares, where that can be believed."""
    with open_media(path, "the audio", AudioError) as container:
        stream = container.streams.best("audio")
        if not isinstance(stream, AudioStream) or stream.codec_context is None:
            found = ", ".join(s.type for s in container.streams) or "nothing"
            raise AudioError(f"{path} holds {found} but no sound that can be decoded; expected speech: check the file")
        decoded, failed, end = False, None, 0.0
        gapless = container.format.name in _GAPLESS
        declared = stream.duration if "mp4" in container.format.name.split(",") else None
        seconds = declared * stream.time_base if declared and stream.time_base else None
        for packet in _packets(container, stream, path):
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                failed = failed or error
                continue
            if not frames:
                continue
            begin = end if frames[0].time is None else frames[0].time  # not every packet has one
            if decoded and (failed is not None or (gapless and begin > end + _ROUNDING)):
                why = reason(failed) if failed else f"{begin - end:.2f} seconds are missing"
                raise AudioError(
                    f"the audio {path} is damaged {begin:.2f} seconds in ({why}): transfer it anew, or repair it by "
                    "converting it to WAV"
                ) from failed
            decoded, failed = True, None
            end = begin + sum(frame.samples / frame.sample_rate for frame in frames)
            for frame in frames:
                assert isinstance(frame, AudioFrame)
                yield frame, seconds
        if not decoded:
            why = f" ({reason(failed)})" if failed else ""
            raise AudioError(f"the audio {path} holds no samples{why}; expected speech: check that it plays")


def _packets(container: InputContainer, stream: AudioStream, path: Path) -> Iterator[Packet[AudioStream]]:
    try:
        yield from container.demux(stream)
    except (av.FFmpegError, OSError) as error:
        raise AudioError(f"the audio {path} cannot be read to its end ({reason(error)}): transfer it anew") from error


def _samples(frame: AudioFrame, at: str) -> Float32:
    """(channels, n) float32 of a frame in any of FFmpeg's sample formats, full scale being 1."""
    channels = frame.layout.nb_channels
    kind = frame.format.name.removesuffix("p")
    try:
        values = frame.to_ndarray()
    except ValueError as error:
        raise AudioError(f"{at} has samples of the format {kind}; expected 8 to 32 bits: convert it to WAV") from error
    if channels < 1:
        raise AudioError(f"{at} has 0 channels; expected at least one: check that it plays")
    planes = values if frame.format.is_planar else values.reshape(-1, channels).T
    if kind in _SCALE:
        return ((planes - np.float32(128 if kind == "u8" else 0)) / np.float32(_SCALE[kind])).astype(np.float32)
    with np.errstate(over="ignore"):
        return planes.astype(np.float32)
