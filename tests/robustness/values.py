"""Odd argument values, as Python expressions, so that an input is readable text."""

from __future__ import annotations

import random
from typing import Any

_SETUP = """
import decimal, fractions, io, math, os, pathlib, collections, ctypes
import numpy as np
Decimal, Fraction, Path = decimal.Decimal, fractions.Fraction, pathlib.Path
class Odd:
    def __getattr__(self, name): raise RuntimeError('odd ' + name)
class Bad:
    def __repr__(self): raise ValueError('no repr')
    __str__ = __repr__
class Long(int): pass
class Text(str): pass
class Real(float): pass
class Index:
    def __index__(self): return 3
class Array(np.ndarray): pass
class Fake:
    ndim, shape, dtype, size = 1, (4,), np.dtype('f4'), 4
    def __len__(self): return 4
class Liar:
    __class__ = float
class PathLike:
    def __fspath__(self): return 7
class Raises:
    def __array__(self, *a, **k): raise OSError('no array')
def call(*a): return None
def boom(*a): raise KeyError('from the caller')
"""
# Numbers, strings and objects of any type.
ANY = (
    "None", "True", "False", "0", "1", "-1", "2", "25", "240", "241", "2**31", "2**63", "2**64", "10**400",
    "-10**400", "0.0", "-0.0",
    "0.5", "1e-9", "1e-320", "1e308", "float('nan')", "float('inf')", "-float('inf')", "29.97", "''", "'a'", "'nan'",
    "'1/0'", "'30/1'",
    "'٣٠'", "'²'", "'9'*500", "'\\x00'", "'\\ud800'", "'face'", "'512x512'", "b''", "b'abc'", "bytearray(b'12')",
    "memoryview(b'abc')", "()", "[]", "{}", "set()", "(1, 2)", "[0.1, 0.9]", "(0.9, 0.1)", "[float('nan'), 1]",
    "{'a': 1}", "object()",
    "object", "int", "call", "boom", "lambda *a: 0", "range(3)", "iter([1])", "(x for x in [1])", "1j",
    "complex('nan')", "Decimal('30')",
    "Decimal('NaN')", "Decimal('sNaN')", "Decimal('Infinity')", "Decimal('1e999999')", "Fraction(30)",
    "Fraction(1, 10**30)",
    "Fraction(10**400)", "np.float16('inf')", "np.float16('nan')", "np.float16(16000)", "np.float32(30)",
    "np.float64('nan')",
    "np.longdouble('inf')", "np.longdouble(30)", "np.int8(-1)", "np.uint64(2**64-1)", "np.int16(30)",
    "np.bool_(True)", "np.str_('face')",
    "np.bytes_(b'x')", "np.datetime64('2020')", "np.timedelta64(3, 's')", "np.complex64(1j)", "np.array(30)",
    "np.array('x')",
    "np.array([1, 2])", "np.array([0.1, 0.9])", "np.zeros((2, 2))", "np.zeros(0)", "np.array(None)",
    "np.array([object()])",
    "np.ma.masked", "np.ma.array([1.0, 2], mask=[0, 1])", "np.void(b'abc')", "Odd()", "Bad()", "Long(30)",
    "Text('30')", "Real('nan')",
    "Index()", "Liar()", "PathLike()", "Raises()", "Path('nothing')", "Path('\\x00')", "NotImplemented", "Ellipsis",
    "type", "Exception()",
    "StopIteration()", "io.BytesIO(b'x')", "ctypes.c_int(3)", "collections.OrderedDict(a=1)", "'x' * 1000", "os",
    "slice(1, 2)",
)  # fmt: skip
# Arrays instead of sound, pictures, noise and keypoints.
ARRAYS = (
    "np.zeros(400, np.float32)", "np.zeros(400)", "np.zeros(400, np.float16)", "np.zeros(400, np.longdouble)",
    "np.zeros(400, np.int16)",
    "np.zeros(400, '>i2')", "np.zeros(400, '>f4')", "np.zeros(400, '>f8')", "np.zeros(400, np.int32)",
    "np.zeros(400, np.uint8)",
    "np.zeros(400, bool)", "np.zeros(400, complex)", "np.zeros(400, object)", "np.full(400, None)",
    "np.zeros(400, 'U3')",
    "np.zeros(400, 'M8[s]')", "np.zeros(400, [('a', 'f4')])", "np.array(['x'] * 4)", "np.float32(1)", "np.array(1.0)",
    "np.zeros((0,))",
    "np.zeros((0, 5))", "np.zeros((5, 0))", "np.zeros((2, 400), np.float32)", "np.zeros((400, 2), np.float32)",
    "np.zeros((65, 400), 'f4')",
    "np.zeros((2, 2, 2))", "np.zeros((1,) * 30, 'f4')", "np.full(400, np.nan)", "np.full(400, np.inf, 'f2')",
    "np.full(400, 1e300)",
    "np.full(400, 9999.0)", "np.full(400, 1e-310)", "np.full(400, -32768, 'i2')",
    "np.arange(800, dtype='f4')[::-2] / 800",
    "np.zeros((20, 20), 'f4').T[3]", "np.asfortranarray(np.zeros((2, 400), 'f4'))",
    "np.broadcast_to(np.float32(0), 400)",
    "np.broadcast_to(np.float32(0), 10**12)", "np.broadcast_to(np.int16(0), (1, 10**13))",
    "np.zeros(400, 'f4').view(Array)",
    "np.ma.array(np.full(400, np.nan), mask=True)", "np.rec.array([(1.0, 2)], dtype=[('a', 'f4'), ('b', 'i4')])",
    "np.zeros((1, 400)).view(np.matrix)",
    "memoryview(np.zeros(400, 'f4'))", "[0.0] * 400", "(0.0,) * 400", "Fake()", "bytes(1600)",
    "np.zeros((3, 2), 'f4')",
    "np.zeros((5, 3, 2), 'f4')", "np.full((5, 3, 2), 20.0)", "np.full((1, 3, 2), 20, 'u1')",
    "np.full((5, 3, 2), np.nan)", "np.full((5, 3, 2), 1e38)",
    "np.full((5, 3, 2), -1e6)", "np.zeros((5, 5, 2))", "np.zeros((5, 3, 3))", "[[[1, 2], [3, 4], [5, 6]]]",
    "[[1, 2], [3, 4], [5, 6]]",
    "[[[1, 2], [3, 4]], [[5, 6]]]", "[np.zeros((3, 2)), np.zeros((5, 2))]", "[[['a', 'b']] * 3]",
    "np.broadcast_to(np.float32(20), (2*10**6, 3, 2))",
    "np.broadcast_to(np.float32(20), (10**9, 3, 2))", "np.zeros((64, 64, 3), 'u1')", "np.zeros((64, 64, 4), 'u1')",
    "np.zeros((64, 64), 'u1')",
    "np.zeros((1, 64, 3), 'u1')", "np.zeros((64, 64, 3), 'f4')", "np.zeros((64, 64, 3), 'u1')[::-1, ::2]",
    "np.broadcast_to(np.uint8(9), (90000, 90000, 3))",
    "np.zeros((1, 4, 2, 16, 16), 'f4')", "np.broadcast_to(np.float32(0), (1, 4, 10**6, 16, 16))",
    "np.full((1, 4, 2, 16, 16), np.nan, 'f4')",
    "np.full((1, 4, 2, 16, 16), 1e38, 'f4')",
)  # fmt: skip
_TEXTS = (
    "", "a", "..", "../x", "/etc/passwd", "a/b", "a\\b", "CON", "manifest.json", ".hidden", "x" * 5000, "\0",
    "\x1b[2J", "é", "\u202eabc", "\ud800",
    "denoiser", "onnxruntime", "fp32", "tensorrt", "ddim", "0" * 64, "f" * 63, "exact", "9.0", "-1",
)  # fmt: skip
_NUMBERS = (0, 1, -1, 2, 7, 128, 4096, 2**31 - 1, 2**31, 2**62, 10**18, 10**30, 0.0, -0.0, 0.5, 1.0, 1e-300, 1e300)


def value(expression: str) -> Any:
    """Return the value of one of the expressions above."""
    namespace: dict[str, Any] = {}
    exec(_SETUP, namespace)  # trusted: constant, as are the expressions
    return eval(expression, namespace)


def nasty_json(chance: random.Random, deep: int = 0) -> Any:
    """Return a random JSON value."""
    kind = chance.randrange(8 if deep < 3 else 5)
    if kind < 2:
        return chance.choice(_NUMBERS)
    if kind < 4:
        return chance.choice(_TEXTS)
    if kind == 4:
        return chance.choice((None, True, False))
    if kind < 7:
        return [nasty_json(chance, deep + 1) for _ in range(chance.choice((0, 1, 2, 5)))]
    return {str(chance.choice(_TEXTS)): nasty_json(chance, deep + 1) for _ in range(chance.choice((0, 1, 3)))}
