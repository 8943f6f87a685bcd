"""Recordings with many channels, concatenated files, gaps and damage are read in time, with notes."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from av.packet import Packet

from tests.support.paths import CORPUS
from tests.support.sound_files import ape_tag, id3v2, tone, write_sound, write_talking_picture
from vexpress_rt.errors import AudioError, VExpressError
from vexpress_rt.media import audio_converter, audio_decoder, audio_reader, audio_timeline
from vexpress_rt.media.audio_reader import sound_blocks
from vexpress_rt.media.cancellation import CancellationDetector
from vexpress_rt.media.ffmpeg import moving_pictures, packets
from vexpress_rt.media.recording import open_recording

RATE = 16000


def heard(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The samples of a file for the model, (n,) at RATE, and the notes of reading it."""
    return open_recording(path, RATE).read(), open_recording(path, RATE).notes


def level(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def assert_note(notes: tuple[str, ...], pattern: str) -> None:
    """Assert that there is one note, which matches."""
    assert len(notes) == 1, notes
    assert re.search(pattern, notes[0]), notes


@pytest.mark.parametrize(
    ("name", "codec", "channels"),
    [
        ("a.m4a", "aac", 8),
        ("a.mkv", "libopus", 8),
        ("a.flac", "flac", 8),
        ("a.wv", "wavpack", 9),
        ("a.wav", "pcm_s16le", 8),
        ("a.mov", "pcm_f32le", 16),
        ("a.caf", "pcm_s32le", 64),
    ],
)
def test_any_number_of_channels_is_read(tmp_path: Path, name: str, codec: str, channels: int) -> None:
    """PyAV's `AudioFrame.planes` reads beyond its list for eight or more channels."""
    sound = np.zeros((channels, 24_000), np.float32)
    sound[2] = tone(0.5, 48000)
    layout = "hexadecagonal" if channels == 16 else None
    samples, notes = heard(write_sound(tmp_path / name, codec, sound, 48000, layout=layout))
    assert notes == ()
    assert len(samples) == 8000
    expected = 1 if channels in (8, 16) else 1 / channels  # the centre of known speakers, or the mean
    assert level(samples[1000:7000]) == pytest.approx(expected * 0.3 / np.sqrt(2), rel=0.03)


def test_channels_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.mov", "pcm_f32le", np.zeros((65, 800), np.float32), 8000)
    with pytest.raises(AudioError, match="has 65 channels; expected 1 to 64"):
        heard(path)


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
    samples, notes = heard(CORPUS / name)
    assert len(samples) / RATE == pytest.approx(seconds, abs=1e-4)
    assert 0.04 < level(samples) < 0.2
    assert re.search(note, notes[0])


def test_the_centre_of_surround_keeps_its_level(tmp_path: Path) -> None:
    """FFmpeg's weights: the front at -3 dB, the sides at -6 dB, and no LFE."""
    for channel, weight in enumerate((0.5**0.5, 0.5**0.5, 1, 0, 0.5, 0.5)):
        sound = np.zeros((6, 8000), np.float32)
        sound[channel] = tone(0.5, RATE)
        path = write_sound(tmp_path / "a.flac", "flac", sound, RATE)
        if weight:
            np.testing.assert_allclose(heard(path)[0], weight * tone(0.5, RATE), atol=1e-3)
        else:  # the LFE alone: then it is what there is
            assert_note(heard(path)[1], "the mouth follows channel 4 of 6")


@pytest.mark.parametrize("name", ["a.flac", "a.wav", "a.m4a", ""])
def test_one_channel_is_used_if_left_and_right_cancel_each_other(tmp_path: Path, name: str) -> None:
    sound = np.stack([0.8 * tone(0.5, RATE), -tone(0.5, RATE)])
    source: Any = (sound, RATE)
    if name:
        source = write_sound(
            tmp_path / name, "aac" if name == "a.m4a" else name[2:].replace("wav", "pcm_s16le"), sound, RATE
        )
    samples = open_recording(source, RATE).read()
    assert level(samples[1000:7000] + tone(0.5, RATE)[1000:7000]) < 0.01
    assert_note(open_recording(source, RATE).notes, "channels cancel each other; the mouth follows channel 2 of 2")


TIME = np.arange(3 * RATE) / RATE
VOICED = tone(3, RATE) * (1 + np.sin(2 * np.pi * 4 * TIME)).astype(np.float32) / 2


def is_one_of(samples: np.ndarray, sides: np.ndarray) -> bool:
    return any(np.array_equal(samples, side) for side in sides)


@pytest.mark.parametrize(
    "shared",
    [
        np.float32(0.2),
        (0.15 * np.sin(2 * np.pi * 50 * TIME)).astype(np.float32),
        np.random.default_rng(0).normal(0, 0.02, 3 * RATE).astype(np.float32),
    ],
    ids=["offset", "hum", "noise"],
)
def test_what_both_sides_share_does_not_hide_that_they_are_inverted(shared: np.ndarray) -> None:
    sides = np.stack([VOICED + shared, -VOICED + shared])
    recording = open_recording((sides, RATE), RATE)
    assert is_one_of(recording.read(), sides)
    assert recording.voice
    assert_note(recording.notes, "channels cancel each other")


def test_one_side_is_used_where_a_part_is_inverted() -> None:
    sides = np.stack([VOICED, np.where(TIME < 1.5, 1, -1).astype(np.float32) * VOICED])
    assert is_one_of(open_recording((sides, RATE), RATE).read(), sides)


@pytest.mark.parametrize("cuts", [7, 1000, 30_000])
def test_channels_are_judged_alike_however_they_are_cut(cuts: int) -> None:
    sides = np.stack([VOICED, -0.9 * VOICED])
    found = []
    for size in (cuts, 48_000):
        detector = CancellationDetector(np.full(2, 0.5), RATE)
        for start in range(0, sides.shape[1], size):
            detector.add(sides[:, start : start + size])
        found.append(detector.loudest())
    assert found == [0, 0]


def test_channels_of_clips_shorter_than_a_block_are_judged_too() -> None:
    for count in (1, 20, 700):
        short = VOICED[1000 : 1000 + count] + np.float32(0.01)
        assert open_recording((np.stack([short] * min(2, count)), RATE), RATE).notes == ()
    inverted = open_recording((np.stack([VOICED[:700], -VOICED[:700]]), RATE), RATE)
    np.testing.assert_array_equal(inverted.read(), VOICED[:700])


@pytest.mark.parametrize("left", [0.0, 1.0, -0.2])
def test_channels_that_do_not_cancel_are_averaged(left: float) -> None:
    sound = np.stack([left * tone(0.5, RATE), tone(0.5, RATE)])
    recording = open_recording((sound, RATE), RATE)
    np.testing.assert_array_equal(recording.read(), sound.mean(axis=0, dtype=np.float64).astype(np.float32))
    assert recording.notes == ()
    assert open_recording((np.zeros((2, 900), np.float32), RATE), RATE).notes == ()


JUNK = np.random.default_rng(0).bytes(3000)


@pytest.mark.parametrize("codec", ["mp3", "aac"])
@pytest.mark.parametrize("between", [id3v2(5000), ape_tag(), bytes(1000), bytes(100_000), JUNK], ids=len)
def test_concatenated_pieces_are_read_to_the_end(tmp_path: Path, codec: str, between: bytes) -> None:
    encoder = "libmp3lame" if codec == "mp3" else "aac"
    container = "adts" if codec == "aac" else None
    piece = write_sound(tmp_path / f"a.{codec}", encoder, tone(1.5, 44100)[None], 44100, container=container)
    path = tmp_path / f"joined.{codec}"
    path.write_bytes(id3v2(50) + between.join([piece.read_bytes()] * 3))
    samples, notes = heard(path)
    assert 4.5 <= len(samples) / RATE < 4.7
    for second in range(4):
        assert level(samples[second * RATE + 2000 : second * RATE + 14000]) == pytest.approx(0.21, abs=0.02)
    assert_note(notes, "are skipped")


@pytest.mark.parametrize("codec", ["mp3", "aac"])
@pytest.mark.parametrize(("rate", "channels"), [(22050, 1), (44100, 2), (48000, 2)])
def test_a_change_of_rate_or_channels_is_converted(tmp_path: Path, codec: str, rate: int, channels: int) -> None:
    encoder, container = ("libmp3lame", None) if codec == "mp3" else ("aac", "adts")
    pieces = [
        write_sound(
            tmp_path / f"{i}.{codec}", encoder, np.repeat(tone(1.5, r)[None], c, axis=0), r, container=container
        )
        for i, (r, c) in enumerate([(44100, 1), (rate, channels)])
    ]
    for order in (pieces, pieces[::-1]):
        path = tmp_path / f"joined.{codec}"
        path.write_bytes(b"".join(piece.read_bytes() for piece in order))
        samples, notes = heard(path)
        assert len(samples) / RATE == pytest.approx(3.06, abs=0.07)
        assert level(samples[2000:20000]) == pytest.approx(0.21, abs=0.02)
        assert level(samples[28000:46000]) == pytest.approx(0.21, abs=0.02)
        assert re.search(
            r"1\.5\d seconds in, the sound changes to \d+ Hz, \w+( \(\d+ more changes?\))?; all of it is", notes[0]
        )


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
    samples, notes = heard(path)
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
    samples, notes = heard(path)
    assert len(samples) / RATE == pytest.approx(3, abs=0.03)
    assert level(samples) == pytest.approx(0.212 * np.sqrt(1 - (last - first) * 0.02 / 3), abs=0.01)
    assert re.search("after silence|replaced by silence", notes[0])


def test_single_packets_that_are_lost_do_not_add_up(tmp_path: Path) -> None:
    """Each gap is shorter than the tolerance; together they would put the lips a second off."""

    def lose(packets: list[Packet]) -> list[Packet]:
        return [packet for index, packet in enumerate(packets) if index % 3 or index == 0]

    path = write_sound(tmp_path / "a.webm", "libopus", tone(3, 48000)[None], 48000, change=lose)
    samples, notes = heard(path)
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
        samples, _ = heard(path)
        assert len(samples) / RATE == pytest.approx(3, abs=0.02)
    one = write_sound(tmp_path / "one.webm", "libopus", tone(1, 48000)[None], 48000).read_bytes()
    (tmp_path / "two.webm").write_bytes(one + one)
    assert len(heard(tmp_path / "two.webm")[0]) / RATE == pytest.approx(2, abs=0.02)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize("late", [0.0, 0.6])
def test_sound_that_begins_after_the_picture_keeps_time(tmp_path: Path, name: str, late: float) -> None:
    path = write_talking_picture(tmp_path / name, tone(1, RATE)[None], RATE, late)
    samples, notes = heard(path)
    assert len(samples) / RATE == pytest.approx(1 + late, abs=0.09)  # AAC's padding
    onset = int(np.argmax(np.abs(samples) > 0.1)) / RATE
    assert onset == pytest.approx(late, abs=0.08)
    if late:
        assert_note(notes, r"sound begins 0\.[56]\d seconds late, after silence")
    else:
        assert notes == ()


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.wav", "pcm_s16le"),
        ("a.aiff", "pcm_s16be"),
        ("a.w64", "pcm_s16le"),
        ("a.caf", "pcm_s16le"),
        ("a.flac", "flac"),
        ("a.mp3", "libmp3lame"),
        ("a.webm", "libopus"),
        ("a.flv", "aac"),
        ("a.avi", "mp3"),
        ("a.wv", "wavpack"),
        ("a.au", "pcm_s16be"),
        ("a.ogg", "libopus"),
    ],
)
def test_a_recording_cut_short_says_so(tmp_path: Path, name: str, codec: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 4 * 44100)).astype(np.float32)
    rate = 48000 if codec == "libopus" else 44100
    path = write_sound(tmp_path / name, codec, noise, rate)
    assert heard(path)[1] == ()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    samples, notes = heard(path)
    assert 0.9 < len(samples) / RATE < 3
    assert re.search(r"declares .* and has .*: it is truncated|last page does not say .* truncated", notes[-1])


def test_a_header_without_a_length_is_no_truncation(tmp_path: Path) -> None:
    """As programs write it that record to a pipe."""
    content = bytearray(write_sound(tmp_path / "a.wav", "pcm_s16le", tone(1, RATE)[None], RATE).read_bytes())
    data = content.find(b"data")
    for size in (0, 0xFFFFFFFF, 0x7FFFFFFF):
        content[4:8] = content[data + 4 : data + 8] = struct.pack("<I", size)
        (tmp_path / "piped.wav").write_bytes(content)
        samples, notes = heard(tmp_path / "piped.wav")
        assert len(samples) == RATE
        assert notes == ()


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.wav", "pcm_s16le"),
        ("a.aiff", "pcm_s16be"),
        ("a.w64", "pcm_s16le"),
        ("a.caf", "pcm_s16le"),
        ("a.m4a", "aac"),
        ("a.flv", "aac"),
    ],
)
def test_a_second_file_that_is_appended_is_noted_where_it_is_not_read(tmp_path: Path, name: str, codec: str) -> None:
    path = write_sound(tmp_path / name, codec, tone(1, 44100)[None], 44100)
    content = path.read_bytes()
    path.write_bytes(content + content)
    samples, notes = heard(path)
    assert len(samples) / RATE == pytest.approx(1, abs=0.05)
    assert_note(notes, rf"another recording follows at byte {len(content)} and is skipped, {len(content)} bytes: join")


@pytest.mark.parametrize(("name", "codec"), [("a.flac", "flac"), ("a.ogg", "libopus"), ("a.webm", "libopus")])
def test_a_second_file_that_is_appended_is_read_where_ffmpeg_reads_it(tmp_path: Path, name: str, codec: str) -> None:
    content = write_sound(tmp_path / name, codec, tone(1, 48000)[None], 48000).read_bytes()
    (tmp_path / name).write_bytes(content + content)
    assert len(heard(tmp_path / name)[0]) / RATE == pytest.approx(2, abs=0.02)


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
    samples, notes = heard(path)
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
    samples, notes = heard(path)
    assert level(samples) == pytest.approx(0.21, abs=0.01)
    assert_note(notes, r"\d damaged frames? far beyond full scale, the first 1\.\d\d seconds in; replaced by silence")
    monkeypatch.setattr(audio_decoder, "MAX_DAMAGE", 0.001)
    with pytest.raises(AudioError, match=r"damaged 1\.\d\d seconds in \(0\.\d\d seconds are missing\)"):
        heard(path)


def test_loud_samples_of_a_format_without_loss_are_the_recordings_own(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", "pcm_f32le", 30 * tone(1, RATE)[None], RATE)
    assert level(heard(path)[0]) == pytest.approx(30 * 0.212, rel=0.01)


def test_hours_of_many_channels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    """A FLAC of zeros holds four hours of eight channels at 655 kHz in 10 MB."""
    path = write_sound(tmp_path / "a.flac", "flac", np.zeros((8, 8000), np.float32), 655_350)
    content = bytearray(path.read_bytes())
    assert content[:4] == b"fLaC"
    content[21] |= 0x0F  # the upper bits of STREAMINFO's 36 for the number of samples
    path.write_bytes(content)
    with pytest.raises(AudioError, match=r"more than 5\.5 thousand million samples \(8 channels of 655350 Hz\)"):
        heard(path)


def test_hours_of_many_channels_are_refused_while_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio_timeline, "MAX_VALUES", 20_000)
    path = write_sound(tmp_path / "a.mka", "flac", np.zeros((8, 8000), np.float32), 48000, container="matroska")
    with pytest.raises(AudioError, match="convert it to mono of 16000 Hz"):
        heard(path)


def test_a_declared_size_is_not_allocated_before_the_data_are_read(tmp_path: Path) -> None:
    """A tag that declares 2 GB, in a file of a hundred bytes."""
    whole = write_sound(tmp_path / "a.wav", "pcm_s16le", tone(0.01, 8000)[None], 8000).read_bytes()
    tag = b"LIST" + struct.pack("<I", 0x7FFFFF00) + b"INFOINAM" + struct.pack("<I", 0x7FFFFE00) + b"x"
    (tmp_path / "tag.wav").write_bytes(whole[:12] + tag)
    code = (
        "import sys, resource\nfrom vexpress_rt.errors import AudioError\nfrom vexpress_rt.media import recording\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    recording.open_recording(sys.argv[1], 16000)\nexcept AudioError as error:\n    print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "tag.wav")], capture_output=True, text=True)
    told, grown = result.stdout.splitlines()
    assert "cannot be read" in told
    assert int(grown) < 400


def test_sound_that_takes_too_long_is_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_reader, "FREE_SECONDS", 0.0)
    monkeypatch.setattr(audio_reader, "SLOWEST", 10**9)
    path = write_sound(tmp_path / "a.flac", "flac", tone(1, RATE)[None], RATE)
    with pytest.raises(AudioError, match=r"seconds to read its first .* \(1 channels, 16000 Hz\).* convert it to mono"):
        open_recording(path, RATE)


def test_time_spent_between_two_blocks_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_reader, "FREE_SECONDS", 0.2)
    monkeypatch.setattr(audio_reader, "SLOWEST", 10**9)
    path = write_sound(tmp_path / "a.flac", "flac", tone(0.5, RATE)[None], RATE)
    for _ in sound_blocks(path):
        np.linalg.svd(np.ones((150, 150)))


def test_progress_is_called_while_reading_and_can_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vexpress_rt.media.recording._PROGRESS_SECONDS", 0)
    path = write_sound(tmp_path / "a.flac", "flac", tone(4, RATE)[None], RATE)
    told: list[tuple[int, int]] = []
    open_recording(path, RATE, lambda done, total: told.append((done, total)))
    assert {total for done, total in told if done < 4} == {4}
    assert [done for done, _ in told] == sorted(done for done, _ in told)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_recording(path, RATE, stop)


class _Container:
    """Gives packets, or raises, in turn."""

    def __init__(self, items: list[object]) -> None:
        self.items = items

    def demux(self, stream: object) -> Iterator[object]:
        while self.items:
            item = self.items.pop(0)
            if isinstance(item, BaseException):
                raise item
            yield SimpleNamespace(size=item, dts=None, pts=None)


def sizes(items: list[object], unreadable: Callable[[BaseException], object]) -> list[int]:
    """Of the packets that come of a container of these."""
    source: Any = _Container(items)
    stream: Any = None
    return [packet.size for packet in packets(source, stream, Path("a.flv"), "the audio", AudioError, unreadable)]


def test_packets_continue_after_unreadable_parts() -> None:
    errors: list[BaseException] = []
    given = sizes([1, IndexError("list index out of range"), 2, RuntimeError("of PyAV"), 3, 0], errors.append)
    assert given == [1, 2, 3, 0]
    assert [str(error) for error in errors] == ["of PyAV"]
    assert sizes([1, *(ValueError("damaged") for _ in range(30)), 2], errors.append) == [1]


def test_a_failing_disk_is_not_damage() -> None:
    with pytest.raises(AudioError, match="cannot be read to its end"):
        sizes([1, av.error.OSError(5, "Input/output error")], print)


@pytest.mark.parametrize("error", [ValueError, RuntimeError, IndexError, SystemError, av.error.PermissionError])
def test_any_exception_of_pyav_on_opening_becomes_an_error_of_the_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error(1, "odd")

    monkeypatch.setattr(av, "open", fail)
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF")
    with pytest.raises(AudioError, match="cannot be read"):
        open_recording(path, RATE)


def test_exhausted_memory_is_reported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    path = write_sound(tmp_path / "a.wav", "pcm_s16le", tone(0.1, RATE)[None], RATE)
    monkeypatch.setattr("vexpress_rt.media.audio_converter.AudioConverter.convert", fail)
    with pytest.raises(AudioError, match="needs more memory than there is"):
        open_recording(path, RATE)


def test_a_video_counts_time_from_the_earlier_of_sound_and_picture(tmp_path: Path) -> None:
    cover: Any = SimpleNamespace(streams=SimpleNamespace(video=[SimpleNamespace(disposition=1024)]))
    assert av.stream.Disposition.attached_pic == 1024
    assert not moving_pictures(cover)
    path = write_talking_picture(tmp_path / "a.mkv", tone(1, RATE)[None], RATE, 0.5)
    assert open_recording(path, RATE).duration >= Fraction(3, 2)
    assert issubclass(AudioError, VExpressError)
