"""Arrays are read from untrusted files, and no code in a file is executed."""

from __future__ import annotations

import contextlib
import os
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.array_bytes import ENCODE, POINTS, as_torch, npy, npz, saved, zipped
from vexpress_rt.errors import KeypointError
from vexpress_rt.media.safe_arrays import _OPCODES, read_arrays

# Accepted files


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
def test_every_kind_of_file_returns_the_saved_arrays(read_bytes: Callable[[bytes], Any], data: bytes) -> None:
    np.testing.assert_array_equal(np.asarray(read_bytes(data)), POINTS)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.int64, np.int16])
def test_tensors_and_arrays_keep_their_type(read_bytes: Callable[[bytes], Any], dtype: type) -> None:
    values = POINTS.astype(dtype)
    for data in (saved(values), saved(torch.from_numpy(values)), npy(values)):
        result = read_bytes(data)
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, values)


# Refused programs


class _Call:
    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> Any:
        return self.parts


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", [as_torch, bytes])
def test_a_command_in_a_pickle_is_not_run(
    read_bytes: Callable[[bytes], Any], tmp_path: Path, protocol: int, wrap: Callable[[bytes], bytes]
) -> None:
    witness = tmp_path / "witness"
    program = pickle.dumps(_Call(os.system, (f"touch {witness}",)), protocol)
    with pytest.raises(KeypointError):
        read_bytes(wrap(program))
    assert not witness.exists()


def test_a_command_in_an_old_torch_file_is_not_run(read_bytes: Callable[[bytes], Any], tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    evil = _Call(os.system, (f"touch {witness}",))
    with pytest.raises(KeypointError, match=r"asks for \w+\.system"):
        read_bytes(saved(evil, _use_new_zipfile_serialization=False))
    assert not witness.exists()


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        (b"\x80\x02cbuiltins\ngetattr\ncnumpy\nndarray\nX\x03\x00\x00\x00foo\x86R.", "asks for builtins.getattr"),
        (b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.", "asks for numpy.ndarray.__class__"),
        (b"\x80\x02cnumpy\nload\nX\x01\x00\x00\x00x\x85R.", "asks for numpy.load"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "uses NEWOBJ"),
        (b"\x80\x02" + ENCODE + b"}X\x05\x00\x00\x00_callNsb.", "uses SETITEM"),
        (b"\x80\x02" + ENCODE + b"N}X\x05\x00\x00\x00_callNs\x86b.", "uses SETITEM"),
        (b"\x80\x02" + ENCODE + b"}b.", "change what it imports"),
        (b"\x80\x02" + ENCODE + b"N}\x86b.", "change what it imports"),
        (b"\x80\x02" + ENCODE + b"X\x01\x00\x00\x00xX\x05\x00\x00\x00rot13\x86R.", "encodes as 'rot13'"),
        (b"\x80\x02cnumpy\nndarray\nN}X\x05\x00\x00\x00_callNs\x86b.", "uses SETITEM"),
        (b"\x80\x02cnumpy\nndarray\nNN\x86b.", "damaged"),
        (b"\x80\x02]\x81.", "uses NEWOBJ"),
        (b"\x80\x02\x82\x01.", "uses EXT1"),
        (b"\x80\x02NQ.", "damaged"),
        (b"\x80\x02](]e.", "holds a list that is no array"),
        (b"\x80\x02}.", "holds a dict that is no array"),
        (b"\x80\x02K\x01.", "holds a int that is no array"),
    ],
)
def test_a_pickle_that_wants_more_than_arrays_is_refused(
    read_bytes: Callable[[bytes], Any], program: bytes, complaint: str
) -> None:
    with pytest.raises(KeypointError, match=complaint):
        read_bytes(as_torch(program))


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
def test_arrays_of_anything_but_numbers_are_refused(read_bytes: Callable[[bytes], Any], values: Any) -> None:
    for data in (as_torch(pickle.dumps(values, 2)), npy(values), npz(track=values)):
        with pytest.raises(KeypointError):
            read_bytes(data)


@pytest.mark.parametrize("value", [[1.5, 2.5], {"points": POINTS}, [POINTS[0], None], "text", OrderedDict(), None])
def test_a_torch_file_of_other_things_is_refused(read_bytes: Callable[[bytes], Any], value: Any) -> None:
    with pytest.raises(KeypointError, match=r"numpy\.save"):
        read_bytes(saved(value))


# Damaged files


@pytest.mark.parametrize("arrays", [{}, {"a": POINTS, "b": POINTS}])
def test_an_npz_without_one_clear_track_is_refused(read_bytes: Callable[[bytes], Any], arrays: dict[str, Any]) -> None:
    with pytest.raises(KeypointError, match=f"holds {len(arrays)} arrays"):
        read_bytes(npz(**arrays) if arrays else zipped({"readme": b""}))


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"PK", b"\x80", pickle.dumps([1], 2)])
def test_a_file_without_arrays_is_refused_with_the_remedy(read_bytes: Callable[[bytes], Any], data: bytes) -> None:
    with pytest.raises(KeypointError, match=r"numpy\.save"):
        read_bytes(data)


@pytest.mark.parametrize("name", ["missing.npy", "."])
def test_a_path_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeypointError, match=str(tmp_path)):
        read_arrays(tmp_path / name)


GOOD = [npy(POINTS), npz(compressed=True, a=POINTS), saved(list(POINTS[:2])), saved(torch.from_numpy(POINTS))]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.sampled_from(GOOD), st.integers(0, 10_000), st.binary(min_size=0, max_size=4), st.booleans())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    read_bytes: Callable[[bytes], Any], data: bytes, place: int, patch: bytes, cut: bool
) -> None:
    place %= len(data)
    damaged = data[:place] + patch + (b"" if cut else data[place + len(patch) :])
    result: Any = []
    with contextlib.suppress(KeypointError):
        result = read_bytes(damaged)
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
