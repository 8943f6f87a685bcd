"""Where latents and frames are between engines: in the GPU's memory, where it has the kernels, or on the host."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial

from vexpress_rt.backends.cuda.executor import Executor
from vexpress_rt.diffusion.device_latents import DeviceLatents
from vexpress_rt.diffusion.latents import HostLatents, MakeLatents
from vexpress_rt.errors import BackendMissingError
from vexpress_rt.native import device_kernels
from vexpress_rt.stages.device_frames import DeviceFrames
from vexpress_rt.stages.frame_decoder import FramePostprocessing, HostFrames

_log = logging.getLogger("vexpress_rt")


@dataclass(frozen=True)
class DeviceOperations:
    """latents: makes what keeps the latents of a video.  frames: what happens to its frames."""

    latents: MakeLatents
    frames: FramePostprocessing


def choose(executor: Executor | None, threads: int | None) -> DeviceOperations:
    """On the GPU that `executor` runs engines on, if there are kernels for it; else on the host, with a warning.

    executor: None for engines on the CPU.  threads: of the CPU, for the median.
    """
    if executor is not None:
        try:
            kernels = device_kernels.load()
            return DeviceOperations(partial(DeviceLatents, executor, kernels), DeviceFrames(executor, kernels))
        except BackendMissingError as error:
            why = str(error)  # the exception itself would keep what its frames hold, in whoever keeps the record
            _log.warning("latents and frames go through the host in every step, since %s", why)
    return DeviceOperations(HostLatents, HostFrames(threads))


def describe(*, on_gpu: bool) -> str:
    """Where latents are, for people.  on_gpu: whether engines are."""
    if not on_gpu:
        return "on the CPU"
    try:
        device_kernels.load()
    except BackendMissingError as error:
        return f"through the host, since {error}"
    return "on the GPU"
