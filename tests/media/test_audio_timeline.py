"""Sound has its position by time stamps, with silence in gaps, and bounded size."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from av.packet import Packet

from tests.support.recordings import assert_note, level, read_recording
from tests.support.sound_files import tone, write_sound, write_talking_picture
from vexpress_rt.errors import AudioError, VExpressError
from vexpress_rt.media import audio_timeline
from vexpress_rt.media.ffmpeg import moving_pictures
from vexpress_rt.media.recording import open_recording

RATE = 16000


def drop(first: int, last: int) -> Callable[[list[Packet]], list[Packet]]:
    return lambda packets: [packet for index, packet in enumerate(packets) if not first <= index < last]


@pytest.mark.parametrize(
    ("name", "codec", "packet"),
    [
        ("a.webm", "libopus", 0.02),
        ("a.mkv", "aac", 1024 / 48000),
        ("a.mp4", "aac", 1024 / 48000),
        ("a.flv", "aac", 1024 / 48000),
        ("a.ts", "aac", 1024 / 48000),
    ],
)
def test_a_gap_in_the_time_stamps_is_silent_and_keeps_time(
    tmp_path: Path, name: str, codec: str, packet: float
) -> None:
    path = write_sound(tmp_path / name, codec, tone(3, 48000)[None], 48000, change=drop(40, 80))
    samples, notes = read_recording(path)
    assert len(samples) / RATE == pytest.approx(3, abs=0.04)
    begin, end = round(41 * packet * RATE) + 400, round(79 * packet * RATE) - 400
    assert level(samples[begin:end]) < 1e-3
    assert level(samples[2000 : begin - 1200]) == pytest.approx(0.21, abs=0.02)
    assert level(samples[end + 2000 : -2000]) == pytest.approx(0.21, abs=0.02)
    assert_note(
        notes,
        rf"{40 * packet:.2f} seconds are missing in 1 place, the first 0\.[78]\d seconds in; replaced by silence",
    )


@pytest.mark.parametrize(("first", "last"), [(10, 40), (60, 100), (110, 140)])
def test_a_gap_within_a_page_of_ogg_keeps_the_time_of_all_that_follows(tmp_path: Path, first: int, last: int) -> None:
    """A page has a time stamp only for its last packet, so the silence is at the page's edge."""
    path = write_sound(tmp_path / "a.ogg", "libopus", tone(3, 48000)[None], 48000, change=drop(first, last))
    samples, notes = read_recording(path)
    assert len(samples) / RATE == pytest.approx(3, abs=0.03)
    assert level(samples) == pytest.approx(0.212 * np.sqrt(1 - (last - first) * 0.02 / 3), abs=0.01)
    assert re.search("after silence|replaced by silence", notes[0])


def test_single_packets_that_are_lost_do_not_add_up(tmp_path: Path) -> None:
    """Each gap is shorter than the tolerance; together they would put the lips a second off."""

    def lose(packets: list[Packet]) -> list[Packet]:
        return [packet for index, packet in enumerate(packets) if index % 3 or index == 0]

    path = write_sound(tmp_path / "a.webm", "libopus", tone(3, 48000)[None], 48000, change=lose)
    samples, notes = read_recording(path)
    assert len(samples) / RATE == pytest.approx(3, abs=0.05)
    assert_note(notes, r"0\.9\d seconds are missing in \d\d places")


def test_time_stamps_that_jump_back_or_by_hours_restart_the_clock(tmp_path: Path) -> None:
    def jump(by: int) -> Callable[[list[Packet]], list[Packet]]:
        def change(packets: list[Packet]) -> list[Packet]:
            for packet in packets[70:]:
                packet.pts += by * 48000
                packet.dts += by * 48000
            return packets

        return change

    for by in (20_000, 700):
        path = write_sound(tmp_path / "a.mkv", "libopus", tone(3, 48000)[None], 48000, change=jump(by))
        samples, _ = read_recording(path)
        assert len(samples) / RATE == pytest.approx(3, abs=0.02)
    one = write_sound(tmp_path / "one.webm", "libopus", tone(1, 48000)[None], 48000).read_bytes()
    (tmp_path / "two.webm").write_bytes(one + one)
    assert len(read_recording(tmp_path / "two.webm")[0]) / RATE == pytest.approx(2, abs=0.02)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize("late", [0.0, 0.6])
def test_sound_that_begins_after_the_picture_keeps_time(tmp_path: Path, name: str, late: float) -> None:
    path = write_talking_picture(tmp_path / name, tone(1, RATE)[None], RATE, late)
    samples, notes = read_recording(path)
    assert len(samples) / RATE == pytest.approx(1 + late, abs=0.09)  # AAC's padding
    onset = int(np.argmax(np.abs(samples) > 0.1)) / RATE
    assert onset == pytest.approx(late, abs=0.08)
    if late:
        assert_note(notes, r"sound begins 0\.[56]\d seconds late, after silence")
    else:
        assert notes == ()


def test_a_video_counts_time_from_the_earlier_of_sound_and_picture(tmp_path: Path) -> None:
    cover: Any = SimpleNamespace(streams=SimpleNamespace(video=[SimpleNamespace(disposition=1024)]))
    assert av.stream.Disposition.attached_pic == 1024
    assert not moving_pictures(cover)
    path = write_talking_picture(tmp_path / "a.mkv", tone(1, RATE)[None], RATE, 0.5)
    assert open_recording(path, RATE).duration >= Fraction(3, 2)
    assert issubclass(AudioError, VExpressError)


def test_hours_of_many_channels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    """A FLAC of zeros holds four hours of eight channels at 655 kHz in 10 MB."""
    path = write_sound(tmp_path / "a.flac", "flac", np.zeros((8, 8000), np.float32), 655_350)
    content = bytearray(path.read_bytes())
    assert content[:4] == b"fLaC"
    content[21] |= 0x0F  # the upper bits of STREAMINFO's 36 for the number of samples
    path.write_bytes(content)
    with pytest.raises(AudioError, match=r"more than 5\.5 billion samples \(8 channels of 655350 Hz\)"):
        read_recording(path)


def test_hours_of_many_channels_are_refused_while_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio_timeline, "MAX_VALUES", 20_000)
    path = write_sound(tmp_path / "a.mka", "flac", np.zeros((8, 8000), np.float32), 48000, container="matroska")
    with pytest.raises(AudioError, match="convert it to mono of 16000 Hz"):
        read_recording(path)
