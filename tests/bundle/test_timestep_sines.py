"""The runtime's sinusoidal timestep embedding equals the exporter's."""

import numpy as np
import pytest
import torch

from export.networks.layers import timestep_sinusoid
from vexpress_rt.bundle.timestep_sines import timestep_frequencies, timestep_sines


@pytest.mark.parametrize("size", [2, 16, 64, 320])
@pytest.mark.parametrize("timestep", [0, 1, 39, 500, 999])
def test_equals_the_network_that_is_exported(timestep: int, size: int) -> None:
    network = timestep_sinusoid(torch.tensor([timestep], dtype=torch.float32), size)
    sines = timestep_sines(timestep, size)
    assert (sines.shape, sines.dtype) == ((1, size), np.float32)
    np.testing.assert_allclose(sines, network.numpy(), atol=2e-4)  # angles of float32: off by 999 * 2**-23


def test_the_first_half_is_cosines_and_the_frequencies_fall_to_one_ten_thousandth() -> None:
    assert timestep_sines(0, 6).tolist() == [[1, 1, 1, 0, 0, 0]]
    np.testing.assert_allclose(timestep_frequencies(8), [1, 0.1, 0.01, 0.001], rtol=1e-15)
