"""The depth in each frame: which part of the maps, which map, videos of depth, and notes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import clips
from vexpress_rt.config import Settings
from vexpress_rt.errors import ConfigError, DepthError, VideoError
from vexpress_rt.media.image import face_crop
from vexpress_rt.stages import depth as depth_stage
from vexpress_rt.stages.depth import depth_crop, looping_depth_track, plan_depth_track
from vexpress_rt.types import Portrait

LEVELS = np.repeat(np.linspace(0, 1, 5, dtype=np.float32), 64 * 64).reshape(5, 64, 64)  # map k is k / 4 everywhere
SETTINGS = Settings(fps=25)


def make_portrait(source: tuple[int, int] = (64, 64), crop_mode: str = "face") -> Portrait:
    """Return a portrait of a faceless photo of `source` (height, width) that was cut to 64 x 64."""
    crop = face_crop(source, (64, 64), None, crop_mode)
    return Portrait(np.zeros((64, 64, 3), np.uint8), None, crop, {}, "bundle", crop_mode)


def depths(source: Any, length: int, **options: Any) -> tuple[list[float], tuple[str, ...]]:
    """Return the mean depth of each frame, and the notes."""
    track = plan_depth_track(source, make_portrait(), length, Settings(fps=25, **options))
    return [round(float(track.picture(frame).mean()), 4) for frame in range(length)], track.notes


@pytest.mark.parametrize(
    ("length", "extension", "expected", "note"),
    [
        (5, "stretch", [0, 0.25, 0.5, 0.75, 1], "depth: 5 frames, as many as the video has"),
        (3, "stretch", [0, 0.25, 0.5], "depth: longer than the video, cut to its 3 frames"),
        (
            10,
            "stretch",
            [0, 0.0625, 0.1875, 0.3125, 0.4375],
            "depth: 5 frames for 10 of the video, extended by stretch",
        ),
        (7, "hold", [0, 0.25, 0.5, 0.75, 1, 1, 1], "extended by hold"),
        (7, "loop", [0, 0.25, 0.5, 0.75, 1, 0, 0.25], "extended by loop"),
        (7, "mirror", [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5], "extended by mirror"),
    ],
)
def test_maps_are_fitted_to_the_video_as_keypoints_are(
    length: int, extension: str, expected: list[float], note: str
) -> None:
    found, notes = depths(LEVELS, length, extension=extension)
    assert found[: len(expected)] == expected
    assert notes[-1].endswith(note)


def test_one_map_is_held() -> None:
    assert depths(LEVELS[3], 4) == ([0.75] * 4, ("depth: one map, held in all frames",))


@pytest.mark.parametrize(
    ("size", "source", "mode", "part"),
    [
        ((64, 64), (64, 64), "face", (0, 0, 64, 64)),
        ((64, 64), (480, 640), "face", (0, 0, 64, 64)),  # of the bundle's size
        ((480, 640), (480, 640), "face", (80, 0, 480, 480)),  # of the photo
        ((120, 160), (480, 640), "face", (20, 0, 120, 120)),  # of the photo at a quarter
        ((121, 161), (480, 640), "face", (20.125, 0, 120.75, 121)),  # the same, rounded
        ((480, 640), (480, 640), "none", (0, 0, 640, 480)),
        ((128, 128), (480, 640), "face", (0, 0, 128, 128)),  # of the bundle's aspect
        ((100, 50), (480, 640), "none", (0, 0, 50, 100)),  # stretched like the photo
        ((100, 50), (480, 640), "face", (0, 25, 50, 50)),
    ],
)
def test_maps_are_cropped_like_the_photo_or_belong_to_the_bundles_picture(
    size: tuple[int, int], source: tuple[int, int], mode: str, part: tuple[float, ...]
) -> None:
    crop, notes = depth_crop(size, make_portrait(source=source, crop_mode=mode))
    assert (crop.left, crop.top, crop.width, crop.height) == pytest.approx(part, abs=0.26)
    assert (crop.size, crop.source) == ((64, 64), size)
    assert bool(notes) == (size == (100, 50) and mode == "face")
    assert all("50 x 100 pixels (width x height) have neither" in note for note in notes)


def write_levels(path: Path, levels: list[int], fps: int = 25, tint: int = 0) -> Path:
    """Write a video whose frames are grey, each of one level."""
    pictures = [np.full((64, 64, 3), (level, level, level + tint), np.uint8) for level in levels]
    return clips.write(path, pictures, Fraction(fps), None, quality=0)


def test_a_video_of_depth_gives_the_luma_of_its_frames(tmp_path: Path) -> None:
    path = write_levels(tmp_path / "depth.mp4", [0, 51, 102, 255])
    done: list[tuple[int, int]] = []
    track = plan_depth_track(path, make_portrait(), 4, SETTINGS, lambda *call: done.append(call))
    found = np.array([track.picture(frame).mean() for frame in range(4)])
    np.testing.assert_allclose(found, [0, 0.2, 0.4, 1], atol=2.5 / 255)
    assert track.picture(0).dtype == np.float32
    assert track.notes == ("depth: 4 frames, as many as the video has",)
    assert done[-1] == (4, 5)


def test_a_video_of_depth_has_its_own_rate_and_is_read_as_far_as_needed(tmp_path: Path) -> None:
    path = write_levels(tmp_path / "depth.mp4", [10 * level for level in range(20)], fps=50)
    track = plan_depth_track(path, make_portrait(), 4, SETTINGS)
    assert len(track.maps) == 9  # 4 frames at 25 a second take 8 of its frames, and one to interpolate with
    found = np.array([track.picture(frame).mean() for frame in range(4)]) * 255
    np.testing.assert_allclose(found, [5, 25, 45, 65], atol=2.5)  # between two frames


def test_a_coloured_video_is_noted(tmp_path: Path) -> None:
    path = write_levels(tmp_path / "depth.mp4", [100, 100], tint=90)
    (note, _) = plan_depth_track(path, make_portrait(), 2, SETTINGS).notes
    assert note.startswith("depth video: its pictures are coloured")


def test_other_files_are_refused_as_videos(tmp_path: Path) -> None:
    (tmp_path / "depth.txt").write_text("0.5")
    with pytest.raises(VideoError, match=r"taken for a video of depth; files of depth maps end in \.npy, \.npz"):
        plan_depth_track(tmp_path / "depth.txt", make_portrait(), 2, SETTINGS)


def test_a_video_that_does_not_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_levels(tmp_path / "depth.mp4", [100, 100])
    monkeypatch.setattr(depth_stage, "free_memory", lambda: 10**6)
    with pytest.raises(DepthError, match=r"a video of depth, after 0 frames, needs 0\.00 GB of memory"):
        plan_depth_track(path, make_portrait(), 2, SETTINGS)


def test_a_looping_track_has_no_end(tmp_path: Path) -> None:
    track = looping_depth_track(LEVELS, make_portrait(), SETTINGS, "mirror")
    assert [float(track.picture(frame).mean()) for frame in (0, 4, 5, 8, 804)] == [0, 1, 0.75, 0, 1]
    with pytest.raises(ConfigError, match="extension is 'stretch'"):
        looping_depth_track(LEVELS, make_portrait(), SETTINGS, "stretch")
