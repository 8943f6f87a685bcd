"""Numbers on a benchmark's command line."""

from __future__ import annotations

import argparse
import math


def positive(text: str) -> float:
    """Parse a finite number above 0."""
    return _number(text, "a finite number above 0", zero=False)


def not_negative(text: str) -> float:
    """Parse a finite number of at least 0."""
    return _number(text, "a finite number of at least 0", zero=True)


def _number(text: str, expected: str, *, zero: bool) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and (value > 0 or (zero and value == 0))):
        raise argparse.ArgumentTypeError(f"{text!r}; expected {expected}")
    return value
