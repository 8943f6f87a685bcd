"""Videos have the frames' colours, exact time stamps and the whole sound, and appear only when complete."""

from __future__ import annotations

import wave
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.support.clips import SIZE, frames, sound, write
from tests.support.sound_files import tone, write_sound
from vexpress_rt.media.recording import open_recording
from vexpress_rt.media.sample_store import Samples
from vexpress_rt.media.video_writer import VideoWriter
from vexpress_rt.native.nv12 import rgb_to_nv12_numpy

NTSC = Fraction(30000, 1001)


def decoded_sound(path: Path) -> tuple[np.ndarray, int]:
    with av.open(str(path)) as container:
        blocks = [frame.to_ndarray() for frame in container.decode(audio=0)]
        return np.concatenate(blocks, axis=1), container.streams.audio[0].rate


def bt709(rgb: np.ndarray) -> tuple[float, float, float]:
    """Y, Cb, Cr in limited range (ITU-R BT.709-6, items 3.2 to 3.5) of 8-bit RGB."""
    red, green, blue = (rgb / 255).tolist()
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return 16 + 219 * luma, 128 + 224 * (blue - luma) / 1.8556, 128 + 224 * (red - luma) / 1.5748


def planes(picture: np.ndarray, tmp_path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    path = write(tmp_path / "colour.mp4", [picture], Fraction(30), None, quality=0)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        height, width = picture.shape[:2]
        sizes = ((height, width), (height // 2, width // 2), (height // 2, width // 2))
        return tuple(  # type: ignore[return-value]
            np.frombuffer(plane, np.uint8).reshape(rows, plane.line_size)[:, :columns].astype(float)
            for plane, (rows, columns) in zip(frame.planes, sizes, strict=True)
        )


def test_colours_are_converted_by_the_bt709_matrix_to_limited_range(tmp_path: Path) -> None:
    primaries = [(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)]
    patches = np.array(primaries + np.random.default_rng(0).integers(0, 256, (8, 3)).tolist())
    picture = np.repeat(np.repeat(patches.reshape(4, 4, 3), 16, axis=0), 16, axis=1).astype(np.uint8)
    luma, blue, red = planes(picture, tmp_path)
    for index, patch in enumerate(patches):
        row, column = divmod(index, 4)
        found = luma[row * 16 + 8, column * 16 + 8], blue[row * 8 + 4, column * 8 + 4], red[row * 8 + 4, column * 8 + 4]
        np.testing.assert_allclose(found, bt709(patch), atol=0.51)


def test_chroma_is_sited_where_h264_has_it(tmp_path: Path) -> None:
    """Left: sample i of a row lies on pixel 2i, and between rows 2j and 2j + 1."""
    ramp = np.zeros((64, 128, 3), np.uint8)
    slope = 224 * (1 - 0.0722) / 1.8556 / 255
    ramp[..., 2] = np.arange(128)
    across = (planes(ramp, tmp_path)[1][16, 8:56] - 128) / slope
    assert (across - 2 * np.arange(8, 56)).mean() == pytest.approx(0, abs=0.1)
    ramp[..., 2] = np.arange(64)[:, None]
    down = (planes(ramp, tmp_path)[1][4:28, 32] - 128) / slope
    assert (down - 2 * np.arange(4, 28)).mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("size", [(64, 96), (6, 10), (2, 2)])
def test_nv12_is_encoded_as_it_is(tmp_path: Path, size: tuple[int, int], layout: Any) -> None:
    given = np.random.default_rng(0).integers(0, 256, (3, size[0] * 3 // 2, size[1]), np.uint8)
    with VideoWriter(tmp_path / "a.mp4", size, Fraction(30), None, quality=0) as writer:
        for picture in given:
            writer.write(np.array(picture, order=layout))
    with av.open(str(tmp_path / "a.mp4")) as container:
        found = [picture.reformat(format="nv12").to_ndarray() for picture in container.decode(video=0)]
    np.testing.assert_array_equal(np.stack(found), given)


@pytest.mark.parametrize("convert", [lambda frame: frame, rgb_to_nv12_numpy], ids=["rgb", "nv12"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_the_stream_is_flagged_as_bt709_limited_range_h264(tmp_path: Path, name: str, convert: Any) -> None:
    with VideoWriter(tmp_path / name, SIZE, Fraction(30), None, 18) as writer:
        for frame in frames(2):
            writer.write(convert(frame))
    with av.open(str(tmp_path / name)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)


@pytest.mark.parametrize("fps", [Fraction(25), NTSC, Fraction(240), Fraction(1), Fraction(12345, 1001)])
@pytest.mark.parametrize("audio", [None, (44100, 30000)])
def test_frame_k_is_shown_at_k_over_fps_exactly(tmp_path: Path, fps: Fraction, audio: tuple[int, int] | None) -> None:
    waveform = None if audio is None else sound(audio[1], audio[0])
    path = write(tmp_path / "a.mp4", frames(20), fps, waveform)
    with av.open(str(path)) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == fps
    assert times == [k / fps for k in range(20)]


def test_matroska_time_stamps_are_the_nearest_millisecond(tmp_path: Path) -> None:
    with av.open(str(write(tmp_path / "a.mkv", frames(100), NTSC, None))) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert max(abs(time - k / NTSC) for k, time in enumerate(times)) <= Fraction(1, 2000)


def test_pictures_come_back_in_order_and_nearly_unchanged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    pictures = [np.roll(smooth, 4 * k, axis=1) for k in range(12)]
    with av.open(str(write(tmp_path / "a.mp4", pictures, Fraction(30), None, quality=10))) as container:
        found = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for expected, picture in zip(pictures, found, strict=True):
        luma = (picture.astype(float) - expected) @ [0.2126, 0.7152, 0.0722]
        assert 10 * np.log10(255**2 / (luma**2).mean()) > 35


def test_a_smaller_quality_number_makes_a_larger_file(tmp_path: Path) -> None:
    noise = [np.random.default_rng(k).integers(0, 256, (64, 64, 3), dtype=np.uint8) for k in range(5)]
    sizes = [write(tmp_path / "a.mp4", noise, Fraction(30), None, q).stat().st_size for q in (0, 18, 40)]
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("rate", "track_rate"), [(44100, 44100), (16000, 16000), (22254, 24000), (192000, 96000)])
def test_sound_keeps_its_start_its_length_and_its_rate_where_aac_has_it(
    tmp_path: Path, rate: int, track_rate: int, channels: int
) -> None:
    count = rate + 17
    path = write(tmp_path / "a.mp4", frames(31), Fraction(30), sound(count, rate, channels))
    found, found_rate = decoded_sound(path)
    assert found_rate == track_rate
    assert found.shape[0] == channels
    with av.open(str(path)) as container:
        track = container.streams.audio[0]
        assert track.start_time == 0
        assert abs(track.duration * track.time_base - Fraction(count, rate)) <= Fraction(1, track_rate)
    expected = 0.4 * np.sin(2 * np.pi * 440 * np.arange(track_rate) / track_rate)
    assert np.abs(found[:, 4000 : track_rate - 2000] - expected[4000 : track_rate - 2000]).max() < 0.05


def test_the_sound_track_comes_from_the_file_in_its_own_rate_and_channels(tmp_path: Path) -> None:
    left = (8000 * np.sin(2 * np.pi * 440 * np.arange(22050) / 22050)).astype("<i2")
    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(22050)
        file.writeframes(np.stack([left, 0 * left], axis=1).tobytes())
    waveform = open_recording(tmp_path / "speech.wav", 16000)
    found, rate = decoded_sound(write(tmp_path / "a.mp4", frames(30), Fraction(30), waveform))
    assert rate == 22050
    assert np.abs(found[0, 4000:20000] - left[4000:20000] / 32768).max() < 0.05
    assert np.abs(found[1, 4000:20000]).max() < 0.01


def test_more_than_two_channels_are_averaged(tmp_path: Path) -> None:
    samples = np.stack([sound(16000, 16000).read() * k for k in (1, 0.5, 0)])
    found, _ = decoded_sound(
        write(tmp_path / "a.mp4", frames(30), Fraction(30), open_recording((samples, 16000), 16000))
    )
    assert found.shape[0] == 1
    assert np.abs(found[0, 4000:15000] - samples[1, 4000:15000]).max() < 0.05


def test_samples_beyond_full_scale_are_clipped(tmp_path: Path) -> None:
    loud = open_recording((sound(16000, 16000).read() * 1e4, 16000), 16000)
    found, _ = decoded_sound(write(tmp_path / "a.mp4", frames(30), Fraction(30), loud))
    assert 0.5 < np.abs(found).max() < 2


@pytest.mark.parametrize("written", [3, 180])
def test_sound_keeps_its_length_whatever_the_number_of_frames(tmp_path: Path, written: int) -> None:
    path = write(tmp_path / "a.mp4", frames(written), Fraction(60), sound(100_000, 50_000))
    with av.open(str(path)) as container:
        track = container.streams.audio[0]
        assert track.duration * track.time_base == 2
        assert container.streams.video[0].frames == written


def test_after_ten_minutes_sound_and_picture_agree(tmp_path: Path) -> None:
    """A flash and a click together, every minute and shortly before the end."""
    rate, fps = 44100, Fraction(1000, 1001)
    marks = [round(60 * minute * fps) for minute in range(10)] + [round(600 * fps) - 4]
    samples = np.zeros(600 * rate, np.float32)
    for mark in marks:
        at = round(mark / fps * rate)
        samples[at : at + 400] = np.sin(np.arange(400))
    waveform = open_recording((samples, rate), 16000)
    path = tmp_path / "long.mp4"
    with VideoWriter(path, SIZE, fps, waveform, 30) as writer:
        for index in range(waveform.frame_count(fps)):
            writer.write(np.full((*SIZE, 3), 255 if index in marks else 0, np.uint8))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 600
        assert container.streams.audio[0].duration == 600 * rate
        flashes = [f.pts * f.time_base for f in container.decode(video=0) if bytes(f.planes[0])[0] > 128]
    found, _ = decoded_sound(path)
    loud = np.flatnonzero(np.abs(found[0]) > 0.4)
    clicks = loud[np.append(True, np.diff(loud) > rate)] / rate
    assert len(flashes) == len(marks)
    np.testing.assert_allclose(clicks, np.array(flashes, float), atol=2e-3)


class CountedSamples:
    """Samples that count how many of them were read."""

    channels = 1

    def __init__(self, samples: Samples) -> None:
        self._samples, self.count, self.total = samples, samples.count, 0

    def read(self, start: int, stop: int) -> np.ndarray:
        assert start == self.total
        self.total = stop
        return self._samples.read(start, stop)


def test_a_long_recording_is_read_only_as_far_as_the_picture_has_come(tmp_path: Path) -> None:
    recording = sound(80_000, 8000)
    assert recording.track is not None
    counted = CountedSamples(recording.track)
    with VideoWriter(tmp_path / "a.mp4", SIZE, Fraction(10), replace(recording, track=counted), 18) as writer:
        for index, picture in enumerate(frames(20)):
            writer.write(picture)
            assert 0 <= counted.total - 800 * (index + 1) <= 2000
    assert counted.total == 80_000


def test_sound_and_picture_are_interleaved_as_they_come(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", frames(300), Fraction(30), sound(160_000, 16000))
    latest: dict[int, float] = {}
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.dts is not None:
                latest[packet.stream_index] = float(packet.dts * packet.time_base)
                if len(latest) == 2:
                    assert abs(latest[0] - latest[1]) < 0.5


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_the_index_is_at_the_front(tmp_path: Path, name: str) -> None:
    content = write(tmp_path / name, frames(5), Fraction(30), sound(4000, 16000)).read_bytes()
    assert 0 < content.find(b"moov") < content.find(b"mdat")


def test_the_sound_track_of_surround_is_stereo_with_the_centre_in_both(tmp_path: Path) -> None:
    centre = np.zeros((6, 48000), np.float32)
    centre[2] = tone(1, 48000)
    source = write_sound(tmp_path / "surround.flac", "flac", centre, 48000)
    path = write(tmp_path / "a.mp4", frames(10), Fraction(10), open_recording(source, 16000))
    with av.open(str(path)) as container:
        track = container.streams.audio[0]
        samples = np.concatenate([frame.to_ndarray() for frame in container.decode(track)], axis=1)
    assert track.layout.name == "stereo"
    expected = 0.3 / np.sqrt(2) * np.sqrt(0.5)  # -3 dB in each of the two
    np.testing.assert_allclose(samples[:, 4000:40_000].std(axis=1), expected, rtol=0.02)
