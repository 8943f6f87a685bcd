"""Depth maps: arrays and files, their ranges, and their crop to the bundle's picture."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vexpress_rt.errors import DepthError
from vexpress_rt.media import depth_maps, safe_arrays
from vexpress_rt.media.depth_maps import DepthMaps, crop_depth, load_depth
from vexpress_rt.types import Crop

RAMP = np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize(
    "values", [RAMP, RAMP.astype(np.float16), RAMP.astype(">f8"), RAMP.tolist(), np.asfortranarray(RAMP)]
)
def test_floats_are_taken_as_they_are(values: Any) -> None:
    maps = load_depth(values)
    assert (len(maps), maps.size, maps.fps) == (2, (3, 4), None)
    np.testing.assert_allclose(maps.at(1), RAMP[1], atol=5e-4)
    assert maps.at(1).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2"])
def test_whole_numbers_are_scaled_by_their_range(dtype: Any) -> None:
    most = np.iinfo(dtype).max
    maps = load_depth(np.array([[0, most // 3, most]], dtype))
    np.testing.assert_allclose(maps.at(0), [[0, 1 / 3, 1]], atol=1e-7)


def test_between_two_maps_depth_is_interpolated_and_beyond_them_held() -> None:
    maps = load_depth(np.stack([np.zeros((2, 2)), np.ones((2, 2))]))
    assert [float(maps.at(position)[0, 0]) for position in (-1, 0, 0.25, 1, 7)] == [0, 0, 0.25, 1, 1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(4), r"have shape \(4,\); expected \(frames, height, width\) or \(height, width\)"),
        (np.zeros((2, 3, 4, 3)), r"have shape \(2, 3, 4, 3\)"),
        (np.zeros((0, 3, 4)), r"have shape \(0, 3, 4\)"),
        (np.zeros((2, 3, 4), bool), "have dtype bool"),
        (np.zeros((2, 3, 4), np.int32), "have dtype int32; .*: divide them by their largest"),
        ([["x"]], "have dtype <U1"),
        ([[1.0], [1.0, 2.0]], "no array"),
        (object(), r"have shape \(\)"),
        (np.broadcast_to(np.uint8(0), (2, 9000, 9000)), "have 81000000 pixels each; expected at most 35389440: scale"),
        (np.broadcast_to(np.where(np.arange(10**6) == 7, 2.0, 1.0)[:, None, None], (10**6, 1, 1)), "frames 7 "),
        (np.ma.masked_less(RAMP, 0.5), "masked"),
        (RAMP * 7, "values of 0.0 to 3.3478.* in frames 0-1 .*divide distances"),
        (np.where(RAMP == 1, np.nan, RAMP), "NaN or infinity in frames 1 "),
        (np.where(RAMP == 1, np.inf, RAMP), "NaN or infinity in frames 1 "),
        (RAMP - 1e-3, "values of -0.001.* to 0.4772.* in frames 0 "),
        (RAMP * np.float32(1.0000001), "values of 0.5.* to 1.00000011.* in frames 1 "),
    ],
)
def test_what_is_no_depth_is_refused(values: Any, message: str) -> None:
    with pytest.raises(DepthError, match=message):
        load_depth(values)


def archive(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def test_files_of_numpy_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "maps.npy", RAMP)
    (tmp_path / "one.npz").write_bytes(archive(maps=RAMP))
    (tmp_path / "several.npz").write_bytes(archive(depth=RAMP, keypoints=np.zeros((2, 3, 2))))
    for name in ("maps.npy", "one.npz", "several.npz"):
        np.testing.assert_array_equal(load_depth(tmp_path / name).values, RAMP)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02cposix\nsystem\n", r"begins with .*; expected a .npy or .npz file"),
        (b"\x93NUMPY\x01\x00 but no more", "damaged"),
        (archive(a=RAMP, b=RAMP), "holds 2 arrays .*expected one, or one named 'depth'"),
        (archive(**{"a\n\x1b": RAMP, "b" * 9999: RAMP}), r"holds 2 arrays \('a\\n\\x1b.npy', 'b.{20,60}'\); expected"),
        (archive(a=np.array([{}], object)), "holds values of type object"),
        (archive(depth=RAMP * 2), "values of 1.0434.* to 2.0 in frames 1 "),
    ],
)
def test_other_files_are_refused_by_name(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "maps.npz").write_bytes(content)
    with pytest.raises(DepthError, match=message) as refused:
        load_depth(tmp_path / "maps.npz")
    assert "maps.npz" in str(refused.value)
    with pytest.raises(DepthError, match="does not exist"):
        load_depth(tmp_path / "none.npy")


def test_arrays_beyond_the_limit_or_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("depth.npy", bytes(safe_arrays.MAX_FILE_BYTES + 1))
    (tmp_path / "large.npz").write_bytes(content.getvalue())
    monkeypatch.setattr(safe_arrays, "free_memory", lambda: 10**6)
    with pytest.raises(DepthError, match=r"reading the depth maps needs 0\.07 GB of memory"):
        load_depth(tmp_path / "large.npz")
    monkeypatch.setattr(depth_maps, "DEPTH", replace(safe_arrays.DEPTH, limit=1000))
    for name in ("large.npz", "large.npy"):
        np.save(tmp_path / "large.npy", np.zeros((1, 40, 40), np.uint8))
        with pytest.raises(DepthError, match=f"{name}.* has more than 1000 bytes, too much for depth maps"):
            load_depth(tmp_path / name)


def test_a_crop_is_a_mean_where_maps_shrink_and_linear_where_they_grow() -> None:
    columns = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    halved = crop_depth(columns, Crop(0, 0, 64, 64, (32, 32), (64, 64)))
    np.testing.assert_allclose(
        halved[:, 1:-1], np.tile(columns[0].reshape(32, 2).mean(axis=1), (32, 1))[:, 1:-1], atol=1e-6
    )
    doubled = crop_depth(columns, Crop(16, 8, 32, 32, (64, 64), (64, 64)))
    middles = (16.25 + np.arange(64) / 2 - 0.5) / 63
    np.testing.assert_allclose(doubled[5, 2:-2], middles[2:-2], atol=1e-6)
    smaller = crop_depth(columns[::2, ::2], Crop(32, 0, 64, 128, (16, 8), (128, 128)))  # of a photo four times as large
    np.testing.assert_allclose(smaller[3], columns[0].reshape(16, 4).mean(axis=1)[4:12], atol=0.02)


def test_a_whole_map_of_the_bundles_size_is_the_same_array() -> None:
    depth = RAMP[0]
    assert crop_depth(depth, Crop(0.0, 0.0, 4.0, 3.0, (3, 4), (3, 4))) is depth


def test_maps_of_a_video_can_be_a_list() -> None:
    assert DepthMaps([np.zeros((2, 3), np.uint16)] * 2).size == (2, 3)
