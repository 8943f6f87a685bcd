"""The position of the face in each frame: sources, pixels, rates, retargeting, and notes."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from vexpress_rt.config import RETARGET_MODES, Settings
from vexpress_rt.errors import ConfigError, KeypointError, NoFaceError, VideoError
from vexpress_rt.face.keypoint_track import interpolate
from vexpress_rt.face.retargeting import retarget
from vexpress_rt.media.image import face_crop
from vexpress_rt.stages.pose import PoseTrack, choose_retarget, load_track, plan_pose_track, to_picture
from vexpress_rt.types import Face, KeypointTrack, Portrait

FACE = np.array([[24, 28], [40, 28], [32, 38]], np.float32)  # in a picture of 64 x 64
SPOT = np.array([[-8, -4], [8, -4], [0, 6], [-5, 12], [5, 12]], np.float32)  # a detector's points around a red spot


def make_portrait(
    keypoints: np.ndarray | None = FACE, source: tuple[int, int] = (64, 64), crop_mode: str = "face"
) -> Portrait:
    """Of a photo of `source` (height, width) that was cut to 64 x 64."""
    crop = face_crop(source, (64, 64), None, crop_mode)
    return Portrait(np.zeros((64, 64, 3), np.uint8), keypoints, crop, {}, "bundle", crop_mode)


def track(length: int, step: float = 1.0) -> np.ndarray:
    """A face that moves to the right, `step` pixels a frame."""
    return np.stack([FACE + np.array([step * frame, 0]) for frame in range(length)]).astype(np.float32)


def no_detector(picture: np.ndarray) -> list[Face]:
    raise AssertionError("no picture was to be searched")


def find_red_spot(picture: np.ndarray) -> list[Face]:
    """A face around the reddest spot, none where nothing is red."""
    red = picture[..., 0].astype(int) - picture[..., 1]
    rows, columns = np.nonzero(red > 100)
    if not len(rows):
        return []
    centre = np.array([columns.mean(), rows.mean()], np.float32)
    return [Face(np.array([*centre - 15, *centre + 15], np.float32), 0.9, SPOT + centre)]


def write_video(path: Path, size: tuple[int, int], centres: list[tuple[float, float] | None], fps: int) -> Path:
    """A video of `size` (height, width) whose frames show a red spot at each centre (x, y), or none."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv444p"
        for centre in centres:
            picture = np.full((*size, 3), 40, np.uint8)
            if centre is not None:
                picture[np.hypot(columns - centre[0], rows - centre[1]) < 6] = (230, 30, 30)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


def plan(source: Any, length: int = 10, mode: str = "no_retarget", **changes: Any) -> PoseTrack:
    """`plan_pose_track` for the plain portrait at 30 frames a second; portrait and find_faces may be changed."""
    portrait = changes.pop("portrait", make_portrait())
    find_faces = changes.pop("find_faces", no_detector)
    return plan_pose_track(source, mode, portrait, length, Settings(**changes), find_faces)


# Which mode


def test_without_keypoints_the_face_is_held_still_and_with_keypoints_they_are_followed() -> None:
    assert choose_retarget(None, None) == "fix_face"
    assert choose_retarget(None, track(3)) == "no_retarget"


@pytest.mark.parametrize("mode", RETARGET_MODES)
def test_a_mode_that_is_asked_for_is_taken(mode: str) -> None:
    assert choose_retarget(mode, track(3)) == mode


@pytest.mark.parametrize("mode", [mode for mode in RETARGET_MODES if mode != "fix_face"])
def test_a_mode_that_follows_keypoints_needs_some(mode: str) -> None:
    with pytest.raises(
        ConfigError, match=f"^retarget is '{mode}', which follows keypoints, and there are none"
    ) as found:
        choose_retarget(mode, None)
    keypoints, held = str(found.value).split(", or use 'fix_face'")
    assert "give a file of keypoints or a driving video as keypoints= or --keypoints" in keypoints
    assert "needs a face in the photo, or its keypoints as prepare(..., keypoints=) or --image-keypoints" in held


@pytest.mark.parametrize("source", [None, track(3)], ids=["without keypoints", "with keypoints"])
def test_an_unknown_mode_is_refused_with_those_there_are(source: Any) -> None:
    with pytest.raises(ConfigError, match="retarget is 'fix'; expected one of no_retarget, fix_face"):
        choose_retarget("fix", source)


# Holding still


def test_a_face_held_still_is_the_photos_in_every_frame() -> None:
    motion = plan(None, length=5, mode="fix_face")
    np.testing.assert_array_equal(motion.points, np.stack([FACE] * 5))
    assert motion.notes == ()


def test_keypoints_that_are_not_used_are_not_even_read_and_it_is_told() -> None:
    motion = plan("nowhere.npy", length=5, mode="fix_face")
    np.testing.assert_array_equal(motion.points[4], FACE)
    assert motion.notes == ("keypoints were not used: fix_face holds the photo's own face still",)


@pytest.mark.parametrize("mode", [mode for mode in RETARGET_MODES if mode != "no_retarget"])
def test_a_photo_without_a_known_face_can_only_be_driven_unchanged(mode: str) -> None:
    faceless = make_portrait(keypoints=None)
    with pytest.raises(NoFaceError, match=f"^{mode} needs .* no face was found, or the bundle has no face detector"):
        plan("not yet.mp4", mode=mode, portrait=faceless)
    np.testing.assert_array_equal(plan(track(10), portrait=faceless).points, track(10))


# Retargeting


@pytest.mark.parametrize("mode", ["naive_retarget", "offset_retarget"])
@pytest.mark.parametrize("upstream_anchor", [False, True])
def test_keypoints_are_retargeted_to_the_photos_face(mode: str, upstream_anchor: bool) -> None:
    points = track(10, 0.5) * np.array([1.5, 1.25], np.float32)
    points[:, 0, 0] += np.arange(10)
    motion = plan(points, mode=mode, upstream_anchor=upstream_anchor)
    np.testing.assert_array_equal(motion.points, retarget(points, FACE, mode, upstream_anchor))


def test_a_face_wholly_outside_the_picture_is_refused_by_its_frames() -> None:
    points = track(10)
    points[3:5] += 64
    with pytest.raises(KeypointError, match=r"wholly outside the picture of 64 x 64 pixels .* in frames 3-4 "):
        plan(points)


def test_a_face_is_judged_where_retargeting_has_put_it() -> None:
    elsewhere = track(10, 0.1) + 500
    np.testing.assert_allclose(plan(elsewhere, mode="naive_retarget").points[0], FACE, atol=1e-3)


# Lengths and rates


@pytest.mark.parametrize(
    ("count", "note"),
    [
        (10, "keypoints: 10 frames, as many as the video has"),
        (30, "keypoints: longer than the video, cut to its 10 frames"),
        (4, "keypoints: 4 frames for 10 of the video, extended by mirror"),
    ],
)
def test_how_the_keypoints_came_to_the_videos_length_is_told(count: int, note: str) -> None:
    motion = plan(track(count), extension="mirror")
    assert motion.points.shape == (10, 3, 2)
    assert motion.notes == (note,)


@pytest.mark.parametrize("extension", ["stretch", "hold", "loop", "mirror"])
def test_keypoints_that_are_too_short_are_extended_as_asked(extension: str) -> None:
    motion = plan(track(4), extension=extension)
    assert motion.notes == (f"keypoints: 4 frames for 10 of the video, extended by {extension}",)
    frames = {"hold": [0, 1, 2, 3, 3, 3], "loop": [0, 1, 2, 3, 0, 1], "mirror": [0, 1, 2, 3, 2, 1]}
    if extension == "stretch":
        np.testing.assert_array_equal(motion.points, interpolate(track(4), 10))
    else:
        np.testing.assert_array_equal(motion.points[:6], track(4)[frames[extension]])


def test_a_track_of_another_rate_keeps_its_speed() -> None:
    at_60 = KeypointTrack(track(20), Fraction(60))
    motion = plan(at_60, fps=30)
    np.testing.assert_allclose(motion.points[:, 0, 0], FACE[0, 0] + 0.5 + 2 * np.arange(10))


def test_a_track_without_a_rate_has_that_of_the_video() -> None:
    np.testing.assert_array_equal(plan(track(10), fps=12.5).points, track(10))


# Pixels


def test_points_without_a_picture_are_in_the_bundles_pixels() -> None:
    found = to_picture(KeypointTrack(track(3)), make_portrait(source=(100, 300)))
    np.testing.assert_array_equal(found.points, track(3))


def test_pictures_as_large_as_the_photo_are_cut_as_the_photo_was() -> None:
    portrait = make_portrait(source=(128, 256))  # cut to columns 64 to 192, then halved
    found = to_picture(KeypointTrack(2 * track(3), Fraction(25), (128, 256)), portrait)
    np.testing.assert_allclose(found.points, track(3) - [32, 0])
    assert (found.fps, found.size) == (25, None)


def test_pictures_of_another_size_are_cut_around_their_own_first_face() -> None:
    """Of 100 x 300 pixels the middle of the face decides which 100 x 100 are taken."""
    points = track(3) + np.array([200, 20])
    found = to_picture(KeypointTrack(points.astype(np.float32), None, (100, 300)), make_portrait(source=(128, 256)))
    assert points[0, :, 0].mean() == 232
    np.testing.assert_allclose(found.points, (points - [232 - 50, 0]) * 0.64, atol=1e-4)


def test_a_photo_that_was_stretched_has_its_video_stretched_too() -> None:
    portrait = make_portrait(source=(128, 256), crop_mode="none")
    found = to_picture(KeypointTrack(track(3), None, (32, 128)), portrait)
    np.testing.assert_allclose(found.points, track(3) * [0.5, 2])


# Driving videos


def test_a_driving_video_gives_the_faces_that_are_found_in_it(tmp_path: Path) -> None:
    centres: list[Any] = [(30 + frame, 40 + 0.5 * frame) for frame in range(10)]
    video = write_video(tmp_path / "driving.mp4", (128, 128), centres, 30)
    motion = plan(video, portrait=make_portrait(source=(128, 128)), find_faces=find_red_spot)
    expected = (SPOT[None, :3] + np.array(centres)[:, None]) / 2
    np.testing.assert_allclose(motion.points, expected, atol=0.6)
    assert motion.notes == ("keypoints: 10 frames, as many as the video has",)


def test_a_driving_video_of_another_rate_keeps_its_speed(tmp_path: Path) -> None:
    video = write_video(tmp_path / "driving.mkv", (64, 64), [(10 + 2 * frame, 32) for frame in range(20)], 25)
    motion = plan(str(video), length=30, find_faces=find_red_spot, fps=50)
    speed = np.diff(motion.points[2:28, 2, 0]).mean()
    assert speed == pytest.approx(1, abs=0.05)


def test_gaps_in_a_driving_video_are_bridged_up_to_half_a_second(tmp_path: Path) -> None:
    centres: list[Any] = [(30 + frame, 32) for frame in range(30)]
    centres[10:15] = [None] * 5
    video = write_video(tmp_path / "driving.mp4", (64, 64), centres, 10)
    motion = plan(video, length=20, find_faces=find_red_spot, fps=10)
    np.testing.assert_allclose(motion.points[:, 2, 0], 30 + np.arange(20), atol=1)
    centres[9] = None
    longer = write_video(tmp_path / "longer.mp4", (64, 64), centres, 10)
    with pytest.raises(NoFaceError, match="frames 9-14 of the driving video"):
        plan(longer, length=20, find_faces=find_red_spot, fps=10)


def counted(find_faces: Callable[[np.ndarray], list[Face]]) -> tuple[Callable[[np.ndarray], list[Face]], list[int]]:
    calls: list[int] = []

    def find(picture: np.ndarray) -> list[Face]:
        calls.append(len(calls))
        return find_faces(picture)

    return find, calls


def test_a_long_driving_video_is_searched_no_further_than_it_is_needed(tmp_path: Path) -> None:
    video = write_video(tmp_path / "driving.mp4", (64, 64), [(10 + 0.2 * frame, 32) for frame in range(200)], 20)
    find, calls = counted(find_red_spot)
    motion = plan(video, length=15, find_faces=find, fps=10)
    assert len(calls) == 30 + 10 + 1  # 1.5 seconds at 20 a second, half a second more, and a frame to interpolate with
    assert motion.notes == ("keypoints: longer than the video, cut to its 15 frames",)
    whole = load_track(video, find_red_spot, Fraction(100))
    assert len(whole.points) == 200
    np.testing.assert_array_equal(plan(whole, length=15, fps=10).points, motion.points)


@pytest.mark.parametrize("end", [39, 40, 45])
def test_a_gap_at_the_videos_end_is_bridged_as_in_the_whole_driving_video(tmp_path: Path, end: int) -> None:
    centres: list[Any] = [(10 + 0.5 * frame, 32) for frame in range(80)]
    centres[37:46] = [None] * 9
    video = write_video(tmp_path / "driving.mp4", (64, 64), centres, 20)
    motion = plan(video, length=end, find_faces=find_red_spot, fps=20)
    whole = load_track(video, find_red_spot, Fraction(100))
    np.testing.assert_array_equal(plan(whole, length=end, fps=20).points, motion.points)


def test_a_driving_video_without_a_face_is_an_error(tmp_path: Path) -> None:
    video = write_video(tmp_path / "driving.mp4", (64, 64), [None] * 5, 30)
    with pytest.raises(NoFaceError, match="no face was found in any of the driving video's 5 frames"):
        plan(video, find_faces=find_red_spot)


def test_a_file_that_is_neither_keypoints_nor_video_is_told_how_it_was_taken(tmp_path: Path) -> None:
    (tmp_path / "points.txt").write_text("24 28 40 28 32 38\n")
    with pytest.raises(
        VideoError, match=r"points\.txt cannot be read.*taken for a driving video.* \.npy, \.npz, \.pth"
    ):
        plan(tmp_path / "points.txt")


@pytest.mark.parametrize("name", ["points.npy", "POINTS.NPY"])
def test_a_file_of_keypoints_is_known_by_its_extension(tmp_path: Path, name: str) -> None:
    with open(tmp_path / name, "wb") as file:
        np.save(file, track(10))
    np.testing.assert_array_equal(plan(tmp_path / name).points, track(10))
