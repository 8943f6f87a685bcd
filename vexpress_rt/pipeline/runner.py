"""The stages of a video, wired one to the next: what was asked for -> latents -> frames; nothing numeric."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from vexpress_rt.backends.base import Tensor
from vexpress_rt.backends.engines import Engines
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.config import WINDOW_ORDERS, Settings
from vexpress_rt.diffusion.context_windows import plan_windows
from vexpress_rt.diffusion.denoiser import Denoiser, choose_sampler
from vexpress_rt.diffusion.guidance import Guidance
from vexpress_rt.diffusion.noise import choose_noise, frame_noise
from vexpress_rt.face.keypoint_map import draw_keypoint_map
from vexpress_rt.live.window_denoiser import WindowDenoiser
from vexpress_rt.media.recording import Recording
from vexpress_rt.pipeline import placement
from vexpress_rt.pipeline.frame_stream import ProgressReporter
from vexpress_rt.pipeline.placement import DeviceOperations
from vexpress_rt.stages.audio_encoder import AudioFeatureStream
from vexpress_rt.stages.conditioning import WindowConditions
from vexpress_rt.stages.frame_decoder import make_frames
from vexpress_rt.types import Float32, Portrait, UInt8
from vexpress_rt.utils.memory_budget import Need
from vexpress_rt.utils.stopwatch import Stopwatch

Progress = Callable[[str, int, int], None]

_BOOKKEEPING = 400  # bytes per frame: keypoints during fitting and retargeting, windows, coverage counts


@dataclass(frozen=True)
class RunContext:
    """How a video is to be made, from before its inputs are read until its last frame.

    settings: see there.  window_order: of `context_windows.walk`.
    watch: is told the seconds of each stage.  tell: how far each stage has come.
    """

    settings: Settings
    window_order: str
    watch: Stopwatch
    tell: ProgressReporter

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage that is done in one piece."""
        with self.watch.stage(name):
            yield
        self.tell(name, 1, 1)


@dataclass(frozen=True)
class PipelineInputs:
    """Who says what, and how the face moves meanwhile: the inputs of a video, read and checked.

    points: (L, 3, 2) float32, where the face is in each frame, in pixels of the bundle's picture.
    noise: the initial latent (c, h, w) float32 of a frame.
    """

    portrait: Portrait
    recording: Recording
    points: Float32
    noise: Callable[[int], Float32]

    @property
    def length(self) -> int:
        """Frames of the video."""
        return len(self.points)


class Runner:
    """The stages with the engines of a bundle. It holds nothing of a video, so that it serves any number at once."""

    def __init__(self, bundle: Bundle, engines: Engines) -> None:
        self._manifest, self._specs = bundle.manifest, bundle.specs
        self._engines = engines
        self._lock = threading.Lock()
        self._placement: DeviceOperations | None = None

    def close(self) -> None:
        """Drop what refers to the engines' executor. The engines are closed by their owner."""
        with self._lock:
            self._placement = None

    def describe_latents(self) -> str:
        """Return where latents are between engines, for people."""
        return placement.describe(on_gpu=self._engines.provider.on_gpu)

    def _place(self) -> DeviceOperations:
        """Return where latents and frames are between engines. Raises BackendError after the engines were closed."""
        executor = self._engines.executor()
        with self._lock:
            if self._placement is None:
                self._placement = placement.choose(executor, self._engines.threads)
            return self._placement

    def check(self, settings: Settings) -> None:
        """Check the choices, and that the bundle holds what every video needs; loads nothing."""
        choose_sampler(settings, self._manifest.model)
        self._engines.bundle.require(_needed(settings))

    def load(self, settings: Settings) -> None:
        """Load what every video needs."""
        for name in _needed(settings):
            self._engines.get(name)

    def noise(self, choice: str | Float32 | None, settings: Settings, length: int) -> Callable[[int], Float32]:
        """The initial latent of a frame, for a video of `length` frames; choice: see `choose_noise`."""
        denoised = max(length, self._manifest.shape.frames)
        shape, layers = self._latent_shape(), self._manifest.model.audio_layers
        return choose_noise(choice, settings.seed, length, denoised, shape, layers)

    def memory_needs(
        self, settings: Settings, window_order: str, noise: object, length: int, *, keep: bool
    ) -> list[Need]:
        """Return the host memory that grows with the length of a video.

        Data between engines counts only on the CPU; on a GPU it lies in the GPU's memory.

        Args:
            settings: The resolved options.
            window_order: As in `Generator.stream`.
            noise: As in `Generator.stream`.
            length: Frames of the video.
            keep: Whether all frames are kept.
        """
        shape, model = self._manifest.shape, self._manifest.model
        latent = 4 * math.prod(self._latent_shape())
        frames = shape.height * shape.width * 3 * length if keep else 0
        needs = [
            Need(frames, "the frames", "write them to a file with output=, take them one by one from stream(), or "
                 "choose a lower fps or a shorter recording"),
            Need(latent * length if isinstance(noise, str) else 0, "the noise", "leave out noise='upstream': the "
                 "default noise is generated frame by frame"),
            Need(_BOOKKEEPING * length, "keypoints and windows", "choose a lower fps, or cut the "
                 "recording into parts"),
        ]  # fmt: skip
        if not self._engines.provider.on_gpu:
            windows = _in_flight(length, shape.frames, settings, window_order)
            slots = min(length, windows * (shape.frames - settings.overlap)) + shape.frames
            kept = (choose_sampler(settings, model).state_size + 1) * latent * slots
            outputs = [one for name in ("audio_projection", "pose_guider") for one in self._specs[name].outputs]
            inputs = sum(math.prod(size or 0 for size in one.shape) * _itemsize(one.dtype) for one in outputs)
            reused = latent * shape.frames if settings.uncond_interval > 1 else 0
            remedy = "take fewer steps" if window_order == WINDOW_ORDERS[0] else (
                "use window_order='wavefront': its frames are the same, and its memory does not grow with the speech"
            )  # fmt: skip
            needs.append(
                Need(kept + windows * (inputs + reused), f"latents and conditions of {windows} windows", remedy)
            )
        return needs

    def live_memory_needs(self, window: int, kept: int) -> list[Need]:
        """Return the memory of a live session.

        Args:
            window: Frames of a window.
            kept: Frames that can be taken back.
        """
        latent = 4 * math.prod(self._latent_shape())
        return [
            Need(latent * (kept + 3 * window), f"the latents of {kept} frames", "choose less context, or a lower fps")
        ]

    def _latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of a frame's latent."""
        model, shape = self._manifest.model, self._manifest.shape
        return model.latent_channels, shape.height // model.vae_factor, shape.width // model.vae_factor

    def frames(self, task: RunContext, scene: PipelineInputs, *, rgb: bool = True) -> Generator[UInt8, None, None]:
        """The frames of a video in order, each as soon as it is final; rgb: see `make_frames`.

        Nothing is computed before the first is asked for, and everything is freed when the generator is closed.
        """
        latents = task.watch.each("denoise", self._latents(task, scene))
        path, filtered = self._place().frames, task.settings.median_filter
        frames = make_frames(self._engines.get("vae_decoder"), latents, path, task.watch, filtered=filtered, rgb=rgb)
        with closing(latents), closing(frames):  # a failure leaves no memory taken
            for done, frame in enumerate(frames, start=1):
                task.tell("frames", done, scene.length)
                yield frame

    def live(self, settings: Settings, portrait: Portrait, place: Callable[[int], Float32]) -> WindowDenoiser:
        """The stages of a live session; place: the points (3, 2) of the face in a frame, from 0 on."""
        model, size = self._manifest.model, (self._manifest.shape.height, self._manifest.shape.width)
        shape, operations = self._latent_shape(), self._place()
        return WindowDenoiser(
            engine=self._engines.get,
            guidance=Guidance.from_settings(settings),
            sampler=choose_sampler(settings, model),
            reference=portrait.reference,
            noise=lambda frame: frame_noise(
                settings.seed, frame % 2**64, shape
            ),  # frames before the first: 2^64 - 1 and down
            keypoint_map=lambda frame: draw_keypoint_map(place(max(0, frame)), *size),
            audio_rows=model.audio_rows,
            minimum_samples=model.audio_minimum_samples,
            postprocessing=operations.frames,
            median_filter=settings.median_filter,
            latents=operations.latents,
        )

    def _latents(self, task: RunContext, scene: PipelineInputs) -> Iterator[tuple[int, Tensor]]:
        def rows(start: int, stop: int) -> Float32:
            with task.watch.stage("audio"):
                return hearing.rows(start, stop)

        with closing(self._hearing(task, scene)) as hearing:
            yield from self._denoiser(task, scene, rows).run(task.window_order)

    def _hearing(self, task: RunContext, scene: PipelineInputs) -> AudioFeatureStream:
        return AudioFeatureStream(
            scene.recording,
            self._manifest.model,
            self._engines.get("audio_encoder"),
            scene.length,
            lambda done, total: task.tell("audio", done, total),
            gated=task.settings.noise_gate,
        )

    def _denoiser(self, task: RunContext, scene: PipelineInputs, rows: Callable[[int, int], Float32]) -> Denoiser:
        manifest, length, guidance = self._manifest, scene.length, Guidance.from_settings(task.settings)
        return Denoiser(
            engines={name: self._engines.get(name) for name in guidance.engines(task.settings.steps)},
            static=scene.portrait.reference,
            guidance=guidance,
            sampler=choose_sampler(task.settings, manifest.model),
            windows=plan_windows(length, manifest.shape.frames, task.settings.overlap),
            length=length,
            noise=scene.noise,
            conditions=WindowConditions(
                projection=self._engines.get("audio_projection"),
                guider=self._engines.get("pose_guider"),
                length=length,
                rows=rows,
                draw=lambda frame: draw_keypoint_map(scene.points[frame], manifest.shape.height, manifest.shape.width),
            ),
            progress=lambda done, total: task.tell("denoise", done, total),
            latents=self._place().latents,
        )


def _needed(settings: Settings) -> tuple[str, ...]:
    """The engines that every video of these settings runs."""
    denoisers = Guidance.from_settings(settings).engines(settings.steps)
    return ("audio_encoder", "audio_projection", "pose_guider", *denoisers, "vae_decoder")


def _in_flight(length: int, frames: int, settings: Settings, window_order: str) -> int:
    """Return the largest number of windows in flight: see `windows.walk`."""
    new = frames - settings.overlap
    windows = 1 + math.ceil(max(0, length - frames) / new)
    if window_order != WINDOW_ORDERS[0]:
        return windows
    return min(windows, (math.ceil(frames / new) - 1) * (settings.steps - 1) + 2)


def _itemsize(dtype: str) -> int:
    return 4 if dtype == "float32" else 2
