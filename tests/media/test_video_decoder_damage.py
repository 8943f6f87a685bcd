"""Driving videos that are damaged, change their size or have odd pixels are read, with notes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support.moving_spots import SIZE, SPEED, Searches, place, spot, spot_x, write
from vexpress_rt.errors import NoFaceError, VideoError
from vexpress_rt.media.video_reader import read_frames
from vexpress_rt.stages.pose import load_track
from vexpress_rt.types import KeypointTrack

TS_PACKET = 188
GROUP = {"g": "15", "bf": "0"}


def load(path: Path) -> KeypointTrack:
    return load_track(path, Searches(), Fraction(100))


def frame_places(path: Path) -> list[tuple[int, int]]:
    """(byte, length) of each frame in a file."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size and packet.pos]


def blank(path: Path, frames: slice) -> Path:
    """Overwrite some of the frames of a file by zeros."""
    content = bytearray(path.read_bytes())
    for place_in_file, size in frame_places(path)[frames]:
        content[place_in_file + 4 : place_in_file + size] = bytes(size - 4)
    path.write_bytes(content)
    return path


def told(track: KeypointTrack) -> str:
    return "; ".join(track.notes)


# Damage


@pytest.mark.parametrize("lost", [[0.5], [0.3, 0.6, 0.8]])
def test_lost_packets_of_a_transport_stream_are_skipped(tmp_path: Path, lost: list[float]) -> None:
    noise = np.random.default_rng(0).integers(0, 60, (60, *SIZE, 3), dtype=np.uint8)  # several packets a frame
    pictures = [np.maximum(spot(place(k)), noise[k]) for k in range(60)]
    path = write(tmp_path / "a.ts", range(60), pictures=pictures, options=GROUP)
    content = path.read_bytes()
    packets = [content[k : k + TS_PACKET] for k in range(0, len(content), TS_PACKET)]
    video = [k for k, packet in enumerate(packets) if (packet[1] & 31, packet[2]) == (1, 0)]
    gone = {video[int(share * len(video))] for share in lost}
    path.write_bytes(b"".join(packet for k, packet in enumerate(packets) if k not in gone))
    track = load(path)
    assert len(track.points) == 60
    assert "damaged (" in told(track)
    assert 1 <= int(told(track).split("driving video: ")[1].split()[0]) <= 2 * len(lost)
    assert np.median(np.abs(spot_x(track.points) - [place(k) for k in range(60)])) < 1


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
@pytest.mark.parametrize("count", [1, 3])
def test_frames_that_cannot_be_decoded_are_counted_and_keep_their_time(tmp_path: Path, name: str, count: int) -> None:
    path = blank(
        write(tmp_path / name, range(60), options={**GROUP, "x264-params": "sliced-threads=0"}), slice(31, 31 + count)
    )
    track = load(path)
    assert len(track.points) == 60
    frames = "1 frame is" if count == 1 else "3 frames are"
    assert f"driving video: {frames} damaged (Invalid data found" in told(track)
    np.testing.assert_allclose(spot_x(track.points)[45:], [place(k) for k in range(45, 60)], atol=0.7)


def test_a_video_that_is_mostly_damaged_is_refused(tmp_path: Path) -> None:
    path = blank(write(tmp_path / "a.mp4", range(60), options=GROUP), slice(5, 55))
    with pytest.raises(VideoError, match=r"is damaged: 50 of its \d+ frames .*: transfer it again, or convert it"):
        load(path)


def test_a_video_without_a_frame_that_can_be_decoded_is_refused(tmp_path: Path) -> None:
    path = blank(write(tmp_path / "a.mp4", range(30), options=GROUP), slice(None))
    with pytest.raises(VideoError, match="holds no frame that can be decoded"):
        load(path)


def test_a_stream_that_begins_between_key_frames_begins_with_the_next(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ts", range(60), options=GROUP)
    content = path.read_bytes()
    half = len(content) // TS_PACKET // 2 * TS_PACKET
    path.write_bytes(content[: 3 * TS_PACKET] + content[half:])
    track = load(path)
    assert 15 <= len(track.points) <= 40
    np.testing.assert_allclose(np.diff(spot_x(track.points)), SPEED, atol=0.8)


@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
def test_a_truncated_file_is_read_to_its_end(tmp_path: Path, name: str) -> None:
    codec = "libvpx" if name == "a.webm" else "libx264"
    path = write(tmp_path / name, range(120), codec=codec)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    track = load(path)
    assert 20 < len(track.points) < 90
    assert "of the 4.0 seconds that it declares" in told(track)


def test_a_stream_that_the_file_declares_late_is_skipped(tmp_path: Path) -> None:
    """PyAV raises IndexError at the end of such a file."""
    path = late_sound(tmp_path / "a.flv")
    with av.open(str(path)) as container, pytest.raises(IndexError):
        list(container.demux(video=0))
    assert len(load(path).points) == 240


def late_sound(path: Path) -> Path:
    """A Flash video that declares no sound and has sound after its pictures."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("flv", rate=30)
        video.height, video.width = SIZE
        video.pix_fmt = "yuv420p"
        sound = container.add_stream("libmp3lame", rate=44100, layout="mono")
        for number in range(240):
            container.mux(video.encode(av.VideoFrame.from_ndarray(spot(20 + number / 5), "rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 9 * 1152), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux([*video.encode(None), *sound.encode(frame), *sound.encode(None)])
    content = path.read_bytes()
    tags, at = [], 13
    while at < len(content):
        end = at + 15 + int.from_bytes(content[at + 1 : at + 4], "big")
        tags.append(content[at:end])
        at = end
    tags.sort(key=lambda tag: tag[0] == 8)  # sound comes last
    path.write_bytes(content[:4] + b"\x01" + content[5:13] + b"".join(tags))
    return path


# Sizes


def joined(path: Path, *parts: Path) -> Path:
    """Parts of a WebM video, one after the other in one stream, whatever their sizes."""
    with av.open(str(path), "w") as target:
        stream, offset = None, 0
        for part in parts:
            with av.open(str(part)) as source:
                stream = stream or target.add_stream_from_template(source.streams.video[0])
                last = 0
                for packet in source.demux(video=0):
                    if packet.size and packet.pts is not None:
                        last = packet.pts
                        packet.stream, packet.pts, packet.dts = stream, packet.pts + offset, packet.pts + offset
                        target.mux(packet)
                offset += last + 33
    return path


def test_pictures_of_another_size_are_scaled_to_the_first(tmp_path: Path) -> None:
    whole = write(tmp_path / "1.webm", range(20), codec="libvpx")
    small = [spot(place(20 + k), None)[::2, ::2] for k in range(20)]
    half = write(tmp_path / "2.webm", range(20), codec="libvpx", pictures=small)
    path = joined(tmp_path / "a.webm", whole, half)
    assert {frame.shape for frame in read_frames(path).frames()} == {(*SIZE, 3)}
    track = load(path)
    assert track.size == SIZE
    np.testing.assert_allclose(spot_x(track.points), [place(k) for k in range(40)], atol=SPEED)
    assert track.notes == (
        "driving video: its pictures change from 96 x 64 to 48 x 32 pixels (width x height), and are scaled to the "
        "first size",
    )


def test_pictures_of_another_shape_are_not_distorted(tmp_path: Path) -> None:
    first = write(tmp_path / "1.webm", range(10), codec="libvpx")
    upright = [spot(32, 48, (96, 64))] * 10
    path = joined(tmp_path / "a.webm", first, write(tmp_path / "2.webm", range(10), codec="libvpx", pictures=upright))
    frame = list(read_frames(path).frames())[-1]
    rows, columns = np.nonzero(frame[..., 0].astype(int) - frame[..., 1] > 100)
    assert (rows.mean(), columns.mean()) == (pytest.approx(32, abs=1), pytest.approx(48, abs=1))  # the middle
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=1) == pytest.approx(8, abs=2)


# Pixels that are not square


@pytest.mark.parametrize(
    ("name", "aspect", "size"),
    [
        ("a.mp4", Fraction(2), (64, 192)),
        ("a.mp4", Fraction(1, 2), (128, 96)),
        ("a.mkv", Fraction(16, 11), (64, 140)),
        ("a.ts", Fraction(16, 11), (64, 140)),
        ("a.mp4", Fraction(12, 11), (64, 105)),
    ],
)
def test_pixels_are_made_square(tmp_path: Path, name: str, aspect: Fraction, size: tuple[int, int]) -> None:
    path = write(tmp_path / name, range(6), aspect=aspect)
    opened = read_frames(path)
    assert opened.size == size
    assert {frame.shape for frame in opened.frames()} == {(*size, 3)}
    track = load(path)
    assert track.size == size
    np.testing.assert_allclose(spot_x(track.points), [place(k) * size[1] / SIZE[1] for k in range(6)], atol=1)


def test_pixels_are_made_square_before_the_picture_is_turned(tmp_path: Path) -> None:
    opened = read_frames(write(tmp_path / "a.mp4", range(3), aspect=Fraction(2), rotation=90))
    assert opened.size == (192, 64)
    assert {frame.shape for frame in opened.frames()} == {(192, 64, 3)}


@pytest.mark.parametrize(("across", "down"), [(1, 1000), (1000, 1)])
def test_pixels_of_an_absurd_aspect_are_taken_as_square_with_a_note(tmp_path: Path, across: int, down: int) -> None:
    path = with_pixels_of(write(tmp_path / "a.mp4", range(6), aspect=Fraction(2)), across, down)
    track = load(path)
    assert track.size == SIZE
    declared = Fraction(across, down)
    assert (
        told(track)
        == f"driving video: it declares pixels {declared} times as wide as high, which are treated as square"
    )


@pytest.mark.parametrize(("across", "down"), [(0, 0), (0, 1), (1, 0)])
def test_pixels_of_unknown_aspect_are_square(tmp_path: Path, across: int, down: int) -> None:
    assert load(with_pixels_of(write(tmp_path / "a.mp4", range(6), aspect=Fraction(2)), across, down)).size in (
        SIZE,
        (64, 192),  # as the codec has it
    )


def with_pixels_of(path: Path, across: int, down: int) -> Path:
    """Write another pixel aspect into an MP4's `pasp` box."""
    content = bytearray(path.read_bytes())
    at = content.index(b"pasp") + 4
    content[at : at + 8] = across.to_bytes(4, "big") + down.to_bytes(4, "big")
    path.write_bytes(content)
    return path


# Formats and sizes of frames


@pytest.mark.parametrize(
    "pix_fmt", ["gray", "gray16le", "yuva420p", "yuv420p10le", "yuv444p12le", "rgb48le", "bgra", "gbrp10le", "yuv410p"]
)
def test_frames_of_any_pixel_format_are_read(tmp_path: Path, pix_fmt: str) -> None:
    path = write(tmp_path / "a.mkv", range(3), codec="ffv1", pix_fmt=pix_fmt)
    frames = list(read_frames(path).frames())
    assert [frame.shape for frame in frames] == [(*SIZE, 3)] * 3
    assert frames[0][32, 12].max() > 60


@pytest.mark.parametrize(("name", "codec", "pix_fmt"), [("a.mov", "png", "rgb24"), ("a.avi", "rawvideo", "bgr24")])
def test_frames_that_are_rgb_or_lie_upside_down_are_converted_exactly(
    tmp_path: Path, name: str, codec: str, pix_fmt: str
) -> None:
    picture = spot(30, 20)
    for frame in read_frames(
        write(tmp_path / name, [0, 1], codec=codec, pix_fmt=pix_fmt, pictures=[picture] * 2)
    ).frames():
        assert frame.flags.c_contiguous
        np.testing.assert_array_equal(frame, picture)


def test_large_frames_are_searched_scaled_down_and_their_points_are_in_their_own_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vexpress_rt.media.video_decoder.LARGEST_PICTURE", SIZE[0] * SIZE[1] // 3)
    path = write(tmp_path / "a.mp4", range(10))
    opened = read_frames(path)
    assert (opened.size, opened.shown) == (SIZE, (32, 48))
    assert {frame.shape for frame in opened.frames()} == {(32, 48, 3)}
    track = load(path)
    assert track.size == SIZE
    np.testing.assert_allclose(spot_x(track.points), [place(k) for k in range(10)], atol=2.5)


# Faces


def test_a_driving_video_without_a_face_names_the_remedies(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", range(6), pictures=[np.full((*SIZE, 3), 40, np.uint8)] * 6)
    with pytest.raises(NoFaceError) as caught:
        load(path)
    for text in ("6 frames of 96 x 64 pixels", "searched scaled to 512", "upright", "crop it closer", "from a file"):
        assert text in str(caught.value)
