"""Damaged and concatenated sound is decoded as far as possible, with notes."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from av.packet import Packet

from tests.support.paths import CORPUS
from tests.support.recordings import assert_note, level, read_recording
from tests.support.sound_files import ape_tag, id3v2, tone, write_sound
from vexpress_rt.errors import AudioError
from vexpress_rt.media import audio_converter, audio_decoder

RATE = 16000
JUNK = np.random.default_rng(0).bytes(3000)


@pytest.mark.parametrize(
    ("name", "seconds", "note"),
    [
        ("channels_change_in_a_frame.m4a", 0.25, "changes to 16000 Hz, 25 channels; all of it is converted to .* mono"),
        (
            "fourteen_channels_at_first.aac",
            0.128,
            "changes to 16000 Hz, mono; all of it is .* 14 channels",
        ),
        ("stream_that_comes_later.flv", 0.2351, "of its 2 sound tracks number 2 is used"),
    ],
)
def test_damaged_files_are_read_as_far_as_they_decode(name: str, seconds: float, note: str) -> None:
    samples, notes = read_recording(CORPUS / name)
    assert len(samples) / RATE == pytest.approx(seconds, abs=1e-4)
    assert 0.04 < level(samples) < 0.2
    assert re.search(note, notes[0])


@pytest.mark.parametrize("codec", ["mp3", "aac"])
@pytest.mark.parametrize("between", [id3v2(5000), ape_tag(), bytes(1000), bytes(100_000), JUNK], ids=len)
def test_concatenated_pieces_are_read_to_the_end(tmp_path: Path, codec: str, between: bytes) -> None:
    encoder = "libmp3lame" if codec == "mp3" else "aac"
    container = "adts" if codec == "aac" else None
    piece = write_sound(tmp_path / f"a.{codec}", encoder, tone(1.5, 44100)[None], 44100, container=container)
    path = tmp_path / f"joined.{codec}"
    path.write_bytes(id3v2(50) + between.join([piece.read_bytes()] * 3))
    samples, notes = read_recording(path)
    assert 4.5 <= len(samples) / RATE < 4.7
    for second in range(4):
        assert level(samples[second * RATE + 2000 : second * RATE + 14000]) == pytest.approx(0.21, abs=0.02)
    assert_note(notes, "are skipped")


def test_a_packet_that_does_not_decode_is_silent(tmp_path: Path) -> None:
    def spoil(packets: list[Packet]) -> list[Packet]:
        for index in range(60, 65):
            packets[index] = replaced(packets[index], b"\xff" * 9)
        return packets

    def replaced(packet: Packet, content: bytes) -> Packet:
        other = Packet(content)
        other.stream, other.time_base = packet.stream, packet.time_base
        other.pts, other.dts, other.duration = packet.pts, packet.dts, packet.duration
        return other

    path = write_sound(tmp_path / "a.mkv", "aac", tone(3, 48000)[None], 48000, change=spoil)
    samples, notes = read_recording(path)
    assert len(samples) / RATE == pytest.approx(3, abs=0.04)
    assert level(samples[21000:21800]) < 1e-3
    assert re.search(r"cannot be decoded in 1 place, the first 1\.\d\d seconds in; replaced by silence", notes[0])


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.flv", "aac"), ("a.mp3", "libmp3lame")])
def test_a_burst_of_a_damaged_frame_is_silenced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, codec: str
) -> None:
    """One that decodes far beyond full scale would decide the level of the whole clip."""
    path = write_sound(tmp_path / name, codec, tone(3, 44100)[None], 44100)
    convert = audio_converter.AudioConverter.convert

    def spoil(self: Any, frame: Any, at: Fraction) -> list[np.ndarray]:
        return [block * (1e5 if 1 < at < 1.04 else 1) for block in convert(self, frame, at)]

    monkeypatch.setattr(audio_converter.AudioConverter, "convert", spoil)
    samples, notes = read_recording(path)
    assert level(samples) == pytest.approx(0.21, abs=0.01)
    assert_note(notes, r"\d damaged frames? far beyond full scale, the first 1\.\d\d seconds in; replaced by silence")
    monkeypatch.setattr(audio_decoder, "MAX_DAMAGE", 0.001)
    with pytest.raises(AudioError, match=r"damaged 1\.\d\d seconds in \(0\.\d\d seconds are missing\)"):
        read_recording(path)


def test_loud_samples_of_a_format_without_loss_are_the_recordings_own(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", "pcm_f32le", 30 * tone(1, RATE)[None], RATE)
    assert level(read_recording(path)[0]) == pytest.approx(30 * 0.212, rel=0.01)
