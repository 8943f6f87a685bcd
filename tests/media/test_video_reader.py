"""A driving video gives upright frames at a constant rate."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from vexpress_rt.errors import VideoError
from vexpress_rt.media import video_decoder
from vexpress_rt.media.video_decoder import ReadReport
from vexpress_rt.media.video_reader import read_frames


def shade(index: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A picture whose brightness tells its number, with a white corner top left."""
    picture = np.full((*size, 3), 20 + 8 * index, np.uint8)
    picture[:16, :24] = 255
    return picture


def write(
    path: Path,
    times: Sequence[int | Fraction],
    fps: Fraction | int = 30,
    rotation: int = 0,
    pictures: Sequence[np.ndarray] | None = None,
) -> Path:
    """An H.264 video whose frame k is shown at times[k], in frame periods."""
    chosen = [shade(k) for k in range(len(times))] if pictures is None else pictures
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "5", "g": "8"})
        stream.height, stream.width = chosen[0].shape[:2]
        stream.codec_context.time_base = 1 / Fraction(fps) / 4
        if rotation:
            stream.set_display_rotation(rotation)
        for time, picture in zip(times, chosen, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = int(time * 4), 1 / Fraction(fps) / 4
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbers(path: Path) -> list[int]:
    return [round((int(np.median(frame)) - 20) / 8) for frame in read_frames(path).frames()]


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi"])
@pytest.mark.parametrize("fps", [25, Fraction(30000, 1001), 60])
def test_a_video_of_constant_rate_comes_out_frame_by_frame(tmp_path: Path, name: str, fps: Fraction | int) -> None:
    path = write(tmp_path / name, range(20), fps)
    opened = read_frames(str(path))
    assert (opened.fps, opened.size) == (fps, (48, 64))
    assert numbers(path) == list(range(20))


def test_frames_are_rgb_bytes_in_the_videos_colours(tmp_path: Path) -> None:
    red = np.zeros((48, 64, 3), np.uint8)
    red[...] = (200, 40, 30)
    (frame,) = read_frames(write(tmp_path / "a.mp4", [0], pictures=[red])).frames()
    assert frame.dtype == np.uint8
    assert np.abs(frame.astype(int) - red).max() < 6


def test_frames_can_be_read_again(tmp_path: Path) -> None:
    opened = read_frames(write(tmp_path / "a.mp4", range(5)))
    np.testing.assert_array_equal(list(opened.frames()), list(opened.frames()))


def test_reading_may_stop_early(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", range(20))
    frames = read_frames(path).frames()
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    path.unlink()
    assert list(tmp_path.iterdir()) == []


def test_a_variable_rate_is_evened_out_to_the_frame_nearest_in_time(tmp_path: Path) -> None:
    """Frames 3 and 4 are missing: 2 stands for the one nearer to it, 5 for the other."""
    path = write(tmp_path / "a.mp4", [0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12])
    opened = read_frames(path)
    assert opened.fps == 30
    assert numbers(path) == [0, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10]


def test_frames_that_come_too_densely_are_thinned(tmp_path: Path) -> None:
    times = [0, 1, 2, Fraction(9, 4), 3, 4, 5, 6, 7, 8, 9, 10]
    assert numbers(write(tmp_path / "a.mkv", times)) == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]


def test_time_counts_from_the_first_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", range(10, 20))
    assert numbers(path) == list(range(10))


@pytest.mark.parametrize(("rotation", "corner"), [(90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1))])
def test_a_turned_video_is_set_upright(tmp_path: Path, rotation: int, corner: tuple[int, int]) -> None:
    opened = read_frames(write(tmp_path / "a.mp4", range(3), rotation=rotation))
    frame, *others = opened.frames()
    assert len(others) == 2
    assert opened.size == frame.shape[:2] == ((48, 64) if rotation == 180 else (64, 48))
    corners = {(row, column): frame[row, column, 0] > 200 for row in (0, -1) for column in (0, -1)}
    assert [place for place, white in corners.items() if white] == [corner]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"none\.mp4 does not exist"):
        read_frames(tmp_path / "none.mp4")


@pytest.mark.parametrize("content", [b"", b"not a video", bytes(9000)])
def test_a_file_that_is_not_a_video_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=r"a\.mp4 cannot be read"):
        read_frames(tmp_path / "a.mp4")


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(VideoError, match="holds audio but no moving picture"):
        read_frames(tmp_path / "a.mp4")


@pytest.mark.parametrize("kept", [0.5, 0.8])
def test_the_existing_part_of_a_truncated_video_is_used_with_a_note(tmp_path: Path, kept: float) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(90)]
    path = write(tmp_path / "a.mp4", range(90), pictures=noise)
    fast_start(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    report = ReadReport()
    frames = list(read_frames(path).frames(report))
    assert 0.5 * kept * 90 < len(frames) < 90
    told = "; ".join(report.notes())
    assert f"it ends after {len(frames) / 30:.1f} of the 3.0 seconds that it declares" in told or kept == 0.8


def fast_start(path: Path) -> None:
    """Move the index to the front, so that a cut leaves it whole."""
    with (
        av.open(str(path)) as source,
        av.open(str(path.with_name("moved.mp4")), "w", container_options={"movflags": "+faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    path.with_name("moved.mp4").replace(path)


def test_frames_that_are_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", range(3))
    monkeypatch.setattr(video_decoder, "MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(VideoError, match="has 64 x 48 pixels; expected at most 3071"):
        read_frames(path)


def test_only_a_few_frames_are_held_at_a_time(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", range(24), pictures=[shade(k, (256, 256)) for k in range(24)])
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_frames(path).frames()) == 24
        assert tracemalloc.get_traced_memory()[1] < 5 * 256 * 256 * 3
    finally:
        tracemalloc.stop()


def test_an_album_cover_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp3"), "w") as container:
        sound = container.add_stream("libmp3lame", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 32
        cover.pix_fmt = "yuvj420p"
        cover.disposition = Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
        container.mux([*cover.encode(picture), *cover.encode(None)])
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux([*sound.encode(frame), *sound.encode(None)])
    with pytest.raises(VideoError, match="holds audio, video but no moving picture"):
        read_frames(tmp_path / "a.mp3")
