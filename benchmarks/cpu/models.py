"""The measured models: synthetic weights and bundles, which are made once in a work folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from export.build.builder import build
from export.build.options import BuildOptions
from export.checkpoint.presets import FULL, HALF
from export.checkpoint.synthetic import write_synthetic_checkpoint
from export.networks.architecture import Architecture
from export.pocket.architecture import POCKET, SIZE, WINDOW
from export.pocket.release import RECOMMENDED
from vexpress_rt.bundle.engine_spec import VideoShape

SEED = 0
WORK = Path(__file__).parents[2] / "build" / "bench"


@dataclass(frozen=True)
class Model:
    """A measured model.

    Attributes:
        name: Name of the model.
        architecture: Architecture of the weights.
        shape: Size of videos and windows of the bundle.
        engines: Engines of the bundle; empty for all.
    """

    name: str
    architecture: Architecture
    shape: VideoShape
    engines: tuple[str, ...] = ()

    def weights(self, work: Path) -> Path:
        """Return the checkpoint directory, which has a digest of the architecture in its name."""
        digest = hashlib.sha256(repr(self.architecture).encode()).hexdigest()
        return work / f"{self.name}-{digest[:8]}-weights"

    def bundle(self, work: Path) -> Path:
        """Return the folder of the bundle."""
        return self.weights(work).with_name(self.weights(work).name.replace("weights", "bundle"))

    def prepare(self, work: Path, progress: Callable[[str], object] = lambda _: None) -> None:
        """Write the weights if they are missing, and build the bundle if it is out of date."""
        work.mkdir(parents=True, exist_ok=True)
        if not self.weights(work).exists():
            write_synthetic_checkpoint(self.weights(work), self.architecture, SEED, progress)
        build(self.weights(work), self.bundle(work), BuildOptions(self.shape, engines=self.engines), progress)


# The small model has random weights too: the trained ones exist only as engines, and times do not depend on them.
POCKET_MODEL = Model("pocket", replace(POCKET, recommended=RECOMMENDED), VideoShape(SIZE, SIZE, WINDOW))
HALF_MODEL = Model("half", HALF, VideoShape(128, 128, 8))
FULL_MODEL = Model("full", FULL, VideoShape(64, 64, 8), ("denoiser",))
MODELS = {model.name: model for model in (POCKET_MODEL, HALF_MODEL, FULL_MODEL)}
