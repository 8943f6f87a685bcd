"""Features on the GPU: the host's values, in the order of the stream, without a copy to the host."""

from __future__ import annotations

import numpy as np
import pytest

from tests.doubles import fake_kernels
from tests.doubles.fake_cuda import FakeCuda
from tests.doubles.loopback import upload
from vexpress_rt.backends.cuda.executor import CudaTensor, Executor
from vexpress_rt.bundle.engine_spec import TensorSpec
from vexpress_rt.errors import BackendError
from vexpress_rt.pipeline.device_operations import choose_device_operations
from vexpress_rt.stages.device_features import DeviceFeatures
from vexpress_rt.stages.spatial import FeatureOperations, HostFeatures

SHAPE = (2, 3, 4, 5)
RNG = np.random.default_rng(0)
FEATURES = [RNG.standard_normal(SHAPE).astype(np.float16) for _ in range(2)]


@pytest.fixture
def operations(executor: Executor) -> FeatureOperations:
    return choose_device_operations(executor, None).features


@pytest.mark.parametrize("count", [1, 2])
def test_the_gpu_gives_the_hosts_sums(executor: Executor, operations: FeatureOperations, count: int) -> None:
    weights = [0.7, 1.9][:count]
    found = operations.weighted_sum([upload(executor, feature) for feature in FEATURES[:count]], weights)
    assert isinstance(found, CudaTensor)
    assert (found.shape, found.dtype) == (SHAPE, "float16")
    np.testing.assert_array_equal(found.numpy(), HostFeatures().weighted_sum(FEATURES[:count], weights))


def test_features_may_be_freed_before_the_sum_is_computed(executor: Executor, operations: FeatureOperations) -> None:
    features = [upload(executor, feature) for feature in FEATURES]
    found = operations.weighted_sum(features, [1.0, 1.0])
    for feature in features:
        feature.close()
    np.testing.assert_array_equal(found.numpy(), HostFeatures().weighted_sum(FEATURES, [1.0, 1.0]))  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_feature_of_no_signal_is_zero_in_every_dtype(operations: FeatureOperations, dtype: str) -> None:
    found = operations.zeros(TensorSpec("pose_feature", ("F", "K", "h", "w"), SHAPE, dtype))
    assert isinstance(found, CudaTensor)
    assert (found.shape, found.dtype) == (SHAPE, dtype)
    if dtype != "bfloat16":
        assert not found.numpy().any()


def test_without_kernels_the_host_sums_and_has_no_bfloat16(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_kernels.hide(monkeypatch)
    operations = choose_device_operations(executor, None).features
    assert not isinstance(operations, DeviceFeatures)
    found = operations.weighted_sum([upload(executor, feature) for feature in FEATURES], [0.5, 1.0])
    np.testing.assert_array_equal(found, HostFeatures().weighted_sum(FEATURES, [0.5, 1.0]))  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="is bfloat16, which NumPy lacks; expected CUDA kernels"):
        operations.zeros(TensorSpec("pose_feature", ("F",), (2,), "bfloat16"))


def test_a_launch_that_fails_leaves_nothing_behind(
    executor: Executor, operations: FeatureOperations, cuda: FakeCuda
) -> None:
    kernels = operations._kernels._module  # type: ignore[attr-defined]
    kernels.refused = 1
    features = [upload(executor, feature) for feature in FEATURES]
    with pytest.raises(BackendError, match="CUDA does not launch the kernel weighted_sum"):
        operations.weighted_sum(features, [1.0, 1.0])
    np.testing.assert_array_equal(
        operations.weighted_sum(features, [1.0, 1.0]).numpy(),  # type: ignore[union-attr]
        HostFeatures().weighted_sum(FEATURES, [1.0, 1.0]),
    )
