"""The spatial conditions of the denoiser: its pose feature is the weighted sum of the guiders' features.

Source: docs/model/specification.md, stage 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from vexpress_rt.backends.base import Array, Engine, Tensor
from vexpress_rt.bundle.engine_spec import GUIDERS, ONLY_TENSORRT, PRECISIONS, TensorSpec
from vexpress_rt.diffusion.latent_check import check_outputs
from vexpress_rt.errors import BackendError
from vexpress_rt.native.weighted_sum import weighted_sum_numpy
from vexpress_rt.utils.project_links import EXPORTER

POSE_FEATURE = "pose_feature"  # the denoiser's input


class FeatureOperations(Protocol):
    """The operations on guiders' features between engines, on the device of the engines or the host."""

    def weighted_sum(self, features: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Return the sum of features of one shape and dtype, each times its weight.

        Args:
            features: One or two, as the engines returned them.
            weights: A weight for each.

        Raises:
            BackendError: The GPU failed.
        """
        ...

    def zeros(self, spec: TensorSpec) -> Tensor:
        """Return the feature of no signal.

        Args:
            spec: The denoiser's input.

        Raises:
            BackendError: The GPU failed, or the dtype is bfloat16 and there are no kernels for the GPU.
        """
        ...


class HostFeatures:
    """`FeatureOperations` on the host, in float32. Features on a device are copied to the host."""

    def weighted_sum(self, features: Sequence[Tensor], weights: Sequence[float]) -> Array:
        """See `FeatureOperations`."""
        arrays = [feature if isinstance(feature, np.ndarray) else feature.numpy() for feature in features]
        return weighted_sum_numpy(arrays, weights)

    def zeros(self, spec: TensorSpec) -> Array:
        """See `FeatureOperations`."""
        if spec.dtype == PRECISIONS[ONLY_TENSORRT]:
            raise BackendError(
                f"the pose feature of no signal is {spec.dtype}, which NumPy lacks; expected CUDA kernels for it: "
                f"install the package again with nvcc on PATH, or build with --precision fp16 {EXPORTER}"
            )
        return np.zeros([size or 0 for size in spec.shape], spec.dtype)


@dataclass(frozen=True, eq=False)
class SpatialSignal:
    """A spatial signal of a video.

    Attributes:
        name: The signal, one of `engine_spec.GUIDERS`.
        weight: The factor of its guider's feature.
        picture: Returns the guider's input of a frame: the keypoint map (H, W, 3) uint8, or the depth (H, W) float32.
    """

    name: str
    weight: float
    picture: Callable[[int], Array]


@dataclass(eq=False)
class SpatialFeatures:
    """Computes the denoiser's pose feature from the signals of a video.

    The feature of one signal of weight 1 is that of its guider, unchanged; without a signal it is zero, as in the
    unconditional pass. Signals of weight 0 are left out.

    Attributes:
        get_engine: Returns an engine by its name.
        signals: The signals.
        spec: The denoiser's input.
        operations: The operations on features.
    """

    get_engine: Callable[[str], Engine]
    signals: Sequence[SpatialSignal]
    spec: TensorSpec
    operations: FeatureOperations = field(default_factory=HostFeatures)
    _nothing: Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.signals = [signal for signal in self.signals if signal.weight != 0]

    def pictures(self, frames: Iterable[int]) -> dict[str, Array]:
        """Return the guiders' inputs of frames by signal, each (n, ...)."""
        numbers = list(frames)
        return {signal.name: np.stack([signal.picture(frame) for frame in numbers]) for signal in self.signals}

    def __call__(self, pictures: Mapping[str, Array]) -> Mapping[str, Tensor]:
        """Return the denoiser's input `pose_feature` (F, K, h, w) of a window, kept on the device.

        Args:
            pictures: The guiders' inputs of its F frames by signal, from `pictures`.

        Raises:
            BackendError: An engine or the GPU failed.
        """
        features = [self._run(GUIDERS[signal.name], pictures[signal.name]) for signal in self.signals]
        weights = [signal.weight for signal in self.signals]
        if weights == [1]:
            return {POSE_FEATURE: features[0]}
        if not features:
            self._nothing = self.operations.zeros(self.spec) if self._nothing is None else self._nothing
            return {POSE_FEATURE: self._nothing}
        return {POSE_FEATURE: self.operations.weighted_sum(features, weights)}

    def _run(self, name: str, pictures: Array) -> Tensor:
        engine = self.get_engine(name)
        outputs = engine.run({engine.spec.inputs[0].name: pictures}, keep_on_device=True)
        check_outputs(name, outputs)  # the check of latents knows the sum alone, not its guiders
        (feature,) = outputs.values()
        return feature
