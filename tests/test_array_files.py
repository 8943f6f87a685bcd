"""Array files that nobody vouches for: what is read, and that nothing in them is ever run or believed."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vexpress_rt.array_files import _OPCODES, MAX_FILE_BYTES, read_arrays
from vexpress_rt.errors import KeypointError

POINTS = np.random.default_rng(0).uniform(0, 512, (7, 3, 2)).astype(np.float32)
ENCODE = b"c_codecs\nencode\n"
LATIN1 = b"X\x06\x00\x00\x00latin1"


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], Any]:
    """Read bytes as a file."""

    def read_bytes(data: bytes) -> Any:
        path = tmp_path / "keypoints.pth"
        path.write_bytes(data)
        return read_arrays(path)

    return read_bytes


def saved(value: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def as_torch(program: bytes, **members: bytes) -> bytes:
    """A torch.save'd file whose pickle is `program`."""
    return zipped({"kps/data.pkl": program} | {f"kps/{name}": data for name, data in members.items()})


def npy(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def npz(compressed: bool = False, **arrays: Any) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


# What is read


@pytest.mark.parametrize(
    "data",
    [
        npy(POINTS),
        npy(np.asfortranarray(POINTS)),
        npy(POINTS.astype(">f4")),
        npz(track=POINTS),
        npz(keypoints=POINTS, scores=np.ones(7)),
        npz(compressed=True, track=POINTS),
        saved(list(POINTS)),
        saved(tuple(POINTS)),
        saved(POINTS),
        saved(POINTS.astype(">f4")),
        saved(np.asfortranarray(POINTS)),
        saved(list(POINTS), pickle_protocol=4),
        saved(list(POINTS), _use_new_zipfile_serialization=False),
        saved(torch.from_numpy(POINTS)),
        saved(list(torch.from_numpy(POINTS))),
        saved(torch.from_numpy(POINTS.transpose(2, 1, 0).copy()).permute(2, 1, 0)),
        as_torch(pickle.dumps(list(POINTS), 2).replace(b"numpy._core.", b"numpy.core.")),  # as NumPy 1 wrote it
    ],
)
def test_every_kind_of_file_gives_back_what_was_saved(read: Callable[[bytes], Any], data: bytes) -> None:
    np.testing.assert_array_equal(np.asarray(read(data)), POINTS)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.int64, np.int16])
def test_tensors_and_arrays_keep_their_type(read: Callable[[bytes], Any], dtype: type) -> None:
    values = POINTS.astype(dtype)
    for data in (saved(values), saved(torch.from_numpy(values)), npy(values)):
        result = read(data)
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, values)


# What is refused without being run


class _Call:
    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> Any:
        return self.parts


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", [as_torch, bytes])
def test_a_command_in_a_pickle_is_not_run(
    read: Callable[[bytes], Any], tmp_path: Path, protocol: int, wrap: Callable[[bytes], bytes]
) -> None:
    witness = tmp_path / "witness"
    program = pickle.dumps(_Call(os.system, (f"touch {witness}",)), protocol)
    with pytest.raises(KeypointError):
        read(wrap(program))
    assert not witness.exists()


def test_a_command_in_an_old_torch_file_is_not_run(read: Callable[[bytes], Any], tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    evil = _Call(os.system, (f"touch {witness}",))
    with pytest.raises(KeypointError, match=r"asks for \w+\.system"):
        read(saved(evil, _use_new_zipfile_serialization=False))
    assert not witness.exists()


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        (b"\x80\x02cbuiltins\ngetattr\ncnumpy\nndarray\nX\x03\x00\x00\x00foo\x86R.", "asks for builtins.getattr"),
        (b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.", "asks for numpy.ndarray.__class__"),
        (b"\x80\x02cnumpy\nload\nX\x01\x00\x00\x00x\x85R.", "asks for numpy.load"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "uses NEWOBJ"),
        (b"\x80\x02" + ENCODE + b"}X\x05\x00\x00\x00_callNsb.", "alter what it imports"),
        (b"\x80\x02" + ENCODE + b"N}X\x05\x00\x00\x00_callNs\x86b.", "alter what it imports"),
        (b"\x80\x02" + ENCODE + b"X\x01\x00\x00\x00xX\x05\x00\x00\x00rot13\x86R.", "encodes as 'rot13'"),
        (b"\x80\x02cnumpy\nndarray\nN}X\x05\x00\x00\x00_callNs\x86b.", "damaged"),
        (b"\x80\x02]\x81.", "uses NEWOBJ"),
        (b"\x80\x02\x82\x01.", "uses EXT1"),
        (b"\x80\x02NQ.", "damaged"),
        (b"\x80\x02](]e.", "holds a list that is no array"),
        (b"\x80\x02}.", "holds a dict that is no array"),
        (b"\x80\x02K\x01.", "holds a int that is no array"),
    ],
)
def test_a_pickle_that_wants_more_than_arrays_is_refused(
    read: Callable[[bytes], Any], program: bytes, complaint: str
) -> None:
    with pytest.raises(KeypointError, match=complaint):
        read(as_torch(program))


@pytest.mark.parametrize(
    "values",
    [
        np.array([[[1, 2]] * 3], dtype=object),
        np.zeros((1, 3, 2), dtype=[("x", "f4")]),
        np.zeros((1, 3, 2), dtype=complex),
        np.zeros((1, 3, 2), dtype="S8"),
        np.zeros((1, 3, 2), dtype="M8[s]"),
        np.zeros((1, 3, 2), dtype=bool),
        np.zeros((1, 1, 1, 1)),
    ],
)
def test_arrays_of_anything_but_numbers_are_refused(read: Callable[[bytes], Any], values: Any) -> None:
    for data in (as_torch(pickle.dumps(values, 2)), npy(values), npz(track=values)):
        with pytest.raises(KeypointError):
            read(data)


@pytest.mark.parametrize("value", [[1.5, 2.5], {"points": POINTS}, [POINTS[0], None], "text", OrderedDict(), None])
def test_a_torch_file_of_other_things_is_refused(read: Callable[[bytes], Any], value: Any) -> None:
    with pytest.raises(KeypointError, match=r"numpy\.save"):
        read(saved(value))


# What declares more than it has


def tensor_program(offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A pickled tensor in a storage of six floats, with freely chosen geometry."""

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"

    text = [b"X" + struct.pack("<I", len(word)) + word for word in (b"storage", b"0", b"cpu")]
    storage = b"(" + text[0] + b"ctorch\nFloatStorage\n" + text[1] + text[2] + b"K\x06tQ"
    place = b"J" + struct.pack("<i", offset) + numbers(size) + numbers(stride)
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + place + b"\x89ccollections\nOrderedDict\n)RtR."


def test_a_tensor_within_its_storage_is_read(read: Callable[[bytes], Any]) -> None:
    flat = np.arange(6, dtype="<f4")
    result = read(as_torch(tensor_program(0, (1, 3, 2), (6, 2, 1)), **{"data/0": flat.tobytes()}))
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
    read: Callable[[bytes], Any], offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    with pytest.raises(KeypointError):
        read(as_torch(tensor_program(offset, size, stride), **{"data/0": bytes(24)}))


def test_a_tensor_without_its_storage_is_refused(read: Callable[[bytes], Any]) -> None:
    with pytest.raises(KeypointError, match="damaged"):
        read(as_torch(tensor_program(0, (1, 3, 2), (6, 2, 1))))


def test_a_tensor_of_a_big_endian_machine_is_refused(read: Callable[[bytes], Any]) -> None:
    with pytest.raises(KeypointError, match="big-endian"):
        read(as_torch(tensor_program(0, (1, 3, 2), (6, 2, 1)), byteorder=b"big", **{"data/0": bytes(24)}))


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
    read: Callable[[bytes], Any], program: bytes
) -> None:
    with pytest.raises(KeypointError):
        read(as_torch(program))


def test_a_pickle_that_copies_a_long_string_over_and_over_is_refused(read: Callable[[bytes], Any]) -> None:
    text = b"X" + struct.pack("<I", 2**20) + b"a" * 2**20
    program = b"\x80\x02](" + ENCODE + b"q\x00" + text + b"q\x01" + LATIN1 + b"\x86R"
    program += (b"h\x00h\x01" + LATIN1 + b"\x86R") * 100 + b"e."
    with pytest.raises(KeypointError, match=f"unpacked, has more than {MAX_FILE_BYTES}"):
        read(as_torch(program))


def test_an_array_whose_pickled_shape_is_larger_than_its_bytes_is_refused(read: Callable[[bytes], Any]) -> None:
    honest = pickle.dumps(np.zeros((2, 3, 2), np.float32), 2)
    with pytest.raises(KeypointError, match=r"shape \(200, 3, 2\) but holds 48 bytes"):
        read(as_torch(honest.replace(b"K\x02K\x03K\x02\x87", b"K\xc8K\x03K\x02\x87")))


@pytest.mark.parametrize("shape", [b"(10**9, 3, 2)", b"(2999999, 3, 2)", b"(-7, -3, 2)", b"(7, 3, 2.0)", b"((((((((("])
def test_an_npy_header_that_lies_is_refused(read: Callable[[bytes], Any], shape: bytes) -> None:
    data = npy(POINTS)
    start = data.index(b"(7, 3, 2)")
    with pytest.raises(KeypointError):
        read(data[:start] + shape + data[start + 9 : 128 - (len(shape) - 9)] + data[128:])


@pytest.mark.parametrize("version", [b"\x03\x00", b"\x09\x00"])
def test_an_npy_of_another_version_is_refused(read: Callable[[bytes], Any], version: bytes) -> None:
    with pytest.raises(KeypointError):
        read(b"\x93NUMPY" + version + npy(POINTS)[8:])


@pytest.mark.parametrize("name", ["kps/data.pkl", "track.npy"])
def test_a_zip_that_unpacks_to_more_than_the_limit_is_refused(read: Callable[[bytes], Any], name: str) -> None:
    data = zipped({name: bytes(MAX_FILE_BYTES + 1)}, zipfile.ZIP_DEFLATED)
    assert len(data) < 2**20
    with pytest.raises(KeypointError, match=f"more than {MAX_FILE_BYTES} bytes"):
        read(data)


def test_a_zip_that_lies_about_what_it_unpacks_to_is_refused(read: Callable[[bytes], Any]) -> None:
    data = bytearray(zipped({"track.npy": bytes(MAX_FILE_BYTES + 1)}, zipfile.ZIP_DEFLATED))
    entry = data.find(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = struct.pack("<I", 128)
    with pytest.raises(KeypointError):
        read(bytes(data))


def test_a_zip_packed_by_a_method_without_bounds_is_refused(read: Callable[[bytes], Any]) -> None:
    with pytest.raises(KeypointError, match="compressed by method 14"):
        read(zipped({"track.npy": npy(POINTS)}, zipfile.ZIP_LZMA))


def test_a_file_larger_than_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.npy"
    with open(path, "wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(KeypointError, match=f"more than {MAX_FILE_BYTES} bytes"):
        read_arrays(path)


# What is damaged


@pytest.mark.parametrize("arrays", [{}, {"a": POINTS, "b": POINTS}])
def test_an_npz_without_one_clear_track_is_refused(read: Callable[[bytes], Any], arrays: dict[str, Any]) -> None:
    with pytest.raises(KeypointError, match=f"holds {len(arrays)} arrays"):
        read(npz(**arrays) if arrays else zipped({"readme": b""}))


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"PK", b"\x80", pickle.dumps([1], 2)])
def test_what_is_no_array_file_is_refused_with_the_remedy(read: Callable[[bytes], Any], data: bytes) -> None:
    with pytest.raises(KeypointError, match=r"numpy\.save"):
        read(data)


@pytest.mark.parametrize("name", ["missing.npy", "."])
def test_a_path_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeypointError, match=str(tmp_path)):
        read_arrays(tmp_path / name)


GOOD = [npy(POINTS), npz(compressed=True, a=POINTS), saved(list(POINTS[:2])), saved(torch.from_numpy(POINTS))]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.sampled_from(GOOD), st.integers(0, 10_000), st.binary(min_size=0, max_size=4), st.booleans())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    read: Callable[[bytes], Any], data: bytes, place: int, patch: bytes, cut: bool
) -> None:
    place %= len(data)
    damaged = data[:place] + patch + (b"" if cut else data[place + len(patch) :])
    result: Any = []
    with contextlib.suppress(KeypointError):
        result = read(damaged)
    assert all(np.asarray(array).dtype.kind in "fiu" for array in result)


def test_the_opcodes_that_allocate_a_declared_size_are_not_among_those_allowed() -> None:
    names = {opcode.name for opcode in pickletools.opcodes}
    assert names >= _OPCODES
    assert not _OPCODES & {
        "BINBYTES8",
        "BYTEARRAY8",
        "BINUNICODE8",
        "LONG4",
        "INST",
        "OBJ",
        "NEWOBJ",
        "NEWOBJ_EX",
        "EXT4",
    }
