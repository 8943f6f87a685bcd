"""Reading of arrays from untrusted files: .npy, .npz and the formats of `torch.save`, without torch.

A pickle is a program, and NumPy's own loader trusts it. Here a pickle cannot choose code to run: its opcodes are
checked first, and each name that it refers to resolves to a substitute that only checks and copies bytes. Declared
sizes are compared with the size of the file before memory is allocated.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from reprlib import repr as brief
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.errors import DepthError, InputError, KeypointError
from vexpress_rt.utils.memory_budget import Need, check_memory, free_memory
from vexpress_rt.utils.paths import input_file

Array = NDArray[Any]
T = TypeVar("T")

MAX_FILE_BYTES = 32 * 2**20  # 1.4 million frames of float32 points
# Limits of a pickled list of arrays. The worst pickle within them takes 3 s and 600 MB. They admit 300,000 frames as
# NumPy arrays, 200,000 as views of one tensor, 80,000 as tensors with their own storages.
MAX_CALLS = 650_000  # of the functions in this module; an array takes one to three
MAX_TEXTS = 420_000  # strings, bytes and long integers; an array takes one to three
MAX_TUPLES = 2_500_000  # an array takes four
MAX_MARKS = 6_000_000  # marks and other one-byte values; an array takes three
MAX_LISTS = 100  # an empty list takes 60 times its size in the file
MAX_MEMBERS = 80_000  # files in a zip; each takes 30 us
MAX_DEPTH_BYTES = 2**30  # 65,536 maps of 128 x 128 uint8; 4096 of 512 x 512

_REMEDY = "save the points with numpy.save as one float32 array of shape (frames, 3, 2)"


@dataclass(frozen=True)
class ArrayKind:
    """A kind of arrays in files: its limits, and its words in messages.

    Attributes:
        what: Its name in messages, such as "the keypoints".
        name: The name of the array in an .npz file that has several.
        shape: The expected shape.
        limit: Largest size in bytes, of the file and of the unpacked array.
        sizes: Sizes within the limit.
        smaller: The remedy for larger arrays.
        remedy: The remedy for all other faults.
        error: The exception to raise.
    """

    what: str
    name: str
    shape: str
    limit: int
    sizes: str
    smaller: str
    remedy: str
    error: type[InputError]


KEYPOINTS = ArrayKind(
    "the keypoints", "keypoints", "(frames, 3, 2)", MAX_FILE_BYTES,
    "float32 points, 24 bytes a frame", "cut the track into parts", _REMEDY, KeypointError,
)  # fmt: skip
DEPTH = ArrayKind(
    "the depth maps", "depth", "(frames, height, width)", MAX_DEPTH_BYTES,
    "maps of about the bundle's size as uint8 or uint16", "scale them down, or give them as a video",
    "save the maps with numpy.save as one array of shape (frames, height, width)", DepthError,
)  # fmt: skip

_ARRAYS = "numpy.core.multiarray", "numpy._core.multiarray"  # before and since NumPy 2
_STORAGES = {"Float": "<f4", "Double": "<f8", "Half": "<f2", "Int": "<i4", "Long": "<i8", "Short": "<i2"}
_CODES = frozenset(kind + size for kind in "fiu" for size in "1248") - {"f1"}
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # first value of a file that torch before 1.6 wrote

# The opcodes of pickled lists of arrays. Absent on purpose: opcodes that allocate a size which the file declares, and
# those that fill a dictionary, because hashing nested tuples that share their elements takes exponential time.
_OPCODES = frozenset(
    (
        *("PROTO", "FRAME", "STOP", "MARK", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "NONE", "NEWTRUE", "NEWFALSE"),
        *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "BININT", "BININT1", "BININT2"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "LONG1"),
        *("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
    )
)
_FILLING = frozenset(("SETITEM", "SETITEMS"))
_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_CODE_OF = {opcode.name: opcode.code.encode("latin1") for opcode in pickletools.opcodes}


def _run_of(names: tuple[str, ...], argument: bytes) -> bytes:
    return b"[" + re.escape(b"".join(_CODE_OF[name] for name in names)) + b"]" + argument


# A run of opcodes of fixed length. A pickler numbers its memo entries from 0; the unpickler allocates a table of the
# size of the largest number: 2**23 entries are more than MAX_FILE_BYTES of arrays need.
_FIXED = re.compile(
    b"(?:"
    + b"|".join(
        (
            _run_of(("MARK", "REDUCE", "BUILD", "BINPERSID", "NONE", "NEWTRUE", "NEWFALSE", "APPEND", "APPENDS"), b""),
            _run_of(("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "STACK_GLOBAL", "MEMOIZE"), b""),
            _run_of(("BININT1", "BINPUT", "BINGET", "PROTO"), b"."),
            _run_of(("BININT2",), b".."),
            _run_of(("BININT", "LONG_BINGET"), b"...."),
            _run_of(("LONG_BINPUT",), b"..[\\x00-\\x7f]\\x00"),
        )
    )
    + b")*+",
    re.DOTALL,
)
# Bytes of the length field after the opcode.
_SIZED = {"BINUNICODE": 4, "SHORT_BINUNICODE": 1, "BINBYTES": 4, "SHORT_BINBYTES": 1, "LONG1": 1}


def read_arrays(path: Path) -> Array | list[Array]:
    """Read the array, or the list of arrays, in a file. Its first bytes determine the format.

    Args:
        path: .npy; .npz with one array, or one named `keypoints`; .pth or .pt with an array, a tensor, or a list of
            these, written by `torch.save`.

    Returns:
        Read-only arrays of integers or floats of at most 8 bytes, with at most three dimensions.

    Raises:
        KeypointError: The file cannot be read, has more than MAX_FILE_BYTES (also when unpacked), or refers to anything
            but arrays. No code in the file is executed.
    """
    return _read(path, "a file of arrays", KEYPOINTS, _decode)


def read_array(path: Path, kind: ArrayKind) -> Array:
    """Read the array in a NumPy file.

    Args:
        path: .npy; .npz with one array, or one named `kind.name`.
        kind: The kind of the array.

    Returns:
        A read-only array of integers or floats of at most 8 bytes, with at most three dimensions.

    Raises:
        InputError: `kind.error`: the file cannot be read, has more than `kind.limit` bytes (also when unpacked) or than
            fit into the free memory, or holds anything but numbers.
    """

    def decode(data: bytes) -> Array:
        if data.startswith(b"\x93NUMPY"):
            return _decode_npy(data, kind)
        if data.startswith(b"PK"):
            with _open_zip(data, kind) as archive:
                return _decode_npz(archive, kind)
        raise kind.error(f"begins with {data[:8]!r}; expected a .npy or .npz file: {kind.remedy}")

    return _read(path, "a .npy or .npz file", kind, decode)


def _read(path: Path, expected: str, kind: ArrayKind, decode: Callable[[bytes], T]) -> T:
    """Return what `decode` finds in the bytes of a file; its errors are named with the file."""
    path = input_file(path, kind.what, expected, kind.error)
    name = kind.what.removeprefix("the ")
    try:
        with path.open("rb") as file:
            _check_room(kind, min(path.stat().st_size, kind.limit))
            data = file.read(kind.limit + 1)
    except OSError as error:
        raise kind.error(f"cannot read {kind.what} {path}: {error}: check the permissions") from error
    try:
        _check_size("the file", len(data), kind)
        with warnings.catch_warnings():  # NumPy warns of a header that Python 2 wrote
            warnings.simplefilter("ignore")
            return decode(data)
    except kind.error as error:
        raise kind.error(f"{name} {path}: {error}") from error
    except Exception as error:  # a damaged zip or pickle can raise nearly anything
        raise kind.error(
            f"{kind.what} {path} are damaged ({type(error).__name__}: {str(error)[:200]}): {kind.remedy}"
        ) from error


def _decode(data: bytes) -> Array | list[Array]:
    if data.startswith(b"\x93NUMPY"):
        return _decode_npy(data, KEYPOINTS)
    if data.startswith(b"PK"):
        with _open_zip(data, KEYPOINTS) as archive:
            pickles = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
            return _decode_torch(archive, pickles[0]) if pickles else _decode_npz(archive, KEYPOINTS)
    if data.startswith(b"\x80"):
        return _decode_old_torch(data)
    raise KeypointError(f"begins with {data[:8]!r}; expected a .npy, .npz or torch.save'd file: {_REMEDY}")


def _open_zip(data: bytes, kind: ArrayKind) -> zipfile.ZipFile:
    if (members := data.count(b"PK\x01\x02")) > MAX_MEMBERS:
        raise kind.error(f"holds {members} files; expected at most {MAX_MEMBERS}: {kind.remedy}")
    return zipfile.ZipFile(io.BytesIO(data))


def _check_room(kind: ArrayKind, size: int) -> None:
    """Raise `kind.error` if `size` bytes, packed and unpacked, do not fit into the free memory."""
    if size > MAX_FILE_BYTES:
        need = Need(2 * size, "the file and its array", kind.smaller)
        check_memory(f"reading {kind.what}", [need], free_memory(), kind.error)


def _check_size(what: str, size: int, kind: ArrayKind = KEYPOINTS) -> None:
    if size > kind.limit:
        name = kind.what.removeprefix("the ")
        raise kind.error(
            f"{what} has more than {kind.limit} bytes, too much for {name}; expected {kind.sizes}: {kind.smaller}"
        )


def _member(archive: zipfile.ZipFile, name: str, kind: ArrayKind = KEYPOINTS) -> bytes:
    """Return the bytes of a file in a zip, at most `kind.limit`, whatever its header declares."""
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the others unpack without a bound
        raise kind.error(f"{name!r} is compressed by method {info.compress_type}; expected deflate: {kind.remedy}")
    _check_size(repr(name), info.file_size, kind)
    _check_room(kind, info.file_size)
    with archive.open(info) as file:
        data = file.read(kind.limit + 1)
    _check_size(repr(name), len(data), kind)
    return data


def _decode_npz(archive: zipfile.ZipFile, kind: ArrayKind) -> Array:
    names = [name for name in archive.namelist() if name.endswith(".npy")]
    chosen = names if len(names) == 1 else [name for name in names if name == f"{kind.name}.npy"]
    if len(chosen) != 1:
        raise kind.error(
            f"holds {len(names)} arrays ({', '.join(map(brief, names[:5]))}); expected one, or one named "
            f"'{kind.name}': save the one array alone, or under that name"
        )
    return _decode_npy(_member(archive, chosen[0], kind), kind)


def _decode_npy(data: bytes, kind: ArrayKind) -> Array:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise kind.error(f"is a .npy file of version {version}; expected 1.0 or 2.0: {kind.remedy}")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(stream)
    return _shaped(memoryview(data)[stream.tell() :], dtype, shape, fortran, kind)


def _shaped(
    raw: bytes | memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], fortran: bool, kind: ArrayKind = KEYPOINTS
) -> Array:
    """View bytes as an array, after a check that the declared shape has exactly this size."""
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise kind.error(f"holds values of type {dtype}; expected numbers: {kind.remedy}")
    _check_shape(shape, kind)
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise kind.error(f"declares {dtype} of shape {shape} but holds {len(raw)} bytes of it: {kind.remedy}")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")


def _check_shape(shape: tuple[int, ...], kind: ArrayKind = KEYPOINTS) -> None:
    if len(shape) > 3 or not all(type(size) is int and 0 <= size <= kind.limit for size in shape):
        raise kind.error(f"declares the shape {brief(shape)}; expected {kind.shape}: {kind.remedy}")


def _decode_torch(archive: zipfile.ZipFile, name: str) -> Array | list[Array]:
    folder = name.removesuffix("data.pkl")

    order = f"{folder}byteorder"
    if order in archive.NameToInfo and _member(archive, order) != b"little":
        raise KeypointError(f"was written by a big-endian machine: {_REMEDY}")

    def storage(key: str) -> bytes:
        return _member(archive, f"{folder}data/{key}")

    return _arrays_of(_load(_member(archive, name), 0, storage)[0])


def _decode_old_torch(data: bytes) -> Array | list[Array]:
    """Read the format of torch before 1.6: pickles one after the other, the fourth of which is the object."""
    magic, at = _load(data, 0)
    if magic != _TORCH_MAGIC:
        raise KeypointError(f"is a pickle that torch.save did not write: {_REMEDY}")
    for _ in ("protocol", "system"):  # skipped, since the second is a dictionary
        at = _end_of(data, at, _OPCODES | _FILLING)
    return _arrays_of(_load(data, at)[0])


def _arrays_of(value: object) -> Array | list[Array]:
    if isinstance(value, _Array) and value.values is not None:
        return value.values
    if isinstance(value, (list, tuple)):
        arrays = [item.values for item in value if isinstance(item, _Array) and item.values is not None]
        if len(arrays) == len(value):
            return arrays
    raise KeypointError(f"holds a {type(value).__name__.strip('_')} that is no array and no list of arrays: {_REMEDY}")


def _load(data: bytes, start: int, storage: Callable[[str], bytes] | None = None) -> tuple[object, int]:
    """Unpickle the value at byte `start`; return it and the offset after its pickle."""
    end = _end_of(data, start, _OPCODES)
    return _Unpickler(data[start:end], storage).load(), end


def _end_of(data: bytes, at: int, allowed: frozenset[str]) -> int:
    """Return the offset after the pickle at byte `at`. Raises KeypointError for opcodes that are not `allowed`."""
    start, lists, texts = at, 0, 0
    while True:
        match = _FIXED.match(data, at)
        assert match is not None  # it also matches an empty run
        at = match.end()
        if at >= len(data):
            raise KeypointError(f"its pickle has no end: {_REMEDY}")
        name = _NAMES.get(data[at], f"the byte {data[at]}")
        at += 1
        if name not in allowed:
            raise KeypointError(f"its pickle uses {name}, which no list of arrays needs: {_REMEDY}")
        if name == "STOP":
            _check_counts(data, start, at)
            return at
        if width := _SIZED.get(name, 0):
            texts += 1
            if texts > MAX_TEXTS:
                raise KeypointError(f"its pickle has more than {MAX_TEXTS} strings: {_REMEDY}")
            size = int.from_bytes(data[at : at + width], "little")
            at += width + size
        elif name == "GLOBAL":
            for _ in ("module", "name"):
                at = data.index(b"\n", at) + 1
        elif name == "FRAME":
            at += 8
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            lists += 1
            if lists > MAX_LISTS:
                raise KeypointError(f"its pickle has more than {MAX_LISTS} lists; expected one of arrays: {_REMEDY}")
        elif name not in _FILLING:  # an opcode of fixed length with a truncated or too large argument
            raise KeypointError(f"its pickle uses {name} with an argument that no list of arrays needs: {_REMEDY}")


def _check_counts(data: bytes, start: int, end: int) -> None:
    """Raise KeypointError for too many short opcodes. Equal bytes inside arguments are counted too."""
    for most, names in (
        (MAX_TUPLES, ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")),
        (MAX_MARKS, ("MARK", "NONE", "EMPTY_TUPLE", "NEWTRUE", "NEWFALSE")),
    ):
        found = sum(data.count(_CODE_OF[name], start, end) for name in names)
        if found > most:
            raise KeypointError(
                f"its pickle has {found} opcodes {', '.join(names)}; expected at most {most}: {_REMEDY}"
            )


class _Storage(NamedTuple):
    """Flat values of a tensor."""

    code: str
    raw: bytes


class _Global:
    """Substitute for a function or class that a pickle may refer to; has no state that a pickle could change."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise KeypointError(f"its pickle tries to change what it imports: {_REMEDY}")


class _Dtype:
    """Substitute for numpy.dtype: constructed from a type code, then given its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or code not in _CODES:  # str only: hashing tuples may take exponential time
            raise KeypointError(f"holds values of type {brief(code)}; expected numbers: {_REMEDY}")
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if len(state) != 8 or state[1] not in ("<", ">", "|") or state[2:5] != (None, None, None):
            raise KeypointError(f"its pickle declares a type that is not a plain number: {_REMEDY}")
        self.order = state[1]


class _Array:
    """Substitute for numpy.ndarray: constructed empty, then given shape, type and bytes."""

    __slots__ = ("values",)

    def __init__(self, values: Array | None = None) -> None:
        self.values = values

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, dtype, fortran, raw = state
        if version != 1 or not isinstance(shape, tuple) or not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
            raise KeypointError(f"its pickle declares an array that is not made of plain numbers: {_REMEDY}")
        self.values = _shaped(raw, np.dtype(dtype.order + dtype.code), shape, bool(fortran))


class _Unpickler(pickle.Unpickler):
    """An unpickler that accepts only arrays."""

    def __init__(self, data: bytes, storage: Callable[[str], bytes] | None) -> None:
        super().__init__(io.BytesIO(data))
        self._read_storage = None if storage is None else cache(self._storage_of(storage))
        self._calls_left = MAX_CALLS
        self._bytes_left = MAX_FILE_BYTES  # a short pickle could copy one long string many times
        self._names: dict[tuple[str, str], object] = {
            ("numpy", "ndarray"): "ndarray",
            ("numpy", "dtype"): _Global(self._counted(_Dtype)),
            ("_codecs", "encode"): _Global(self._counted(self._encode)),
            # A tensor's hooks, which are always empty.
            ("collections", "OrderedDict"): _Global(self._counted(lambda: None)),
            ("torch._utils", "_rebuild_tensor_v2"): _Global(self._counted(self._tensor)),
        }
        self._names |= {(module, "_reconstruct"): _Global(self._counted(self._empty_array)) for module in _ARRAYS}
        self._names |= {("torch", f"{name}Storage"): code for name, code in _STORAGES.items()}

    def find_class(self, module: str, name: str) -> Any:
        self._count()
        if (module, name) not in self._names:
            raise KeypointError(
                f"its pickle asks for {module[:80]}.{name[:80]}; expected arrays and nothing else, so nothing of it "
                f"was run: {_REMEDY}"
            )
        return self._names[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        self._count()
        kind, code, key, _, _ = pid
        known = kind == "storage" and code in _STORAGES.values() and isinstance(key, str)
        if self._read_storage is None or not known:
            raise KeypointError(f"holds a tensor in a form that is not read here: {_REMEDY}")
        return _Storage(code, self._read_storage(key))

    def _storage_of(self, read: Callable[[str], bytes]) -> Callable[[str], bytes]:
        def storage(key: str) -> bytes:
            raw = read(key)
            self._charge(len(raw))
            return raw

        return storage

    def _count(self) -> None:
        self._calls_left -= 1
        if self._calls_left < 0:
            raise KeypointError(f"its pickle makes more than {MAX_CALLS} calls; an array takes three: {_REMEDY}")

    def _counted(self, call: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object) -> object:
            self._count()
            return call(*arguments)

        return counted

    def _charge(self, size: int) -> None:
        self._bytes_left -= size
        _check_size("its pickle, unpacked,", MAX_FILE_BYTES - self._bytes_left)

    def _encode(self, text: str, encoding: str) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise KeypointError(f"its pickle encodes as {brief(encoding)}; expected latin1: {_REMEDY}")
        self._charge(len(text))
        return text.encode("latin1")

    def _empty_array(self, subtype: object, shape: object, code: object) -> _Array:
        if subtype != "ndarray" or shape != (0,):  # always empty at first; `__setstate__` gets the shape
            raise KeypointError(f"its pickle makes an array of shape {brief(shape)} out of nothing: {_REMEDY}")
        return _Array()

    def _tensor(self, storage: _Storage, offset: int, size: Any, stride: Any, *_: object) -> _Array:
        flat = np.frombuffer(storage.raw, storage.code)
        _check_shape(size)
        _check_shape(stride)
        _check_shape((offset,))
        self._charge(math.prod(size) * flat.itemsize)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) == 0 or last >= flat.size:
            raise KeypointError(f"declares a tensor of shape {size} in a storage of {flat.size} values: {_REMEDY}")
        steps = [step * flat.itemsize for step in stride]
        return _Array(np.lib.stride_tricks.as_strided(flat[offset:], size, steps).copy())
