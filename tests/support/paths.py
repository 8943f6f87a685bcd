"""Paths in this checkout."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
GOLDEN = TESTS / "golden"
CORPUS = TESTS / "corpus"
POCKET = ROOT / "engines" / "pocket"  # the shipped bundle
