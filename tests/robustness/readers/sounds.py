"""Recordings: every container of `media.READERS` that PyAV can write, several codecs, 1 to 16 channels."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.robustness.cases import Case
from tests.robustness.mutations import TOKENS, mutate
from tests.robustness.shared import shared_cases

# Container, suffix, codec, Hz, channel layout.
_PLANS = (
    ("adts", ".aac", "aac", 16000, "mono"), ("adts", ".aac", "aac", 44100, "5.1"), ("adts", ".aac", "aac", 48000,
    "7.1"),
    ("ac3", ".ac3", "ac3", 48000, "5.1"), ("eac3", ".eac3", "eac3", 48000, "stereo"),
    ("aiff", ".aiff", "pcm_s16be", 16000, "mono"), ("aiff", ".aiff", "pcm_s24be", 8000, "stereo"),
    ("amr", ".amr", "libopencore_amrnb", 8000, "mono"),
    ("asf", ".wma", "wmav2", 44100, "stereo"), ("asf", ".asf", "libmp3lame", 22050, "mono"), ("au", ".au",
    "pcm_mulaw", 8000, "mono"), ("au", ".au", "pcm_f64be", 8000, "mono"),
    ("avi", ".avi", "pcm_s16le", 16000, "stereo"), ("avi", ".avi", "libmp3lame", 44100, "mono"),
    ("caf", ".caf", "pcm_s16be", 16000, "mono"), ("caf", ".caf", "alac", 44100, "stereo"),
    ("flac", ".flac", "flac", 16000, "mono"), ("flac", ".flac", "flac", 48000, "7.1"), ("flac", ".flac", "flac",
    96000, "5.1"),
    ("flv", ".flv", "aac", 44100, "stereo"), ("flv", ".flv", "libmp3lame", 22050, "mono"), ("flv", ".flv",
    "nellymoser", 16000, "mono"),
    ("matroska", ".mkv", "libopus", 48000, "mono"), ("matroska", ".mka", "flac", 16000, "7.1"), ("matroska", ".mkv",
    "tta", 16000, "stereo"),
    ("webm", ".webm", "libopus", 48000, "5.1"), ("webm", ".webm", "vorbis", 44100, "stereo"),
    ("mp4", ".m4a", "aac", 44100, "mono"), ("mp4", ".m4a", "aac", 48000, "7.1"), ("mp4", ".m4a", "alac", 16000,
    "stereo"),
    ("ipod", ".m4a", "aac", 16000, "5.1"), ("mov", ".mov", "pcm_s16le", 16000, "mono"), ("mov", ".mov", "pcm_s24le",
    48000, "7.1"),
    ("3gp", ".3gp", "libopencore_amrnb", 8000, "mono"), ("mov", ".mov", "adpcm_ima_qt", 22050, "stereo"),
    ("mp3", ".mp3", "libmp3lame", 44100, "stereo"), ("mp3", ".mp3", "libmp3lame", 16000, "mono"), ("mp2", ".mp2",
    "mp2", 44100, "stereo"),
    ("mpeg", ".mpg", "mp2", 44100, "stereo"), ("vob", ".vob", "ac3", 48000, "5.1"), ("mpegts", ".ts", "aac", 48000,
    "stereo"),
    ("mpegts", ".ts", "libopus", 48000, "7.1"), ("mpegts", ".ts", "libmp3lame", 44100, "mono"),
    ("ogg", ".ogg", "vorbis", 44100, "stereo"), ("ogg", ".opus", "libopus", 48000, "mono"), ("ogg", ".oga", "flac",
    16000, "mono"),
    ("voc", ".voc", "pcm_u8", 8000, "mono"), ("w64", ".w64", "pcm_s16le", 16000, "mono"),
    ("wav", ".wav", "pcm_s16le", 16000, "mono"), ("wav", ".wav", "pcm_f32le", 48000, "7.1"), ("wav", ".wav", "pcm_u8",
    8000, "mono"),
    ("wav", ".wav", "pcm_s24le", 16000, "hexadecagonal"), ("wav", ".wav", "adpcm_ms", 22050, "stereo"),
    ("wav", ".wav", "adpcm_ima_wav", 22050, "mono"), ("wav", ".wav", "pcm_alaw", 8000, "mono"), ("wav", ".wav",
    "pcm_f64le", 8000, "octagonal"),
    ("wav", ".wav", "libmp3lame", 44100, "mono"), ("wav", ".wav", "g726", 8000, "mono"),
    ("wv", ".wv", "wavpack", 44100, "stereo"), ("wv", ".wv", "wavpack", 16000, "7.1"),
)  # fmt: skip
_PLAYLISTS = (
    (".m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n../canary/secret.wav\n#EXT-X-ENDLIST\n"),
    (".ffconcat", b"ffconcat version 1.0\nfile ../canary/secret.wav\n"),
    (".mpd",
    b"<?xml version='1.0'?><MPD><Period><BaseURL>../canary/secret.wav</BaseURL></Period></MPD>"),
    (".sdp", b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n"), (".wav", b"sine=frequency=440:duration=1"),
    (".asx", b"<asx version='3.0'><entry><ref href='../canary/secret.wav'/></entry></asx>"),
    (".pls", b"[playlist]\nFile1=../canary/secret.wav\n"), (".avs", b'WAVSource("../canary/secret.wav")'),
)  # fmt: skip
_TOKENS = (
    *TOKENS, *(text for _, text in _PLAYLISTS), b"fLaC\0\0\0\x22", b"data\xff\xff\xff\xff",
    b"fmt \x10\0\0\0\x01\0\x40\0",
    b"\0\0\0\x20dref\0\0\0\0\0\0\0\x01\0\0\0\x10url ../canary/secret.wav", b"JUNK\0\0\0\x80",
    b"RF64\xff\xff\xff\xffWAVEds64",
    b"\xff\xfb\x90\x00" + bytes(413), b"\xff\xf1\x50\x80\x01\x3f\xfc", b"fact\x04\0\0\0\xff\xff\xff\x7f",
    b"Xing\0\0\0\x0f",
)  # fmt: skip


class Sounds:
    """Opens the recording, reads its samples, and sometimes writes it as the sound track of a video."""

    memory = 0
    noisy: tuple[bytes, ...] = ()

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def seeds(self) -> Sequence[Case]:
        known = {plan[1] for plan in _PLANS}
        plain = [Case(suffix, written(*plan)) for plan in _PLANS for suffix in (plan[1],)]
        return [*plain, *_tagged(), *(Case(*one) for one in _PLAYLISTS), *shared_cases(known)]

    def make(self, chance: random.Random, seeds: Sequence[Case]) -> Case:
        seed = chance.choice(seeds)
        same = chance.random() < 0.7
        kin = [other.content for other in seeds if not same or other.suffix == seed.suffix]
        return Case(seed.suffix, mutate(chance, seed.content, kin, _TOKENS))

    def read(self, path: Path) -> None:
        from vexpress_rt.media.ffmpeg import LOUDEST, MAX_SECONDS
        from vexpress_rt.media.recording import open_recording

        recording = open_recording(path, 16000)
        assert recording.count >= 1
        assert 0 < recording.duration <= MAX_SECONDS
        for start in range(0, recording.count, 65536):
            stop = min(start + 65536, recording.count)
            piece = recording.read(start, stop)
            assert piece.shape == (stop - start,)
            assert piece.dtype == np.float32
            assert np.isfinite(piece).all()
            assert float(np.abs(piece).max()) <= 100 * LOUDEST
        if path.stat().st_size % 5 == 0 and recording.duration < 60:
            self._into_video(recording)

    def _into_video(self, recording: object) -> None:
        from vexpress_rt.media.video_writer import VideoWriter

        self._folder.mkdir(exist_ok=True)
        target = self._folder / "video.mp4"
        frames = recording.frame_count(Fraction(5))  # type: ignore[attr-defined]
        with VideoWriter(target, (16, 16), Fraction(5), recording, 40) as writer:  # type: ignore[arg-type]
            for _ in range(frames):
                writer.write(np.zeros((16, 16, 3), np.uint8))
        assert target.stat().st_size > 0
        target.unlink()


def written(kind: str, suffix: str, codec: str, rate: int, layout: str, seconds: float = 0.25) -> bytes:
    """Return a recording with a different tone in each channel, bit for bit the same in each run."""
    stream = io.BytesIO()
    options = {"fflags": "+bitexact", "strict": "experimental"}
    with av.open(stream, "w", format=kind, container_options=options) as container:
        track = container.add_stream(codec, rate=rate, layout=layout, options={"flags": "+bitexact", "strict": "-2"})
        if codec == "libopencore_amrnb":
            track.bit_rate = 12200
        if codec in ("g726", "wmav2"):
            track.bit_rate = 32000 if codec == "g726" else 128_000
        channels = track.codec_context.layout.nb_channels
        time = np.arange(int(seconds * rate)) / rate
        tones = np.stack([0.3 * np.sin(2 * np.pi * 200 * (1 + channel) * time) for channel in range(channels)])
        samples = (tones * 32767).astype(np.int16).T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "s16", layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return stream.getvalue()


def _tagged() -> Iterator[Case]:
    """Recordings with tags, cover art and padding before, between and after their frames."""
    plain = written("mp3", ".mp3", "libmp3lame", 22050, "mono")
    cover = b"APIC" + (3000).to_bytes(4, "big") + b"\0\0\0image/png\0\3\0" + bytes(2986)
    tag = b"ID3\x03\0\0\0\0" + bytes([(len(cover) + 100) >> 7, (len(cover) + 100) & 127]) + cover + bytes(100)
    ape = b"APETAGEX\xd0\x07\0\0\x40\0\0\0\x01\0\0\0\0\0\0\xa0" + bytes(8) + bytes(32)
    for data in (
        tag + plain,
        tag + plain + tag + plain,
        plain + ape,
        plain + bytes(5000) + plain,
        plain + b"TAG" + bytes(125),
    ):
        yield Case(".mp3", data)
    wave = written("wav", ".wav", "pcm_s16le", 16000, "mono")
    yield Case(".wav", wave + wave)
    yield Case(".wav", wave[:12] + b"LIST\x1a\0\0\0INFOISFT\x0e\0\0\0Lavf62.3.100\0\0" + wave[12:])
