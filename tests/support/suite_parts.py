"""A part of the report on the micro model; `benchmarks.gpu` runs it in a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cpu import models
from benchmarks.gpu.parts import Figures, ReportFigures
from benchmarks.page import parts
from tests.support.micro import MICRO, MICRO_SHAPE


@dataclass(frozen=True)
class BuiltModel(models.Model):
    """A model whose weights and bundle exist.

    Attributes:
        built: Folders of the weights and of the bundle.
    """

    built: tuple[Path, Path] = (Path(), Path())

    def weights(self, work: Path) -> Path:
        """Return the checkpoint directory."""
        return self.built[0]

    def bundle(self, work: Path) -> Path:
        """Return the folder of the bundle."""
        return self.built[1]

    def prepare(self, work: Path, progress: Callable[[str], object] = lambda _: None) -> None:
        """Do nothing."""


def micro_suites(options: Mapping[str, Any], report: ReportFigures) -> Figures:
    """Run `parts.suite` with a built bundle of `tests.support.micro` as the small model."""
    built = (Path(options["weights"]), Path(options["bundle"]))
    models.MODELS["pocket"] = BuiltModel("pocket", MICRO, MICRO_SHAPE, built=built)
    return parts.suite(options, report)
