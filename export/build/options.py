"""What a build of a bundle can be asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vexpress_rt.backends.tensorrt.options import EngineOptions
from vexpress_rt.bundle.engine_spec import ENGINE_NAMES, FACE_DETECTOR, PRECISIONS, TARGETS, VideoShape, check_precision
from vexpress_rt.config import check_choice
from vexpress_rt.errors import ConfigError


@dataclass(frozen=True)
class BuildOptions:
    """What to build. Raises ConfigError for a name that is unknown.

    shape: height and width in pixels, frames of a window.  engines: names, or empty for all that the checkpoint allows.
    compiling: of TensorRT, for its targets.  onnx: keep the graphs and their weights, not only their hashes; a bundle
    without them has its plans alone, and cannot make others.  compact: store float32 weights that float16 holds exactly
    as float16; ONNX Runtime widens them when it loads them, so that nothing but the size on disk changes.
    """

    shape: VideoShape = field(default_factory=lambda: VideoShape(512, 512, 24))
    precision: str = "fp32"
    target: str = "onnxruntime"
    allow_odd_sizes: bool = False
    engines: tuple[str, ...] = ()
    compiling: EngineOptions = field(default_factory=EngineOptions)
    onnx: bool = True
    compact: bool = False

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, tuple(PRECISIONS))
        check_choice("target", self.target, TARGETS)
        check_precision(self.precision, self.target)
        for name in self.engines:
            check_choice("engine", name, (*ENGINE_NAMES, FACE_DETECTOR))
        if self.target == TARGETS[0] and (not self.onnx or self.compiling != EngineOptions()):
            what = "options of TensorRT are" if self.onnx else "--no-onnx is"
            raise ConfigError(
                f"{what} given with the target {self.target}, which runs ONNX files as they are; expected "
                f"{' or '.join(TARGETS[1:])} with that: leave it out, or choose another --target"
            )
        if self.compact and (self.precision, self.target) != ("fp32", TARGETS[0]):
            raise ConfigError(
                f"--compact is given with the precision {self.precision} and the target {self.target}; expected fp32 "
                f"and {TARGETS[0]} with that, whose weights it stores in less room: leave it out"
            )

    def default_output(self) -> Path:
        """engines/ and a name made of size, precision and target."""
        s = self.shape
        return Path("engines") / f"{s.width}x{s.height}x{s.frames}-{self.precision}-{self.target}"
