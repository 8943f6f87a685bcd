"""The operations on latents and frames between engines: on the GPU, if there are kernels for it, or on the host."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial

from vexpress_rt.backends.base import SharedExecutor
from vexpress_rt.backends.cuda.executor import Executor
from vexpress_rt.diffusion.device_latents import DeviceLatents
from vexpress_rt.diffusion.latents import HostLatents, MakeLatents
from vexpress_rt.errors import BackendMissingError
from vexpress_rt.native import device_kernels
from vexpress_rt.stages.device_features import DeviceFeatures
from vexpress_rt.stages.device_frames import DeviceFrames
from vexpress_rt.stages.frame_decoder import FramePostprocessing, HostFrames
from vexpress_rt.stages.spatial import FeatureOperations, HostFeatures

_log = logging.getLogger("vexpress_rt")


@dataclass(frozen=True)
class DeviceOperations:
    """The operations between engines, on one device.

    Attributes:
        latents: Makes the latent store.
        frames: The operations on decoded frames.
        features: The operations on guiders' features.
    """

    latents: MakeLatents
    frames: FramePostprocessing
    features: FeatureOperations = field(default_factory=HostFeatures)


def choose_device_operations(executor: SharedExecutor | None, threads: int | None) -> DeviceOperations:
    """Return the operations on the engines' GPU, if there are kernels for it, else on the host, with a warning.

    Args:
        executor: The executor that the engines share; None if there is none. One of CUDA's means engines on a GPU.
        threads: CPU threads of the median filter.
    """
    if isinstance(executor, Executor):
        try:
            kernels = device_kernels.load()
            return DeviceOperations(
                partial(DeviceLatents, executor, kernels),
                DeviceFrames(executor, kernels),
                DeviceFeatures(executor, kernels),
            )
        except BackendMissingError as error:
            why = str(error)  # not the exception, whose traceback would keep objects alive in the log record
            _log.warning("latents and frames go through the host in every step, since %s", why)
    return DeviceOperations(HostLatents, HostFrames(threads))


def describe_latents(*, on_gpu: bool) -> str:
    """Describe where latents are between engines, for `Generator.describe`; on_gpu: whether the engines run there."""
    if not on_gpu:
        return "on the CPU"
    try:
        device_kernels.load()
    except BackendMissingError as error:
        return f"through the host, since {error}"
    return "on the GPU"
