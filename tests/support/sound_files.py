"""Sound files for tests, their frames and tags."""

from __future__ import annotations

import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.packet import Packet

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}


def tone(seconds: float, rate: int, hertz: float = 300) -> np.ndarray:
    """Return (n,) float32 samples of amplitude 0.3."""
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_wav(path: Path, samples: np.ndarray, rate: int) -> Path:
    """Write (channels, n) samples of full scale 1 as a 16-bit WAV."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(samples))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(samples.T * 32767).astype("<i2").tobytes())
    return path


def write_media(path: Path, codec: str, samples: np.ndarray, rate: int, form: str) -> Path:
    """Encode (channels, n) float32 samples, mono or stereo, into a file; `form` is the sample format of PCM."""
    layout = "stereo" if len(samples) == 2 else "mono"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        if codec.startswith("pcm"):
            stream.format = form
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(
    path: Path,
    codec: str,
    samples: np.ndarray,
    rate: int,
    *,
    layout: str | None = None,
    container: str | None = None,
    change: Callable[[list[Packet]], list[Packet]] = lambda packets: packets,
) -> Path:
    """Encode (channels, n) float32 samples into a file.

    Args:
        path: File to write.
        codec: FFmpeg's name of the encoder.
        samples: The samples.
        rate: Hz.
        layout: Channel layout; None for the usual one.
        container: FFmpeg's name of the format; None to derive it from the suffix.
        change: Changes the packets before they are muxed.
    """
    layout = layout or LAYOUTS.get(len(samples), f"{len(samples)} channels")
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples.T).reshape(1, -1), "flt", layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        packets = [packet for part in (frame, None) for packet in stream.encode(part)]
        for packet in change([packet for packet in packets if packet.size]):
            output.mux(packet)
    return path


def write_talking_picture(
    path: Path, samples: np.ndarray, rate: int, late: float, *, codec: str = "aac", flash: int | None = None
) -> Path:
    """Write a video of black pictures, 2 s at 10 fps, with sound.

    Args:
        path: File to write.
        samples: (1, n) float32.
        rate: Hz.
        late: Seconds from the begin of the pictures to that of the sound; negative for sound that begins earlier.
        codec: FFmpeg's name of the audio encoder.
        flash: Index of a white picture; None for none.
    """
    begin = max(0.0, -late)
    with av.open(str(path), "w") as output:
        video, sound = output.add_stream("libx264", rate=10), output.add_stream(codec, rate=rate, layout="mono")
        video.width = video.height = 32
        for index in range(20):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 255 * (index == flash), np.uint8), "rgb24")
            picture.pts, picture.time_base = index + round(begin * 10), Fraction(1, 10)
            output.mux(video.encode(picture))
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, round((late + begin) * rate), Fraction(1, rate)
        output.mux([*sound.encode(frame), *video.encode(None), *sound.encode(None)])
    return path


def id3v2(size: int) -> bytes:
    """Return an ID3v2 tag of a header and `size` bytes, as speech services write before each piece."""
    return b"ID3\x04\x00\x00" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + bytes(size)


def ape_tag() -> bytes:
    """Return an APE tag with one item."""
    item = (200).to_bytes(4, "little") + bytes(4) + b"Title\0" + b"x" * 200

    def edge(flags: int) -> bytes:
        numbers = (2000, len(item) + 32, 1, flags)
        return b"APETAGEX" + b"".join(number.to_bytes(4, "little") for number in numbers) + bytes(8)

    return edge(0xA0000000) + item + edge(0x80000000)
