"""The options of a build."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from export.checkpoint.trained_files import TrainingChoice
from vexpress_rt.backends.tensorrt.options import EngineOptions
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR, KNOWN_ENGINES, PRECISIONS, VideoShape
from vexpress_rt.bundle.target import COMPILED_TARGETS, ONNXRUNTIME, TARGETS, check_precision
from vexpress_rt.config import check_choice
from vexpress_rt.errors import ConfigError


@dataclass(frozen=True)
class BuildOptions:
    """The options of a build.

    Attributes:
        shape: Height and width in pixels, and frames of a context window.
        precision: Precision of weights and activations, a key of `PRECISIONS`.
        target: Library that will run the engines, a key of `TARGETS`.
        allow_odd_sizes: Whether height and width may be any multiple of a VAE cell.
        engines: Names of the engines to build; empty for all that the checkpoint allows.
        tensorrt: Options of TensorRT, for its targets.
        onnx: Whether to keep the graphs and their weights, or only their hashes. A bundle without graphs cannot compile
            further plans.
        compact: Whether to store float32 weights that float16 holds exactly as float16. ONNX Runtime and OpenVINO widen
            them when they load them, so that only the size on disk changes.
        training: Weights of one's own training that replace some of the checkpoint directory's.

    Raises:
        ConfigError: A name is unknown, or options contradict each other.
    """

    shape: VideoShape = field(default_factory=lambda: VideoShape(512, 512, 24))
    precision: str = "fp32"
    target: str = ONNXRUNTIME.name
    allow_odd_sizes: bool = False
    engines: tuple[str, ...] = ()
    tensorrt: EngineOptions = field(default_factory=EngineOptions)
    onnx: bool = True
    compact: bool = False
    training: TrainingChoice = field(default_factory=TrainingChoice)

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, tuple(PRECISIONS))
        check_choice("target", self.target, tuple(TARGETS))
        check_precision(self.precision, self.target)
        for name in self.engines:
            check_choice("engine", name, (*KNOWN_ENGINES, FACE_DETECTOR))
        if not TARGETS[self.target].compiled and (not self.onnx or self.tensorrt != EngineOptions()):
            what = "options of TensorRT are" if self.onnx else "--no-onnx is"
            raise ConfigError(
                f"{what} given with the target {self.target}, which runs ONNX files as they are; expected "
                f"{' or '.join(COMPILED_TARGETS)} with that: leave it out, or choose another --target"
            )
        if self.compact and (self.precision != "fp32" or TARGETS[self.target].compiled):
            others = " or ".join(name for name, target in TARGETS.items() if not target.compiled)
            raise ConfigError(
                f"--compact is given with the precision {self.precision} and the target {self.target}; expected fp32 "
                f"and {others} with that: leave it out"
            )

    def default_output(self) -> Path:
        """Return `engines/` with a name of size, precision and target."""
        s = self.shape
        return Path("engines") / f"{s.width}x{s.height}x{s.frames}-{self.precision}-{self.target}"
