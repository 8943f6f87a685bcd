"""The runner: it connects the stages of a video, inputs -> latents -> frames, and computes nothing itself."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial

from vexpress_rt.backends.base import Tensor
from vexpress_rt.backends.loaded_engines import Engines
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import GUIDERS
from vexpress_rt.config import WAVEFRONT, Settings
from vexpress_rt.diffusion.context_windows import plan_windows
from vexpress_rt.diffusion.denoiser import Denoiser, choose_sampler
from vexpress_rt.diffusion.guidance import Guidance
from vexpress_rt.diffusion.noise import choose_noise, frame_noise
from vexpress_rt.face.keypoint_map import draw_keypoint_map
from vexpress_rt.live.window_denoiser import WindowDenoiser
from vexpress_rt.media.recording import Recording
from vexpress_rt.pipeline.device_operations import DeviceOperations, choose_device_operations, describe_latents
from vexpress_rt.pipeline.frame_stream import WorkControl
from vexpress_rt.stages.audio_encoder import AudioFeatureStream
from vexpress_rt.stages.conditioning import WindowConditions
from vexpress_rt.stages.depth import DepthTrack
from vexpress_rt.stages.frame_decoder import make_frames
from vexpress_rt.stages.spatial import POSE_FEATURE, SpatialFeatures, SpatialSignal
from vexpress_rt.types import Float32, Portrait, UInt8
from vexpress_rt.utils.memory_budget import Need
from vexpress_rt.utils.stopwatch import Stopwatch

FRAMES_REMEDY = (
    "write them to a file with output=, take them one by one from stream(), or choose a lower fps or a shorter "
    "recording"
)
_BOOKKEEPING = 400  # bytes per frame: keypoints during fitting and retargeting, windows, coverage counts


@dataclass(frozen=True)
class RunContext:
    """The settings, timings and progress of one video, from reading its inputs to its last frame.

    Attributes:
        settings: The resolved options.
        window_order: As in `Generator.stream`.
        stopwatch: Measures the seconds of each stage.
        control: Reports the progress of each stage to the caller, and ends the work when the caller cancels it.
    """

    settings: Settings
    window_order: str
    stopwatch: Stopwatch
    control: WorkControl

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage that has one step, and report it when it is done.

        Args:
            name: Name of the stage.
        """
        with self.stopwatch.stage(name):
            yield
        self.control.report(name, 1, 1)


@dataclass(frozen=True)
class PipelineInputs:
    """The inputs of a video, read and checked.

    Attributes:
        portrait: The encoded photo.
        recording: The speech.
        length: Frames of the video, L.
        points: (L, 3, 2) float32, the keypoints of the face in each frame, in pixels of the bundle's picture; None
            for a video without keypoints.
        depth: The depth in each frame; None for a video without depth.
        noise: Returns the initial latent of a frame, (c, h, w) float32.
    """

    portrait: Portrait
    recording: Recording
    length: int
    points: Float32 | None
    depth: DepthTrack | None
    noise: Callable[[int], Float32]


class Runner:
    """Runs the stages with the engines of a bundle. It holds no state of a video, so it can run several at once."""

    def __init__(self, bundle: Bundle, engines: Engines) -> None:
        self._manifest, self._specs = bundle.manifest, bundle.specs
        self._engines = engines
        self._lock = threading.Lock()
        self._operations: DeviceOperations | None = None

    def close(self) -> None:
        """Drop references to the engines' executor. The owner of the engines closes them."""
        with self._lock:
            self._operations = None

    def describe_latents(self) -> str:
        """Return where latents are between engines, for `Generator.describe`."""
        return describe_latents(on_gpu=self._engines.provider.on_gpu)

    def _device_operations(self) -> DeviceOperations:
        """Return the operations between engines. Raises BackendError after the engines were closed."""
        executor = self._engines.executor()
        with self._lock:
            if self._operations is None:
                self._operations = choose_device_operations(executor, self._engines.threads)
            return self._operations

    def check(self, settings: Settings, signals: Iterable[str]) -> None:
        """Check the sampler, and that the bundle has the engines for these settings, without loading any.

        Args:
            settings: The resolved options.
            signals: The spatial signals, some of `engine_spec.GUIDERS`.

        Raises:
            ConfigError: The sampler does not fit the settings.
            BundleNotFoundError: The bundle lacks an engine.
        """
        choose_sampler(settings, self._manifest.model)
        self._engines.bundle.require(required_engines(settings, signals))

    def noise(self, choice: str | Float32 | None, settings: Settings, length: int) -> Callable[[int], Float32]:
        """Return a function from a frame to its initial latent.

        Args:
            choice: The noise, as in `Generator.stream`.
            settings: The resolved options.
            length: Frames of the video.
        """
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
            keep: Whether all frames are kept in memory.
        """
        shape, model = self._manifest.shape, self._manifest.model
        latent = 4 * math.prod(self._latent_shape())
        frames = shape.height * shape.width * 3 * length if keep else 0
        needs = [
            Need(frames, "the frames", FRAMES_REMEDY),
            Need(latent * length if isinstance(noise, str) else 0, "the noise", "leave out noise='upstream': the "
                 "default noise is generated frame by frame"),
            Need(_BOOKKEEPING * length, "keypoints and windows", "choose a lower fps, or cut the "
                 "recording into parts"),
        ]  # fmt: skip
        if not self._engines.provider.on_gpu:
            windows = _most_in_flight(length, shape.frames, settings, window_order)
            slots = min(length, windows * (shape.frames - settings.overlap)) + shape.frames
            kept = (choose_sampler(settings, model).state_size + 1) * latent * slots
            inputs = [one for one in self._specs["denoiser"].inputs if one.name in ("audio_tokens", POSE_FEATURE)]
            conditions = sum(math.prod(size or 0 for size in one.shape) * _itemsize(one.dtype) for one in inputs)
            reused = latent * shape.frames if settings.uncond_interval > 1 else 0
            remedy = "take fewer steps" if window_order == WAVEFRONT else (
                "use window_order='wavefront': its frames are the same, and its memory does not grow with the speech"
            )  # fmt: skip
            needs.append(
                Need(kept + windows * (conditions + reused), f"latents and conditions of {windows} windows", remedy)
            )
        return needs

    def live_memory_needs(self, window: int, kept: int) -> list[Need]:
        """Return the memory of a live session.

        Args:
            window: Frames of a window.
            kept: Pulled frames that can be taken back.
        """
        latent = 4 * math.prod(self._latent_shape())
        return [
            Need(latent * (kept + 3 * window), f"the latents of {kept} frames", "choose less context, or a lower fps")
        ]

    def _latent_shape(self) -> tuple[int, int, int]:
        """Return (c, h, w), the shape of a frame's latent."""
        model, shape = self._manifest.model, self._manifest.shape
        return model.latent_channels, shape.height // model.vae_factor, shape.width // model.vae_factor

    def frames(self, context: RunContext, inputs: PipelineInputs, *, rgb: bool = True) -> Generator[UInt8, None, None]:
        """Yield the frames of a video in order, each as soon as it is final.

        Nothing is computed before the first frame is requested. Closing the generator frees everything.

        Args:
            context: The settings, timings and progress of the video.
            inputs: The inputs of the video.
            rgb: Whether frames are (H, W, 3) RGB, or may be NV12: see `make_frames`.
        """
        latents = context.stopwatch.each("denoise", self._latents(context, inputs))
        frames = make_frames(
            self._engines.get("vae_decoder"), latents, self._device_operations().frames, context.stopwatch,
            median_filter=context.settings.median_filter, rgb=rgb,
        )  # fmt: skip
        with closing(latents), closing(frames):  # also after a failure
            for done, frame in enumerate(frames, start=1):
                context.control.report("frames", done, inputs.length)
                yield frame

    def live(
        self, settings: Settings, portrait: Portrait, keypoints_at: Callable[[int], Float32] | None,
        depth: DepthTrack | None,
    ) -> WindowDenoiser:  # fmt: skip
        """Return the denoiser of a live session.

        Args:
            settings: The resolved options.
            portrait: The encoded photo.
            keypoints_at: Maps a frame, from 0, to the face's keypoints (3, 2); None for a session without keypoints.
            depth: The depth in each frame; None for a session without depth.
        """
        model, shape, operations = self._manifest.model, self._latent_shape(), self._device_operations()
        return WindowDenoiser(
            get_engine=self._engines.get,
            guidance=Guidance.from_settings(settings),
            sampler=choose_sampler(settings, model),
            reference=portrait.reference,
            # Frames before the first have negative numbers, which wrap around to 2**64 - 1 and down.
            noise=lambda frame: frame_noise(settings.seed, frame % 2**64, shape),
            spatial=self._spatial(settings, keypoints_at, depth),
            audio_rows=model.audio_rows,
            minimum_samples=model.audio_minimum_samples,
            postprocessing=operations.frames,
            median_filter=settings.median_filter,
            latents=operations.latents,
        )

    def _latents(self, context: RunContext, inputs: PipelineInputs) -> Iterator[tuple[int, Tensor]]:
        def feature_windows(start: int, stop: int) -> Float32:
            with context.stopwatch.stage("audio"):
                return features.windows(start, stop)

        with closing(self._audio_features(context, inputs)) as features:
            yield from self._denoiser(context, inputs, feature_windows).run(context.window_order)

    def _audio_features(self, context: RunContext, inputs: PipelineInputs) -> AudioFeatureStream:
        return AudioFeatureStream(
            inputs.recording,
            self._manifest.model,
            self._engines.get("audio_encoder"),
            inputs.length,
            partial(context.control.report, "audio"),
            gated=context.settings.noise_gate,
        )

    def _spatial(
        self, settings: Settings, keypoints_at: Callable[[int], Float32] | None, depth: DepthTrack | None
    ) -> SpatialFeatures:
        """Return the pose features of a video's signals; the frames before a live session show its first one."""
        height, width = self._manifest.shape.height, self._manifest.shape.width
        signals = []
        if keypoints_at is not None:
            points = keypoints_at
            draw = lambda frame: draw_keypoint_map(points(max(0, frame)), height, width)  # noqa: E731
            signals.append(SpatialSignal("keypoints", settings.pose_weight, draw))
        if depth is not None:
            track = depth
            signals.append(SpatialSignal("depth", settings.depth_weight, lambda frame: track.picture(max(0, frame))))
        (spec,) = (tensor for tensor in self._specs["denoiser"].inputs if tensor.name == POSE_FEATURE)
        return SpatialFeatures(self._engines.get, signals, spec, self._device_operations().features)

    def _denoiser(
        self, context: RunContext, inputs: PipelineInputs, feature_windows: Callable[[int, int], Float32]
    ) -> Denoiser:
        manifest, length, guidance = self._manifest, inputs.length, Guidance.from_settings(context.settings)
        return Denoiser(
            engines={name: self._engines.get(name) for name in guidance.engines(context.settings.steps)},
            static=inputs.portrait.reference,
            guidance=guidance,
            sampler=choose_sampler(context.settings, manifest.model),
            windows=plan_windows(length, manifest.shape.frames, context.settings.overlap),
            length=length,
            noise=inputs.noise,
            conditions=WindowConditions(
                audio_projection=self._engines.get("audio_projection"),
                spatial=self._spatial(
                    context.settings, None if inputs.points is None else inputs.points.__getitem__, inputs.depth
                ),
                length=length,
                feature_windows=feature_windows,
            ),
            progress=partial(context.control.report, "denoise"),
            latents=self._device_operations().latents,
        )


def required_engines(settings: Settings, signals: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the engines that a video or a live session runs, in addition to those of its photo.

    Args:
        settings: The resolved options.
        signals: The spatial signals, some of `engine_spec.GUIDERS`.
    """
    denoisers = Guidance.from_settings(settings).engines(settings.steps)
    guiders = [GUIDERS[signal] for signal in signals]
    return ("audio_encoder", "audio_projection", *guiders, *denoisers, "vae_decoder")


def _most_in_flight(length: int, frames: int, settings: Settings, window_order: str) -> int:
    """Return the largest number of windows in flight: see `context_windows.walk`."""
    new = frames - settings.overlap
    windows = 1 + math.ceil(max(0, length - frames) / new)
    if window_order != WAVEFRONT:
        return windows
    return min(windows, (math.ceil(frames / new) - 1) * (settings.steps - 1) + 2)


def _itemsize(dtype: str) -> int:
    return 4 if dtype == "float32" else 2
