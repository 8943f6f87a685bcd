"""One model on all sides: in the runtime with several providers, and as PyTorch modules in upstream's order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cpu.pipeline import FEATURE, UpstreamEngines, UpstreamVideo, autocast, kept_casts
from benchmarks.cpu.runtimes import AUTOCAST, CPU, PYTORCH, RUNTIMES, described_precision, has_bf16, open_generators
from benchmarks.gpu.scene import Scene, make_video
from benchmarks.gpu.timings import timed_inputs
from export.checkpoint.reader import Checkpoint
from export.networks.denoising_unet import DenoisingUNet, reference_keys_values
from vexpress_rt.backends.base import Array, Engine
from vexpress_rt.backends.loaded_engines import Engines
from vexpress_rt.backends.registry import choose
from vexpress_rt.bundle.engine_spec import site_tokens
from vexpress_rt.config import GenerationConfig, Settings
from vexpress_rt.diffusion.context_windows import plan_windows
from vexpress_rt.diffusion.denoiser import Denoiser, choose_sampler
from vexpress_rt.diffusion.guidance import Guidance
from vexpress_rt.diffusion.noise import frame_noise
from vexpress_rt.types import Video
from vexpress_rt.utils.cpu_model import cpu_model
from vexpress_rt.utils.stopwatch import Stopwatch

Call = Callable[[], Any]


class Sides:
    """A model in the runtime and in PyTorch.

    Args:
        weights: Checkpoint directory.
        bundle: Bundle of the same weights.
        threads: CPU threads of the runtime; the caller sets PyTorch's.
        runtimes: Names in `runtimes.RUNTIMES`.

    Attributes:
        missing: Reasons of the sides that this machine cannot run, by name.
    """

    def __init__(self, weights: Path, bundle: Path, threads: int, runtimes: Sequence[str] = tuple(RUNTIMES)) -> None:
        self._threads, self._stack = threads, ExitStack()
        self._generators, self.missing = open_generators(bundle, runtimes, threads, self._stack)
        if not has_bf16(cpu_model()):
            self.missing[AUTOCAST] = "the CPU has no bfloat16 arithmetic (flags avx512_bf16, amx_bf16)"
        self.manifest = self._generators[CPU].bundle.manifest
        self.shape = self.manifest.shape
        self.torch = UpstreamEngines(Checkpoint(weights), self.shape)

    def __enter__(self) -> Sides:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def names(self) -> list[str]:
        """Names of the sides that this machine can run; the first is the baseline, PyTorch in float32."""
        return [name for name in (PYTORCH, AUTOCAST, *self._generators) if name not in self.missing]

    @cached_property
    def video(self) -> UpstreamVideo:
        """The maker of PyTorch's videos."""
        return UpstreamVideo(self.torch)

    def settings(self, **options: Any) -> Settings:
        """Return the settings of the bundle with these options."""
        return self.manifest.settings(GenerationConfig(**options))

    def precision(self, name: str) -> str:
        """Return the precision that a side says it has, which a failed self-test changes; empty for PyTorch.

        Of `window_step_calls` it is that of the engines that they call, otherwise that of the videos.
        """
        if name not in self._generators:
            return ""
        if "_engines" in self.__dict__:
            return self._engines[name].selection.loader.describe_precision() or self.manifest.precision
        return described_precision(self._generators[name])

    def engine_calls(self, name: str) -> tuple[Call, Call]:
        """Return a call of an engine of provider `cpu`, and of the PyTorch module in its place, with the same inputs.

        ReferenceNet's features stand in for keys and values in PyTorch.
        """
        engine, other = self._engine(CPU, name), self.torch.get(name)
        inputs = timed_inputs(engine)
        given = self._as_upstream(inputs)
        return (lambda: engine.run(inputs)), (lambda: other.run(given, keep_on_device=True))

    def window_step_calls(self) -> dict[str, Call]:
        """Return a call for each side that takes one step of one window: both passes, guidance, the sampler's step.

        Each returns the latents (F, c, h, w) after the step; those of all sides are equal up to rounding. Autocast
        keeps its bfloat16 copies of the weights between two calls, as it does between the steps of a video.
        """
        inputs = timed_inputs(self._engine(CPU, "denoiser"))
        settings, frames = self.settings(steps=1, sampler="ddim", overlap=0), self.shape.frames
        given = self._as_upstream(inputs)
        features, conditions = _split(given)
        own, _ = _split({**inputs, **self._projected(features)})

        def in_torch() -> Any:
            return self.video.denoise(settings, features, lambda window: conditions, frames)

        def cast() -> Any:
            with autocast():
                return in_torch()

        self._stack.enter_context(kept_casts())
        calls = {PYTORCH: in_torch, AUTOCAST: cast}
        calls |= {name: self._window_step(name, settings, own, conditions) for name in self._generators}
        return {name: calls[name] for name in self.names}

    def make(self, name: str, scene: Scene, settings: Settings) -> Video:
        """Make a side's video from photo and speech; its timings include the portrait."""
        if name == AUTOCAST:
            with autocast():
                return self.video.make(scene, settings.steps, config=settings)
        if name == PYTORCH:
            return self.video.make(scene, settings.steps, config=settings)
        watch = Stopwatch()
        video = make_video(self._generators[name], scene, settings.steps, config=settings)
        total = watch.finish()["total"]
        portrait = video.timings.get("portrait", 0.0) + total - video.timings["total"]
        return replace(video, timings={**video.timings, "portrait": portrait, "total": total})

    def _engine(self, runtime: str, name: str) -> Engine:
        return self._engines[runtime].get(name)

    @cached_property
    def _engines(self) -> Mapping[str, Engines]:
        """Engines by runtime, which are loaded at their first use; those of the generators cannot be called alone."""
        found = {}
        for name, generator in self._generators.items():
            selection = choose(RUNTIMES[name].provider, generator.bundle, precision=RUNTIMES[name].precision)
            found[name] = Engines(generator.bundle, selection, self._threads)
            self._stack.callback(found[name].close)
        return found

    def _window_step(
        self, name: str, settings: Settings, reference: Mapping[str, Array], conditions: Mapping[str, Array]
    ) -> Call:
        engine, frames = self._engine(name, "denoiser"), self.shape.frames
        latent = engine.spec.inputs[0].shape[1:]
        denoiser = Denoiser(
            engines={"denoiser": engine},
            static=reference,
            guidance=Guidance.from_settings(settings),
            sampler=choose_sampler(settings, self.manifest.model),
            windows=plan_windows(frames, frames, 0),
            length=frames,
            noise=lambda frame: frame_noise(settings.seed, frame, tuple(size or 0 for size in latent)),
            conditions=lambda window: conditions,
        )
        return lambda: np.concatenate([latents for _, latents in denoiser.run()])

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

    @torch.inference_mode()
    def _projected(self, features: Mapping[str, torch.Tensor]) -> dict[str, Array]:
        """Return the denoiser's keys and values of ReferenceNet's features."""
        unet = self.torch.network("denoising_unet")
        assert isinstance(unet, DenoisingUNet)
        pairs = reference_keys_values(unet, {name.removeprefix(FEATURE): t for name, t in features.items()})
        keys = {f"reference_key/{site}": key.numpy() for site, (key, _) in pairs.items()}
        return keys | {f"reference_value/{site}": value.numpy() for site, (_, value) in pairs.items()}


def signal_to_noise(found: Any, expected: Any) -> float:
    """Return the signal-to-noise ratio in dB: 10 log10(sum of squares of expected / of the difference).

    Args:
        found: An array or a tensor on the CPU, of any shape.
        expected: Another of the same shape.
    """
    one, other = (np.asarray(values, dtype=np.float64) for values in (found, expected))
    noise = float(((one - other) ** 2).sum())
    return math.inf if noise == 0 else 10 * math.log10(float((other**2).sum()) / noise)


def _split(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the inputs of a denoiser that depend on the photo, and those that depend on the window."""
    windows = ("pose_feature", "audio_tokens")
    photo = {n: a for n, a in inputs.items() if n.startswith((FEATURE, "reference_key", "reference_value"))}
    return photo, {name: inputs[name] for name in windows}
