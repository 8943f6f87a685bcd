"""Files of keypoints: .npy, .npz, torch's old and new formats, and pickles assembled from opcodes."""

from __future__ import annotations

import io
import pickle
import pickletools
import random
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tests.robustness.cases import Case
from tests.robustness.mutations import TOKENS, mutate

POINTS = np.random.default_rng(0).uniform(0, 512, (7, 3, 2)).astype(np.float32)
_TOKENS = (
    *TOKENS, b"cos\nsystem\n(X\x1a\0\0\0cat ../canary/secret.txt   tR.", b"cbuiltins\nopen\n", b"X\x06\0\0\0latin1",
    b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"'shape': (99999999999, 3, 2)", b"'descr': '|O'", b"'descr': [('a','<f4')]", b"r\xff\xff\xff\x7f",
    b"\x8d" + b"\xff" * 8,
)  # fmt: skip
_NAMES = (
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"), ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"), ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray",
    "_reconstruct"),
    ("torch", "FloatStorage"), ("torch", "LongStorage"), ("os", "system"), ("builtins", "eval"), ("builtins",
    "getattr"),
    ("numpy", "load"), ("numpy", "fromfile"), ("torch", "load"),
)  # fmt: skip


class KeypointFiles:
    """Calls `load_keypoints`, and processes the track as before drawing."""

    memory = 0
    noisy: tuple[bytes, ...] = ()

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def seeds(self) -> Sequence[Case]:
        import torch

        def saved(value: object, **options: object) -> bytes:
            stream = io.BytesIO()
            torch.save(value, stream, **options)  # type: ignore[arg-type]
            return stream.getvalue()

        found = [Case(".npy", _npy(POINTS.astype(kind))) for kind in ("<f4", "<f8", ">f4", "<i2", "<u1", "<f2", ">i8")]
        found += [
            Case(".npy", _npy(np.asfortranarray(POINTS))),
            Case(".npy", _npy(POINTS[0])),
            Case(".npy", _npy(POINTS[:0])),
        ]
        for write in (np.savez, np.savez_compressed):
            for names in (("keypoints",), ("keypoints", "other")):
                stream = io.BytesIO()
                write(stream, **dict.fromkeys(names, POINTS))
                found.append(Case(".npz", stream.getvalue()))
        values = (
            torch.from_numpy(POINTS),
            list(POINTS),
            POINTS,
            list(torch.from_numpy(POINTS)),
            POINTS.astype(np.float64),
        )
        for value in values:
            found += [Case(".pth", saved(value)), Case(".pth", saved(value, _use_new_zipfile_serialization=False))]
        found += [Case(".pth", pickle.dumps(list(POINTS), protocol)) for protocol in (2, 4, 5)]
        return found

    def make(self, chance: random.Random, seeds: Sequence[Case]) -> Case:
        seed = chance.choice(seeds)
        kind = chance.random()
        if kind < 0.25:
            return Case(".pth", _as_torch(chance, _program(chance)))
        if kind < 0.6 and seed.content.startswith(b"PK"):
            return Case(seed.suffix, _members(chance, seed.content))
        if kind < 0.75 and seed.content.startswith(b"\x80"):
            return Case(seed.suffix, _opcodes(chance, seed.content))
        others = [other.content for other in seeds]
        return Case(seed.suffix, mutate(chance, seed.content, others, _TOKENS))

    def read(self, path: Path) -> None:
        from fractions import Fraction

        from vexpress_rt.face.keypoint_map import draw_keypoint_map
        from vexpress_rt.face.keypoint_track import check_inside, fit_length, load_keypoints
        from vexpress_rt.face.retargeting import retarget

        track = load_keypoints(path)
        assert track.points.dtype == np.float32
        assert track.points.shape[1:] == (3, 2)
        assert np.isfinite(track.points).all()
        assert track.fps is None or track.fps > Fraction(0)
        points, _ = fit_length(track.points[:1000], 20, "stretch")
        draw_keypoint_map(points[0], 64, 64)
        face = np.array([[20, 20], [40, 20], [30, 40]], np.float32)
        for mode in ("offset_retarget", "naive_retarget"):
            moved = retarget(points, face, mode)
            draw_keypoint_map(moved[-1], 64, 64)
            check_inside(moved, (64, 64))


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _members(chance: random.Random, data: bytes) -> bytes:
    """Return a valid zip with one member changed, doubled, removed, renamed or enlarged."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    index = chance.randrange(len(members))
    name, content = members[index]
    kind = chance.randrange(6)
    if kind == 0:
        members[index] = (
            name,
            _opcodes(chance, content) if name.endswith(".pkl") else mutate(chance, content, [], _TOKENS),
        )
    elif kind == 1:
        members.append((name, mutate(chance, content, [], _TOKENS)))
    elif kind == 2:
        del members[index]
    elif kind == 3:
        members[index] = (
            chance.choice(("../canary/secret.npy", "/etc/passwd", "keypoints.npy", "a/data.pkl", "\0.npy", "")),
            content,
        )
    elif kind == 4:
        members[index] = name, content + bytes(chance.choice((1, 1 << 20, 40 << 20)))
    else:
        members += [(f"{position}.npy", content) for position in range(chance.choice((2, 3000)))]
    stream = io.BytesIO()
    method = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    import warnings

    with warnings.catch_warnings():  # about duplicate names
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(stream, "w", method) as archive:
            for name, content in members:
                archive.writestr(zipfile.ZipInfo(name), content, method)
    found = stream.getvalue()
    return found if chance.random() < 0.7 else mutate(chance, found, [data], _TOKENS)


def _opcodes(chance: random.Random, program: bytes) -> bytes:
    """Return a pickle with opcodes removed, doubled, swapped or moved."""
    try:
        starts = [at for _, _, at in pickletools.genops(program) if at is not None]
    except ValueError:
        return mutate(chance, program, [], _TOKENS)
    bounds = [*starts, len(program)]
    pieces = [program[bounds[i] : bounds[i + 1]] for i in range(len(starts))]
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(pieces))
        kind = chance.randrange(5)
        if kind == 0:
            del pieces[at]
        elif kind == 1:
            pieces[at:at] = [pieces[at]] * chance.choice((1, 3, 1000))
        elif kind == 2:
            pieces[at] = chance.choice(pieces)
        elif kind == 3:
            pieces.insert(at, _opcode(chance))
        else:
            pieces[at] = mutate(chance, pieces[at], [], _TOKENS)
        if not pieces:
            return b"\x80\x02."
    return b"".join(pieces) + program[bounds[-1] :]


def _program(chance: random.Random) -> bytes:
    """Return a pickle of random opcodes, more than half of which push a value."""
    length = chance.choice((3, 8, 20, 60, 400))
    return b"\x80\x02" + b"".join(_opcode(chance) for _ in range(length)) + b"."


def _opcode(chance: random.Random) -> bytes:
    module, name = chance.choice(_NAMES)
    number = chance.choice((0, 1, 3, 255, 65535, 2**31 - 1))
    makers: tuple[Callable[[], bytes], ...] = (
        lambda: f"c{module}\n{name}\n".encode(),
        lambda: b"X" + len(module).to_bytes(4, "little") + module.encode(),
        lambda: chance.choice((b"(", b")", b"]", b"}", b"t", b"l", b"a", b"e", b"s", b"u", b"R", b"b", b"N", b"\x88",
        b"\x85")),
        lambda: b"K" + bytes([number % 256]), lambda: b"J" + number.to_bytes(4, "little"), lambda: b"\x93",
        lambda: b"\x8a" + bytes([number % 200]) + bytes([255]) * (number % 200), lambda: b"Q", lambda: b"0",
        lambda: b"2",
        lambda: b"r" + number.to_bytes(4, "little"), lambda: b"j" + number.to_bytes(4, "little"), lambda: b"h\0",
        lambda: b"q\0",
        lambda: b"\x94", lambda: b"\x81", lambda: b"i" + f"{module}\n{name}\n".encode(), lambda: b"o",
        lambda: b"\x82\x01",
        lambda: b"B" + number.to_bytes(4, "little") + b"x" * 9, lambda: b"\x8e" + number.to_bytes(8, "little"),
        lambda: b"\x96" + number.to_bytes(8, "little"), lambda: b"\x97\x98", lambda: b"P7\n", lambda: b"I99999999999\n",
        lambda: b"L" + b"9" * (number % 5000) + b"L\n", lambda: b"V\\u0041\n", lambda: b"F1e999\n",
        lambda: b"G" + b"\x7f\xf8" + bytes(6),
    )  # fmt: skip
    return chance.choice(makers)()


def _as_torch(chance: random.Random, program: bytes) -> bytes:
    if chance.random() < 0.3:
        magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
        return magic + b"\x80\x02M\xe9\x03." + b"\x80\x02}q\0." + program
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in (("k/data.pkl", program), ("k/data/0", POINTS.tobytes()), ("k/byteorder", b"little")):
            archive.writestr(zipfile.ZipInfo(name), content)
    return stream.getvalue()
