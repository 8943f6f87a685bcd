"""A denoiser whose engine and latents are on a fake GPU, to be held against one on the host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.doubles import fake_kernels
from tests.doubles.fake_kernels import FakeKernels
from tests.doubles.fake_tensorrt import FakeTensorRT, Plan
from tests.support.denoisers import make_denoiser, specs
from tests.support.engines import fake_tensorrt
from tests.support.tensorrt_plans import plan_of
from vexpress_rt.backends.base import Engine
from vexpress_rt.backends.cuda.executor import Executor
from vexpress_rt.backends.tensorrt.engine import load
from vexpress_rt.diffusion.denoiser import Denoiser
from vexpress_rt.diffusion.guidance import Guidance
from vexpress_rt.pipeline import device_operations

LENGTH, FRAMES, OVERLAP, STEPS = 9, 4, 1, 3
WINDOWS = 3
VIDEO = (LENGTH, FRAMES, OVERLAP, STEPS)
INPUTS = len(specs(FRAMES)["denoiser"].inputs)


class Gpu:
    """A GPU with a denoiser on it, which computes what the fake of its name does."""

    def __init__(self, module: FakeTensorRT, kernels: FakeKernels) -> None:
        self.module, self.cuda, self.kernels = module, module.cuda, kernels
        self.executor = Executor()
        self.plans: dict[str, Plan] = {}
        self.engines: dict[tuple[str, int], Engine] = {}

    def engine(self, name: str, frames: int) -> Engine:
        if (name, frames) not in self.engines:
            spec, file = specs(frames)[name], Path(__file__)  # any file will do: its content is the plan's name
            self.plans[name] = self.module.plans[file.read_bytes()] = plan_of(spec)
            self.engines[name, frames] = load(file, spec, executor=self.executor)
        return self.engines[name, frames]

    def denoiser(
        self, length: int, frames: int, overlap: int, steps: int, guidance: Guidance | None = None, **changes: Any
    ) -> Denoiser:
        """As `make_denoiser` makes it, with engine and latents on the GPU."""
        names = (guidance or Guidance(3.5, 1, 1)).engines(steps)
        latents = device_operations.choose_device_operations(self.executor, None).latents
        changes = {"engines": {name: self.engine(name, frames) for name in names}, "latents": latents} | changes
        return make_denoiser(length, frames, overlap, steps, guidance, **changes)

    def close(self) -> None:
        for engine in self.engines.values():
            engine.close()
        self.executor.close()


def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    for module in fake_tensorrt(monkeypatch):
        made = Gpu(module, fake_kernels.install(monkeypatch, module.cuda))
        yield made
        made.close()
        assert module.cuda.machine.violations == []


def values(denoiser: Denoiser, window_order: str = "wavefront") -> np.ndarray:
    """Latents (length, c, h, w), brought to the host when all are done: what was handed out does not change."""
    latents: dict[int, Any] = dict(denoiser.run(window_order))
    assert list(latents) == list(range(denoiser.length))
    arrays = [latent if isinstance(latent, np.ndarray) else latent.numpy() for latent in latents.values()]
    return np.concatenate(arrays)


EXPECTED = values(make_denoiser(*VIDEO))
