"""Make whole videos with PyTorch modules: the stages of `Generator`, with latents on the GPU throughout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.scene import RATE, Scene
from benchmarks.gpu.torch_engines import TorchEngines
from vexpress_rt.config import Settings
from vexpress_rt.diffusion.context_windows import Window, coverage, plan_windows
from vexpress_rt.diffusion.denoiser import choose_sampler
from vexpress_rt.diffusion.guidance import Guidance
from vexpress_rt.diffusion.noise import choose_noise
from vexpress_rt.face.keypoint_map import draw_keypoint_map
from vexpress_rt.media.recording import Recording, open_recording
from vexpress_rt.media.video_writer import VideoWriter
from vexpress_rt.native import median_filter
from vexpress_rt.stages.audio_features import feature_windows, normalize
from vexpress_rt.stages.conditioning import WindowConditions, encode_audio, encode_portrait
from vexpress_rt.stages.spatial import SpatialFeatures, SpatialSignal
from vexpress_rt.types import Float32, UInt8, Video
from vexpress_rt.utils.stopwatch import Stopwatch

ConditionsOf = Callable[[Window], Mapping[str, Any]]


class TorchVideo:
    """A maker of videos.

    Args:
        engines: Engines to run.
        synchronize: Waits for the device at the end of each timed stage.
    """

    def __init__(self, engines: TorchEngines, synchronize: Callable[[], None]) -> None:
        self._engines, self._synchronize = engines, synchronize

    def make(self, scene: Scene, steps: int, output: Path | None = None, config: Settings | None = None) -> Video:
        """Make the video that `scene.make_video` makes.

        Args:
            scene: Photo, speech and keypoints.
            steps: Denoising steps.
            output: File to write; None keeps the frames.
            config: Settings instead of the published ones with `steps` steps.
        """
        watch, config = Stopwatch(), config or scene.config(steps)
        recording = open_recording((scene.speech, RATE), self._engines.model.sample_rate)
        length = recording.frame_count(config.rate)
        with watch.stage("portrait"):
            reference = self._portrait(scene)
            self._synchronize()
        with watch.stage("audio"):
            conditions = self._conditions(scene, recording, length)
        with watch.stage("denoise"):
            latents = self.denoise(config, reference, conditions, length)
            self._synchronize()
        with watch.stage("decode"):
            decoded = self._decode(latents)
        with watch.stage("median"):
            frames = self._filter(decoded, config)
        if output is not None:
            with watch.stage("encode"):
                _write(output, frames, recording, config)
        return Video(
            frames=frames if output is None else None,
            fps=config.rate,
            length=length,
            keypoints=scene.keypoints,
            path=output,
            timings=watch.finish(),
        )

    def _portrait(self, scene: Scene) -> Mapping[str, Any]:
        return encode_portrait(self._engines.get("vae_encoder"), self._engines.get("reference_net"), scene.photo)

    def _hear(self, recording: Recording) -> Float32:
        model = self._engines.model
        samples = recording.read()
        samples = normalize(samples) if model.audio_normalize else samples
        return encode_audio(self._engines.get("audio_encoder"), samples, model.audio_minimum_samples)

    def _conditions(self, scene: Scene, recording: Recording, length: int) -> ConditionsOf:
        """Return the conditions of the denoiser by window."""
        model, shape, features = self._engines.model, self._engines.shape, self._hear(recording)
        return WindowConditions(
            audio_projection=self._engines.get("audio_projection"),
            spatial=SpatialFeatures(
                self._engines.get,
                [
                    SpatialSignal(
                        "keypoints",
                        1.0,
                        lambda frame: draw_keypoint_map(scene.keypoints[frame], shape.height, shape.width),
                    )
                ],
                self._engines.get("pose_guider").spec.outputs[0],
            ),
            length=length,
            feature_windows=lambda start, stop: feature_windows(features, length, model.audio_rows, start, stop),
        )

    def _decode(self, latents: torch.Tensor) -> UInt8:
        """Decode latents (L, c, h, w) to frames (L, H, W, 3)."""
        decoder = self._engines.get("vae_decoder")
        return np.stack([decoder.run({"latent": latent[None]})["frame"] for latent in latents])

    def _filter(self, frames: UInt8, config: Settings) -> UInt8:
        return median_filter(frames) if config.median_filter else frames

    def denoise(
        self, config: Settings, reference: Mapping[str, Any], conditions: ConditionsOf, length: int
    ) -> torch.Tensor:
        """Return latents (length, c, h, w) float32 on the device, denoised step by step over all windows."""
        model, shape, device = self._engines.model, self._engines.shape, self._engines.device
        guidance = Guidance.from_settings(config)
        (name,) = guidance.engines(config.steps)  # one: the published pipeline guides all steps or none
        engine = self._engines.get(name)
        windows = plan_windows(length, shape.frames, config.overlap)
        count = max(length, shape.frames)
        sampler = choose_sampler(config, model)
        latent_shape = (model.latent_channels, shape.height // model.vae_factor, shape.width // model.vae_factor)
        noise = choose_noise(None, config.seed, length, count, latent_shape, model.audio_layers)
        latents = torch.from_numpy(np.stack([noise(frame) for frame in range(count)])).to(device)
        covering = torch.from_numpy(coverage(windows, count).astype(np.float32)).to(device)[:, None, None, None]
        fixed = {window: {**reference, **guidance.inputs(), **conditions(window)} for window in windows}
        for timestep, ((a, b),) in zip(sampler.timesteps, sampler.coefficients, strict=True):
            total = torch.zeros_like(latents)
            for window in windows:
                place = _frames(window)
                outputs = engine.run(
                    {**fixed[window], "latents": latents[place], "timestep": np.array([timestep], np.float32)},
                    keep_on_device=True,
                )
                total[place] += _guided(outputs, guidance.scale)
            latents = a * latents + b * (total / covering)
        return latents[:length]


def _write(path: Path, frames: UInt8, recording: Recording, config: Settings) -> None:
    with VideoWriter(path, frames.shape[1:3], config.rate, recording, config.quality) as writer:
        for frame in frames:
            writer.write(frame)


def _frames(window: Window) -> slice:
    return slice(window.start, window.stop)


def _guided(outputs: Mapping[str, torch.Tensor], scale: float) -> torch.Tensor:
    """Return the guided prediction u + scale (c - u), (F, c, h, w); without an unconditional one, the conditional."""
    conditional = outputs["conditional"]
    if "unconditional" not in outputs:
        return conditional
    return outputs["unconditional"] + scale * (conditional - outputs["unconditional"])
