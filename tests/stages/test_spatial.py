"""The pose feature: the weighted sum of the guiders' features, each of them optional."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from tests.doubles.fakes import FakeDeviceTensor, FakeEngine, fake_specs
from tests.support.factories import model_config
from vexpress_rt.bundle.engine_spec import EngineSpec, VideoShape
from vexpress_rt.errors import BackendError
from vexpress_rt.stages.spatial import SpatialFeatures, SpatialSignal

SPECS = fake_specs(model_config(guiders=("keypoints", "depth")), VideoShape(64, 64, 2))
FEATURE = SPECS["pose_guider"].outputs[0]
RNG = np.random.default_rng(0)
KEYPOINTS, DEPTH = (RNG.standard_normal(FEATURE.shape).astype(np.float32) for _ in range(2))


def make_engines(on_device: bool = False, depth: np.ndarray = DEPTH) -> dict[str, FakeEngine]:
    """Return guiders that give KEYPOINTS and `depth`."""

    def returning(feature: np.ndarray) -> object:
        def compute(spec: EngineSpec, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {spec.outputs[0].name: feature}

        return compute

    features = {"pose_guider": KEYPOINTS, "depth_guider": depth}
    return {name: FakeEngine(SPECS[name], returning(value), on_device=on_device) for name, value in features.items()}  # type: ignore[arg-type]


def compute(engines: dict[str, FakeEngine], **weights: float) -> object:
    """Return the pose feature of the signals with these weights."""
    pictures = {
        "keypoints": lambda frame: np.full((64, 64, 3), frame, np.uint8),
        "depth": lambda frame: np.full((64, 64), frame / 10, np.float32),
    }
    signals = [SpatialSignal(name, weight, pictures[name]) for name, weight in weights.items()]
    features = SpatialFeatures(engines.__getitem__, signals, FEATURE)
    inputs = features.pictures([3, 4])
    (feature,) = features(inputs).values()
    assert features(inputs)["pose_feature"] is feature or weights
    return feature


@pytest.mark.parametrize("signal", ["keypoints", "depth"])
def test_the_feature_of_one_signal_of_weight_1_is_its_guiders(signal: str) -> None:
    engines = make_engines(on_device=True)
    feature = compute(engines, **{signal: 1.0})
    assert isinstance(feature, FakeDeviceTensor)  # no copy to the host
    assert feature.array is (KEYPOINTS if signal == "keypoints" else DEPTH)
    used, unused = ("pose_guider", "depth_guider") if signal == "keypoints" else ("depth_guider", "pose_guider")
    assert (len(engines[used].calls), engines[unused].calls) == (2, [])


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0), (1.0, 0.25)])
def test_features_are_summed_with_their_weights(weights: tuple[float, float], on_device: bool) -> None:
    feature = compute(make_engines(on_device), keypoints=weights[0], depth=weights[1])
    expected = np.float32(weights[0]) * KEYPOINTS + np.float32(weights[1]) * DEPTH
    np.testing.assert_array_equal(feature, expected)


def test_one_signal_is_scaled_by_its_weight() -> None:
    np.testing.assert_array_equal(compute(make_engines(), keypoints=0.5), KEYPOINTS / 2)  # type: ignore[arg-type]


def test_a_signal_of_weight_0_is_left_out() -> None:
    engines = make_engines()
    assert compute(engines, keypoints=1.0, depth=0.0) is KEYPOINTS
    assert engines["depth_guider"].calls == []


@pytest.mark.parametrize("weights", [{}, {"keypoints": 0.0}])
def test_without_a_signal_the_feature_is_zero(weights: dict[str, float]) -> None:
    feature = compute(make_engines(), **weights)
    assert isinstance(feature, np.ndarray)
    assert (feature.shape, feature.dtype) == (FEATURE.shape, np.float32)
    assert not feature.any()


def test_guiders_get_the_pictures_of_the_frames() -> None:
    engines = make_engines()
    compute(engines, keypoints=1.0, depth=1.0)
    assert engines["pose_guider"].calls[0]["drawings"][:, 0, 0, 0].tolist() == [3, 4]
    np.testing.assert_array_equal(engines["depth_guider"].calls[0]["depth"][:, 5, 6], np.float32([0.3, 0.4]))


@pytest.mark.parametrize("signals", [("keypoints", "depth"), ("depth",)])
def test_the_guider_of_a_feature_that_is_not_finite_is_named(signals: tuple[str, ...]) -> None:
    broken = np.where(DEPTH > 2, np.nan, DEPTH)
    with pytest.raises(BackendError, match="engine depth_guider returned depth_feature with NaN"):
        compute(make_engines(depth=broken), **dict.fromkeys(signals, 1.0))
