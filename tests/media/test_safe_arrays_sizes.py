"""Array files that declare more than they contain are refused before memory is allocated."""

from __future__ import annotations

import io
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.array_bytes import ENCODE, LATIN1, POINTS, as_torch, npy, saved, zipped
from vexpress_rt.errors import KeypointError
from vexpress_rt.media.safe_arrays import MAX_FILE_BYTES, read_arrays


def tensor_program(offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A pickled tensor in a storage of six floats, with freely chosen geometry."""

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"

    text = [b"X" + struct.pack("<I", len(word)) + word for word in (b"storage", b"0", b"cpu")]
    storage = b"(" + text[0] + b"ctorch\nFloatStorage\n" + text[1] + text[2] + b"K\x06tQ"
    place = b"J" + struct.pack("<i", offset) + numbers(size) + numbers(stride)
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + place + b"\x89ccollections\nOrderedDict\n)RtR."


def test_a_tensor_within_its_storage_is_read(read_bytes: Callable[[bytes], Any]) -> None:
    flat = np.arange(6, dtype="<f4")
    result = read_bytes(as_torch(tensor_program(0, (1, 3, 2), (6, 2, 1)), **{"data/0": flat.tobytes()}))
    np.testing.assert_array_equal(result, flat.reshape(1, 3, 2))


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (2, 3, 2), (6, 2, 1)),
        (1, (1, 3, 2), (6, 2, 1)),
        (-1, (1, 3, 2), (6, 2, 1)),
        (5, (1, 3, 2), (-6, -2, -1)),
        (0, (1, 3, 2), (6, 2)),
        (0, (0, 3, 2), (6, 2, 1)),
        (0, (20_000_000, 3, 2), (0, 0, 0)),
        (0, (2**31 - 1, 2**31 - 1, 2), (0, 0, 0)),
    ],
)
def test_a_tensor_that_leaves_its_storage_or_repeats_it_without_end_is_refused(
    read_bytes: Callable[[bytes], Any], offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    with pytest.raises(KeypointError):
        read_bytes(as_torch(tensor_program(offset, size, stride), **{"data/0": bytes(24)}))


def test_a_tensor_without_its_storage_is_refused(read_bytes: Callable[[bytes], Any]) -> None:
    with pytest.raises(KeypointError, match="damaged"):
        read_bytes(as_torch(tensor_program(0, (1, 3, 2), (6, 2, 1))))


def test_a_tensor_of_a_big_endian_machine_is_refused(read_bytes: Callable[[bytes], Any]) -> None:
    with pytest.raises(KeypointError, match="big-endian"):
        read_bytes(as_torch(tensor_program(0, (1, 3, 2), (6, 2, 1)), byteorder=b"big", **{"data/0": bytes(24)}))


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",  # BYTEARRAY8
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",  # BINBYTES8
        b"\x80\x02B" + struct.pack("<I", 2**32 - 1) + b".",  # BINBYTES
        b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b".",  # LONG4
        b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",  # FRAME
        b"\x80\x02Nr" + struct.pack("<I", 2**31 - 1) + b".",  # LONG_BINPUT: a memo of that length
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        + b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86C\x01b\x87R.",  # an array of that shape
    ],
)
def test_a_pickle_that_declares_a_huge_size_is_refused_before_it_is_allocated(
    read_bytes: Callable[[bytes], Any], program: bytes
) -> None:
    with pytest.raises(KeypointError):
        read_bytes(as_torch(program))


def test_a_pickle_that_copies_a_long_string_over_and_over_is_refused(read_bytes: Callable[[bytes], Any]) -> None:
    text = b"X" + struct.pack("<I", 2**20) + b"a" * 2**20
    program = b"\x80\x02](" + ENCODE + b"q\x00" + text + b"q\x01" + LATIN1 + b"\x86R"
    program += (b"h\x00h\x01" + LATIN1 + b"\x86R") * 100 + b"e."
    with pytest.raises(KeypointError, match=f"unpacked, has more than {MAX_FILE_BYTES}"):
        read_bytes(as_torch(program))


def test_an_array_whose_pickled_shape_is_larger_than_its_bytes_is_refused(read_bytes: Callable[[bytes], Any]) -> None:
    honest = pickle.dumps(np.zeros((2, 3, 2), np.float32), 2)
    with pytest.raises(KeypointError, match=r"shape \(200, 3, 2\) but holds 48 bytes"):
        read_bytes(as_torch(honest.replace(b"K\x02K\x03K\x02\x87", b"K\xc8K\x03K\x02\x87")))


@pytest.mark.parametrize("shape", [b"(10**9, 3, 2)", b"(2999999, 3, 2)", b"(-7, -3, 2)", b"(7, 3, 2.0)", b"((((((((("])
def test_an_npy_header_that_lies_is_refused(read_bytes: Callable[[bytes], Any], shape: bytes) -> None:
    data = npy(POINTS)
    start = data.index(b"(7, 3, 2)")
    with pytest.raises(KeypointError):
        read_bytes(data[:start] + shape + data[start + 9 : 128 - (len(shape) - 9)] + data[128:])


@pytest.mark.parametrize("version", [b"\x03\x00", b"\x09\x00"])
def test_an_npy_of_another_version_is_refused(read_bytes: Callable[[bytes], Any], version: bytes) -> None:
    with pytest.raises(KeypointError):
        read_bytes(b"\x93NUMPY" + version + npy(POINTS)[8:])


@pytest.mark.parametrize("name", ["kps/data.pkl", "track.npy"])
def test_a_zip_that_unpacks_to_more_than_the_limit_is_refused(read_bytes: Callable[[bytes], Any], name: str) -> None:
    data = zipped({name: bytes(MAX_FILE_BYTES + 1)}, zipfile.ZIP_DEFLATED)
    assert len(data) < 2**20
    with pytest.raises(KeypointError, match=f"more than {MAX_FILE_BYTES} bytes"):
        read_bytes(data)


def test_a_zip_that_declares_a_wrong_unpacked_size_is_refused(read_bytes: Callable[[bytes], Any]) -> None:
    data = bytearray(zipped({"track.npy": bytes(MAX_FILE_BYTES + 1)}, zipfile.ZIP_DEFLATED))
    entry = data.find(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = struct.pack("<I", 128)
    with pytest.raises(KeypointError):
        read_bytes(bytes(data))


def test_a_zip_packed_by_a_method_without_bounds_is_refused(read_bytes: Callable[[bytes], Any]) -> None:
    with pytest.raises(KeypointError, match="compressed by method 14"):
        read_bytes(zipped({"track.npy": npy(POINTS)}, zipfile.ZIP_LZMA))


def test_a_file_larger_than_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.npy"
    with open(path, "wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(KeypointError, match=f"more than {MAX_FILE_BYTES} bytes"):
        read_arrays(path)


def seconds_of(read: Callable[[], Any]) -> float:
    """Return the CPU seconds that a call takes. Their bounds here are guarantees for hostile files, not benchmarks."""
    start = time.process_time()
    read()
    return time.process_time() - start


NESTED = b"N" + b"".join(b"q%ch%c\x86" % (k, k) for k in range(60))  # a tuple of twice a tuple of twice ...
NUMPY_EMPTY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tq\x00"


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        (b"}" + NESTED + b"Ns.", "uses SETITEM"),  # hashed as a key
        (b"cnumpy\ndtype\n" + NESTED + b"\x85R.", "holds values of type"),  # hashed as a code
        (NUMPY_EMPTY + NESTED + b"N\x87R.", "makes an array of shape"),  # printed
        (ENCODE + b"X\x01\x00\x00\x00x" + NESTED + b"\x86R.", "its pickle encodes as"),  # printed
        (b"(" + b"]" * 101 + b"t.", "more than 100 lists"),
        (b"(" + b"N" * 6_000_000 + b"t.", "expected at most 6000000"),
        (b")" + b"\x85" * 2_500_001 + b".", "expected at most 2500000"),
        (b"(" + b"\x8a\x00" * 420_001 + b"t.", "more than 420000 strings"),
        (b"(" + b"\x8c\x02ab" * 420_001 + b"t.", "more than 420000 strings"),
        (b"(" + b"cnumpy\ndtype\n" * 650_001 + b"t.", "more than 650000 calls"),
        (b"ccollections\nOrderedDict\nq\x00(" + b"h\x00)R" * 650_001 + b"t.", "more than 650000 calls"),
        (STORAGE + b"(" + b"h\x00Q" * 650_001 + b"t.", "more than 650000 calls"),
    ],
)
def test_a_pickle_that_keeps_the_processor_busy_is_refused_within_seconds(
    read_bytes: Callable[[bytes], Any], program: bytes, complaint: str
) -> None:
    data = zipped({"kps/data.pkl": b"\x80\x02" + program, "kps/data/0": b""}, zipfile.ZIP_DEFLATED)

    def read() -> None:
        with pytest.raises(KeypointError, match=complaint):
            read_bytes(data)

    assert seconds_of(read) < 6


def test_a_list_of_views_of_one_tensor_is_read_once(read_bytes: Callable[[bytes], Any]) -> None:
    """Each of 5000 names the same storage of 120 kB, which together would be more than the limit."""
    points = np.random.default_rng(0).uniform(0, 512, (5000, 3, 2)).astype(np.float32)
    np.testing.assert_array_equal(read_bytes(saved(list(torch.from_numpy(points)))), points)


def test_a_list_of_tensors_takes_time_in_proportion_to_its_length(read_bytes: Callable[[bytes], Any]) -> None:
    points = np.random.default_rng(0).uniform(0, 512, (5000, 3, 2)).astype(np.float32)
    data = saved([torch.from_numpy(point.copy()) for point in points])
    assert seconds_of(lambda: np.testing.assert_array_equal(read_bytes(data), points)) < 2  # 0.2; 3 if quadratic


def test_a_list_of_many_arrays_is_read(read_bytes: Callable[[bytes], Any]) -> None:
    points = np.random.default_rng(0).uniform(0, 512, (30_000, 3, 2)).astype(np.float32)
    data = saved(list(points))
    assert seconds_of(lambda: np.testing.assert_array_equal(read_bytes(data), points)) < 2


def test_a_zip_of_too_many_files_is_refused_before_they_are_listed(read_bytes: Callable[[bytes], Any]) -> None:
    data = zipped({"kps/data.pkl": b"\x80\x02]."}) + b"PK\x01\x02" * 80_001
    with pytest.raises(KeypointError, match="holds 80002 files; expected at most 80000"):
        read_bytes(data)


def test_of_two_files_of_one_name_neither_is_read(read_bytes: Callable[[bytes], Any]) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("keypoints.npy", npy(POINTS))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("keypoints.npy", npy(POINTS + 1))
    with pytest.raises(KeypointError, match="holds 2 arrays"):
        read_bytes(stream.getvalue())


@pytest.mark.parametrize(
    "program", [b"N", b"\x80", b"J\x01\x02", b"X\xff\xff\xff\x7fab", b"\x8c", b"cnumpy\nndarray", b"\x95\x01", b"r\x00"]
)
def test_a_pickle_without_an_end_is_refused(read_bytes: Callable[[bytes], Any], program: bytes) -> None:
    with pytest.raises(KeypointError, match=r"numpy\.save"):
        read_bytes(as_torch(b"\x80\x02" + program))
