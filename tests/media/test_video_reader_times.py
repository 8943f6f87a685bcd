"""Times of the frames of a driving video: rates and times come from time stamps, not from declarations."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support.moving_spots import SPEED, Searches, place, spot, spot_x, write
from tests.support.scenes import FAST, photo, speech
from vexpress_rt.errors import VideoError
from vexpress_rt.media.video_decoder import ReadReport
from vexpress_rt.media.video_reader import read_frames
from vexpress_rt.pipeline.generator import Generator
from vexpress_rt.stages.pose import load_track
from vexpress_rt.types import KeypointTrack

JITTER = np.cumsum(np.random.default_rng(1).uniform(0.7, 1.6, 40)) - 0.7  # as a browser records a webcam


def _stills() -> list[np.ndarray]:
    return [spot(20 + 10 * k) for k in range(4)]


def load(path: Path, seconds: int = 100) -> tuple[KeypointTrack, int]:
    """The track of a video, and how many pictures were searched for it."""
    search = Searches()
    return load_track(path, search, Fraction(seconds)), search.count


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.webm", "libvpx"), ("a.webm", "libvpx-vp9"), ("a.mkv", "libx264"), ("a.mp4", "libx264"), ("a.ts", "libx264")],
)
def test_a_recording_of_variable_rate_has_the_rate_of_its_frames_and_the_right_times(
    tmp_path: Path, name: str, codec: str
) -> None:
    path = write(tmp_path / name, JITTER.tolist(), codec=codec)
    track, searched = load(path)
    assert track.fps is not None
    seconds = (JITTER[-1] - JITTER[0]) / 30
    assert float(track.fps) == pytest.approx(39 / seconds, rel=0.05)
    assert len(track.points) == pytest.approx(seconds * float(track.fps) + 1, abs=1)
    times = np.arange(len(track.points)) / float(track.fps) * 30 + JITTER[0]  # in periods
    off = np.abs(spot_x(track.points) - (place(0) + SPEED * times))
    assert off.max() < SPEED  # the frame nearest in time is less than a period away
    assert searched <= 40


def test_a_rate_that_is_a_time_base_is_not_used(tmp_path: Path) -> None:
    """As a browser writes it: without frame durations, so that the nominal rate is 1000 per second."""
    path = write(tmp_path / "a.webm", JITTER.tolist(), codec="libvpx")
    content = path.read_bytes()
    default_duration = content.index(b"\x23\xe3\x83")
    assert content[default_duration + 3] == 0x84  # four bytes follow
    path.write_bytes(content[:default_duration] + b"\xec\x86" + bytes(6) + content[default_duration + 8 :])  # Void
    with av.open(str(path)) as container:
        assert container.streams.video[0].guessed_rate == 1000
    track, searched = load(path)
    assert track.fps is not None
    assert 20 < track.fps < 30
    assert searched <= 40


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts", "a.avi", "a.mov"])
@pytest.mark.parametrize("fps", [10, 25, Fraction(30000, 1001), Fraction(60000, 1001), 120])
def test_a_constant_rate_is_kept_exactly(tmp_path: Path, name: str, fps: Fraction | int) -> None:
    path = write(tmp_path / name, range(30), fps=fps)
    track, searched = load(path)
    assert track.fps == fps
    assert searched == len(track.points) == 30
    np.testing.assert_allclose(spot_x(track.points), [place(k) for k in range(30)], atol=0.7)


def test_frames_that_come_every_other_field_have_their_own_rate(tmp_path: Path) -> None:
    track, searched = load(write(tmp_path / "a.mkv", range(0, 60, 2), fps=Fraction(60000, 1001)))
    assert track.fps == Fraction(30000, 1001)
    assert searched == len(track.points) == 30


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_a_video_of_one_frame_is_a_track_of_one_frame(tmp_path: Path, name: str) -> None:
    track, searched = load(write(tmp_path / name, [0], codec="libvpx" if name == "a.webm" else "libx264"))
    assert (len(track.points), searched) == (1, 1)


def test_pictures_that_are_shown_for_seconds_are_searched_once_each(tmp_path: Path) -> None:
    track, searched = load(write(tmp_path / "a.mkv", [300 * k for k in range(4)], pictures=_stills()))
    assert track.fps == 1
    assert len(track.points) == 31
    assert searched == 4


def test_more_frames_than_240_a_second_are_thinned_before_they_are_searched(tmp_path: Path) -> None:
    track, searched = load(write(tmp_path / "a.mp4", range(100), fps=1000, pictures=[*_stills()] * 25))
    assert track.fps == 240
    assert searched == len(track.points) == pytest.approx(24, abs=1)


def test_a_gap_keeps_its_time(tmp_path: Path) -> None:
    times = [*range(20), *range(32, 40)]
    track, searched = load(write(tmp_path / "a.webm", times, codec="libvpx"))
    assert (len(track.points), searched) == (40, 28)
    np.testing.assert_allclose(spot_x(track.points)[32:], [place(k) for k in range(32, 40)], atol=0.7)


def test_a_gap_of_hours_is_a_jump_and_the_video_goes_on(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.mkv",
        [*range(10), *(30 * 3600 * 9 + k for k in range(5))],
        pictures=[*_stills()] * 3 + _stills()[:3],
    )
    track, _ = load(path)
    assert len(track.points) == 15
    assert track.notes == (
        "driving video: its time stamps jump, as in joined recordings; the frames after the jump follow without a gap",
    )


def test_a_video_that_really_lasts_for_hours_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mkv", range(40))
    monkeypatch.setattr("vexpress_rt.media.video_reader.MAX_SECONDS", 1)
    with pytest.raises(VideoError, match=r"lasts more than .* hours: cut it into parts"):
        load(path)


def test_a_long_gap_costs_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", [0, 1, 30 * 500], pictures=_stills()[:3])
    tracemalloc.start()
    try:
        assert sum(repeats for _, repeats in read_frames(path).runs()) == 15001
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("parts", [2, 3])
def test_concatenated_recordings_follow_each_other(tmp_path: Path, parts: int) -> None:
    path = write(tmp_path / "a.ts", range(45))
    path.write_bytes(path.read_bytes() * parts)
    track, _ = load(path)
    assert track.fps == 30
    assert len(track.points) == pytest.approx(45 * parts, abs=parts)
    assert any("time stamps jump" in note for note in track.notes)
    np.testing.assert_allclose(spot_x(track.points)[-40:], [place(k) for k in range(5, 45)], atol=2 * SPEED)


def test_time_stamps_that_are_all_equal_are_replaced_by_even_distances(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    write(tmp_path / "even.mkv", range(20), codec="mjpeg", pix_fmt="yuvj420p")
    with av.open(str(tmp_path / "even.mkv")) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream, packet.pts, packet.dts = stream, 0, 0
                target.mux(packet)
    report = ReadReport()
    assert len(list(read_frames(path).frames(report))) == 20
    assert report.notes() == ("driving video: its time stamps are unusable; frames are spaced evenly",)


def test_frames_that_an_edit_list_removes_do_not_count(tmp_path: Path) -> None:
    track, _ = load(write(tmp_path / "a.mp4", range(-10, 20)))
    assert len(track.points) == 20
    np.testing.assert_allclose(spot_x(track.points), [place(k) for k in range(20)], atol=0.7)


def test_progress_counts_decoded_frames_and_its_exceptions_pass_through(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", range(30))
    told: list[tuple[int, int]] = []
    load_track(path, Searches(), Fraction(1, 2), lambda *what: told.append(what))
    assert told == [(done, 31) for done in range(1, 31)]  # half a second, half a second more, and one frame

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    search = Searches()
    with pytest.raises(KeyboardInterrupt):
        load_track(path, search, Fraction(1), stop)
    assert search.count == 3


def test_the_generator_reports_the_progress_of_the_search(tmp_path: Path, generator: Generator) -> None:
    path = write(tmp_path / "a.mkv", range(9), pictures=[photo(x=28 + k) for k in range(9)])
    told: list[tuple[str, int, int]] = []
    generator.generate(
        photo(), speech(0.3), keypoints=path, config=FAST, progress=lambda *what: told.append(what)
    )  # fmt: skip
    searched = [what for what in told if what[0] == "keypoints"]
    assert searched == [*(("keypoints", done, 25) for done in range(1, 10)), ("keypoints", 1, 1)]
