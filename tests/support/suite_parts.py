"""A part of the report on the smallest model there is; `benchmarks.gpu` runs it in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.cpu import models
from benchmarks.gpu.parts import Figures, ReportFigures
from benchmarks.page import parts
from tests.support.micro import MICRO, MICRO_SHAPE


def micro_suites(options: Mapping[str, Any], report: ReportFigures) -> Figures:
    """`parts.suite`, the small model being `tests.support.micro`'s."""
    models.MODELS["pocket"] = models.Model("pocket", MICRO, MICRO_SHAPE)
    return parts.suite(options, report)
