"""Generator: owns the engines of a bundle and wires the stages; nothing numeric happens here."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vexpress_rt import faces, image
from vexpress_rt.audio import frame_rows, load_audio, normalize
from vexpress_rt.backends import Engine
from vexpress_rt.backends import onnxruntime as backend
from vexpress_rt.bundle import Bundle
from vexpress_rt.conditions import WindowConditions, encode_audio, encode_portrait
from vexpress_rt.config import CROP_MODES, GenerationConfig, check_choice
from vexpress_rt.denoise import Denoiser, Guidance
from vexpress_rt.errors import BackendError, ConfigError, InputError
from vexpress_rt.frames import decode, median
from vexpress_rt.keypoints import draw_keypoints, load_portrait_keypoints
from vexpress_rt.motion import KeypointSource, choose_retarget, plan_motion
from vexpress_rt.noise import choose_noise
from vexpress_rt.records import Face, Float32, Portrait, UInt8, Waveform
from vexpress_rt.schedule import alphas_cumprod, ddim
from vexpress_rt.specs import FACE_DETECTOR
from vexpress_rt.timings import Stopwatch
from vexpress_rt.video import VideoWriter, check_output
from vexpress_rt.windows import plan_windows

PROVIDERS = ("auto", "cpu")
ImageSource = str | Path | bytes | UInt8
AudioSource = str | Path | tuple[NDArray[Any], int]
Progress = Callable[[str, int, int], None]

_log = logging.getLogger("vexpress_rt")


@dataclass(frozen=True)
class Video:
    """What `Generator.generate` made.

    frames: (L, H, W, 3) uint8 RGB, or None if they were written to a file and not kept.
    fps: frames a second, exact.  length: number of frames, L.  path: the file, or None.
    timings: seconds by stage, and `total`.  notes: what was decided where the caller left a choice.
    """

    frames: UInt8 | None = field(repr=False)
    fps: Fraction
    length: int
    path: Path | None
    timings: dict[str, float]
    notes: tuple[str, ...] = ()

    @property
    def duration(self) -> float:
        """Seconds."""
        return float(self.length / self.fps)


class Generator:
    """Talking-portrait video from a photo and speech, with the engines of a bundle.

    bundle: folder that `python -m export.build` wrote.  provider: what runs the engines; "auto" takes the best that the
    bundle and this machine have, which is "cpu" for ONNX bundles.  threads: of the CPU; None for one a core.

    Engines are loaded when first needed and freed by `close` or at the end of a `with` block. Calls from several
    threads are allowed; each computes on its own.

    Raises BundleError (BundleNotFoundError, BundleDamagedError, BundleVersionError), ConfigError.
    """

    def __init__(self, bundle: str | Path, *, provider: str = "auto", threads: int | None = None) -> None:
        check_choice("provider", provider, PROVIDERS)
        self.bundle = Bundle.open(Path(bundle))
        self.threads = threads
        self._engines: dict[str, Engine] = {}
        self._lock = threading.Lock()
        self._closed = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the videos, pixels."""
        shape = self.bundle.manifest.shape
        return shape.height, shape.width

    def prepare(self, source: ImageSource, *, keypoints: ArrayLike | None = None, crop: str = "face") -> Portrait:
        """Read a photo and compute everything that depends on it alone; the result serves any number of videos.

        source: a file, its bytes, or (H, W, 3) uint8 RGB.
        keypoints: (3, 2), x then y in pixels of the photo: left eye, right eye, nose. Skips the detector.
        crop: "face" cuts the bundle's aspect around the face; "none" stretches the whole photo, as upstream does.

        Of several faces the largest is taken. Without a face (or a detector in the bundle) the portrait has no
        keypoints and is cut around its centre; it can then be driven with `no_retarget` only.
        Raises ImageError, KeypointError, ConfigError, BackendError.
        """
        check_choice("crop", crop, CROP_MODES)
        picture = image.load_image(source)
        own = self._own_keypoints(picture, keypoints)
        cut = image.face_crop(picture.shape[:2], self.size, own, crop)
        cropped = image.apply_crop(picture, cut)
        reference = encode_portrait(self._engine("vae_encoder"), self._engine("reference_net"), cropped)
        points = None if own is None else cut.to_cropped(own)
        return Portrait(cropped, points, cut, reference, self.bundle.identity, crop)

    def generate(
        self,
        portrait: Portrait | ImageSource,
        audio: AudioSource,
        *,
        keypoints: KeypointSource | None = None,
        retarget: str | None = None,
        config: GenerationConfig | None = None,
        noise: str | Float32 | None = None,
        output: str | Path | None = None,
        keep_frames: bool | None = None,
        progress: Progress | None = None,
    ) -> Video:
        """Generate a video of ceil(duration of the speech x fps) frames.

        portrait: of `prepare`, or what `prepare` takes.
        audio: a sound file (or a video, whose sound is taken), or (mono float32 samples (N,), rate in Hz).
        keypoints: .pth, .npy, .npz or an (L, 3, 2) array in pixels of the bundle's picture, or a driving video.
        retarget: no_retarget, fix_face, offset_retarget or naive_retarget (spec, stage 5); None takes `no_retarget`
            with keypoints and `fix_face` without.
        noise: None for counter-based noise of the seed, "upstream" for the public implementation's, or the initial
            latent itself, (1, c, L, h, w) float32.
        output: .mp4, .mov or .mkv; appears when complete.  keep_frames: None keeps them if no output is named.
        progress: called with stage, done and total; an exception that it raises ends the work and comes out here.

        Raises InputError (ImageError, AudioError, KeypointError, NoFaceError, VideoError), ConfigError, OutputError,
        BundleError, BackendError.
        """
        config = config or GenerationConfig()
        shape = self.bundle.manifest.shape
        config.check_against(shape.frames)
        mode = choose_retarget(retarget, keypoints)
        path = None if output is None else check_output(output)
        watch, tell = Stopwatch(), progress or (lambda stage, done, total: None)
        with watch.stage("load"):
            self._load(config)
        with watch.stage("portrait"):
            portrait = self._portrait(portrait)
        tell("portrait", 1, 1)
        with watch.stage("audio"):
            waveform = load_audio(audio, self.bundle.manifest.model.sample_rate)
            length = waveform.frame_count(config.rate)
            features = self._features(waveform)
        tell("audio", 1, 1)
        with watch.stage("keypoints"):
            motion = plan_motion(keypoints, mode, portrait, length, config, self._find_faces)
        tell("keypoints", 1, 1)
        for note in motion.notes:
            _log.info(note)
        latents = self._latents(portrait, features, motion.points, config, noise, length, tell)
        frames = decode(self._engine("vae_decoder"), watch.each("denoise", latents))
        frames = watch.each("decode", frames)
        if config.median_filter:
            frames = watch.each("median", median(frames, threads=self.threads))
        keep = path is None if keep_frames is None else keep_frames
        kept = self._collect(frames, path, waveform, length, config, keep, watch, tell)
        return Video(kept, config.rate, length, path, watch.finish(), motion.notes)

    def close(self) -> None:
        """Free the engines. The generator cannot be used afterwards; closing twice is allowed."""
        with self._lock:
            self._closed = True
            for engine in self._engines.values():
                engine.close()
            self._engines.clear()

    def __enter__(self) -> Generator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _engine(self, name: str) -> Engine:
        with self._lock:
            if self._closed:
                raise BackendError("this Generator was closed: make a new one")
            if name not in self._engines:
                spec = self.bundle.specs.get(name)
                self._engines[name] = backend.load(self.bundle.engine_path(name), spec, threads=self.threads)
            return self._engines[name]

    def _load(self, config: GenerationConfig) -> None:
        """Load what every video needs, so that a missing engine is named before any work is done."""
        for name in ("audio_encoder", "audio_projection", "pose_guider", Guidance.of(config).engine, "vae_decoder"):
            self._engine(name)

    def _find_faces(self, picture: UInt8) -> list[Face]:
        if not self.bundle.has(FACE_DETECTOR):
            raise ConfigError(
                "this bundle has no face detector, so faces cannot be found in pictures: give keypoints, or put "
                "insightface's det_10g.onnx into the checkpoint directory and build again with --engine face_detector"
            )
        return faces.detect(self._engine(FACE_DETECTOR).run_positional, picture)

    def _own_keypoints(self, picture: UInt8, given: ArrayLike | None) -> Float32 | None:
        if given is not None:
            return load_portrait_keypoints(given)
        if not self.bundle.has(FACE_DETECTOR):
            return None
        found = self._find_faces(picture)
        if not found:
            _log.warning("no face was found in the photo; it is cut around its centre")
            return None
        return faces.largest_face(found).keypoints[:3]

    def _portrait(self, portrait: Portrait | ImageSource) -> Portrait:
        if not isinstance(portrait, Portrait):
            return self.prepare(portrait)
        if portrait.bundle != self.bundle.identity:
            raise InputError(
                f"the portrait was prepared with bundle {portrait.bundle or 'unknown'}, this one is "
                f"{self.bundle.identity}: prepare it again with this generator"
            )
        return portrait

    def _features(self, waveform: Waveform) -> Float32:
        model = self.bundle.manifest.model
        samples = normalize(waveform.samples) if model.audio_normalize else waveform.samples
        return encode_audio(self._engine("audio_encoder"), samples, model.audio_minimum_samples)

    def _latents(
        self, portrait: Portrait, features: Float32, points: Float32, config: GenerationConfig,
        noise: str | Float32 | None, length: int, tell: Progress,
    ) -> Iterator[tuple[int, Float32]]:  # fmt: skip
        model, shape = self.bundle.manifest.model, self.bundle.manifest.shape
        windows = plan_windows(length, shape.frames, config.overlap)
        guidance = Guidance.of(config)
        latent_shape = (model.latent_channels, shape.height // model.vae_factor, shape.width // model.vae_factor)
        denoiser = Denoiser(
            engine=self._engine(guidance.engine),
            static=portrait.reference,
            guidance=guidance,
            sampler=ddim(config.steps, alphas_cumprod(model.train_timesteps, model.beta_start, model.beta_end)),
            windows=windows,
            length=length,
            noise=choose_noise(noise, config.seed, length, windows[-1].stop, latent_shape, model.audio_layers),
            conditions=WindowConditions(
                projection=self._engine("audio_projection"),
                guider=self._engine("pose_guider"),
                length=length,
                rows=lambda start, stop: frame_rows(features, length, model.audio_rows, start, stop),
                draw=lambda frame: draw_keypoints(points[frame], *self.size),
            ),
            progress=lambda done, total: tell("denoise", done, total),
        )
        return denoiser.run()

    def _collect(
        self, frames: Iterator[UInt8], path: Path | None, waveform: Waveform, length: int, config: GenerationConfig,
        keep: bool, watch: Stopwatch, tell: Progress,
    ) -> UInt8 | None:  # fmt: skip
        kept = np.empty((length, *self.size, 3), np.uint8) if keep else None
        writer = nullcontext() if path is None else VideoWriter(path, self.size, config.rate, waveform, config.quality)
        with writer as file:
            for index, frame in enumerate(frames):
                if kept is not None:
                    kept[index] = frame
                if file is not None:
                    with watch.stage("encode"):
                        file.write(frame)
                tell("frames", index + 1, length)
        return kept
