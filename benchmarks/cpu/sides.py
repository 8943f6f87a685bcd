"""One model on both sides: in the runtime, and as PyTorch modules in upstream's order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cpu.pipeline import FEATURE, UpstreamEngines, UpstreamVideo
from benchmarks.gpu.scene import Scene, make_video
from benchmarks.gpu.timings import timed_inputs
from export.checkpoint.reader import Checkpoint
from vexpress_rt.backends.base import Array
from vexpress_rt.backends.loaded_engines import Engines
from vexpress_rt.backends.registry import choose
from vexpress_rt.bundle.engine_spec import site_tokens
from vexpress_rt.config import GenerationConfig, Settings
from vexpress_rt.diffusion.context_windows import plan_windows
from vexpress_rt.diffusion.denoiser import Denoiser, choose_sampler
from vexpress_rt.diffusion.guidance import Guidance
from vexpress_rt.diffusion.noise import frame_noise
from vexpress_rt.pipeline.generator import Generator
from vexpress_rt.types import Video
from vexpress_rt.utils.stopwatch import Stopwatch

Call = Callable[[], Any]


class Sides:
    """A model in the runtime and in PyTorch.

    Args:
        weights: Checkpoint directory.
        bundle: Bundle of the same weights.
        threads: CPU threads of the runtime; the caller sets PyTorch's.
    """

    def __init__(self, weights: Path, bundle: Path, threads: int) -> None:
        self.generator = Generator(bundle, provider="cpu", threads=threads)
        self.manifest = self.generator.bundle.manifest
        self.shape = self.manifest.shape
        self.torch = UpstreamEngines(Checkpoint(weights), self.shape)
        self._engines = Engines(self.generator.bundle, choose("cpu", self.generator.bundle), threads)

    def __enter__(self) -> Sides:
        return self

    def __exit__(self, *error: object) -> None:
        self._engines.close()
        self.generator.close()

    @cached_property
    def video(self) -> UpstreamVideo:
        """The maker of PyTorch's videos."""
        return UpstreamVideo(self.torch)

    def settings(self, **options: Any) -> Settings:
        """Return the settings of the bundle with these options."""
        return self.manifest.settings(GenerationConfig(**options))

    def engine_calls(self, name: str) -> tuple[Call, Call]:
        """Return a call of an engine, and a call of the PyTorch module in its place, with the same inputs."""
        engine, other = self._engines.get(name), self.torch.get(name)
        inputs = timed_inputs(engine)
        given = self._as_upstream(inputs)
        return (lambda: engine.run(inputs)), (lambda: other.run(given, keep_on_device=True))

    def window_step_calls(self) -> tuple[Call, Call]:
        """Return a call for each side that takes one step of one window: both passes, guidance, the sampler's step."""
        engine = self._engines.get("denoiser")
        inputs = timed_inputs(engine)
        settings, frames = self.settings(steps=1, sampler="ddim", overlap=0), self.shape.frames
        window, latent = plan_windows(frames, frames, 0), engine.spec.inputs[0].shape[1:]
        reference, conditions = _split(inputs)
        denoiser = Denoiser(
            engines={"denoiser": engine},
            static=reference,
            guidance=Guidance.from_settings(settings),
            sampler=choose_sampler(settings, self.manifest.model),
            windows=window,
            length=frames,
            noise=lambda frame: frame_noise(0, frame, tuple(size or 0 for size in latent)),
            conditions=lambda window: conditions,
        )
        features, theirs = _split(self._as_upstream(inputs))
        return (
            lambda: list(denoiser.run()),
            lambda: self.video.denoise(settings, features, lambda window: theirs, frames),
        )

    def make(self, scene: Scene, settings: Settings) -> Video:
        """Make the runtime's video from photo and speech; its timings include the portrait."""
        watch = Stopwatch()
        video = make_video(self.generator, scene, settings.steps, config=settings)
        total = watch.finish()["total"]
        portrait = video.timings.get("portrait", 0.0) + total - video.timings["total"]
        return replace(video, timings={**video.timings, "portrait": portrait, "total": total})

    def make_in_torch(self, scene: Scene, settings: Settings) -> Video:
        """Make the same video in PyTorch."""
        return self.video.make(scene, settings.steps, config=settings)

    def _as_upstream(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """Return an engine's inputs with ReferenceNet's features (1, S, C) in place of keys and values."""
        rng = np.random.default_rng(1)
        given: dict[str, Any] = {n: a for n, a in inputs.items() if not n.startswith("reference_") or "weight" in n}
        if len(given) == len(inputs):
            return given
        cell = self.manifest.model.vae_factor
        for site in self.manifest.model.attention_sites():
            tokens = site_tokens(self.shape.height // cell, self.shape.width // cell, site)
            feature = rng.standard_normal((1, tokens, site.channels)).astype(np.float32)
            given[FEATURE + site.name] = torch.from_numpy(feature)
        return given


def _split(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the inputs of a denoiser that depend on the photo, and those that depend on the window."""
    windows = ("pose_feature", "audio_tokens")
    photo = {n: a for n, a in inputs.items() if n.startswith((FEATURE, "reference_key", "reference_value"))}
    return photo, {name: inputs[name] for name in windows}
