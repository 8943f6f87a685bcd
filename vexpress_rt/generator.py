"""Generator: owns the engines of a bundle and wires the stages; nothing numeric happens here."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vexpress_rt import faces, image
from vexpress_rt.audio import check_rate, frame_rows, load_audio, normalize
from vexpress_rt.backends import Engine, Tensor
from vexpress_rt.background import Background
from vexpress_rt.bundle import Bundle
from vexpress_rt.conditions import WindowConditions, encode_audio, encode_portrait
from vexpress_rt.config import CROP_MODES, GenerationConfig, Settings, check_choice, check_threads
from vexpress_rt.denoise import Denoiser, Guidance
from vexpress_rt.errors import BundleNotFoundError, ConfigError, InputError, OutputError
from vexpress_rt.frames import make_frames
from vexpress_rt.keypoints import draw_keypoints, load_portrait_keypoints
from vexpress_rt.live import LiveSession
from vexpress_rt.live_plan import make_sound, plan_live
from vexpress_rt.live_window import LiveStages
from vexpress_rt.motion import KeypointSource, choose_retarget, endless_motion, plan_motion
from vexpress_rt.noise import choose_noise, frame_noise
from vexpress_rt.paths import same_file
from vexpress_rt.providers import Engines, choose
from vexpress_rt.records import Face, Float32, Portrait, UInt8, Video, Waveform
from vexpress_rt.schedule import Sampler, alphas_cumprod, ddim
from vexpress_rt.shipped import shipped_bundle
from vexpress_rt.specs import FACE_DETECTOR
from vexpress_rt.timings import Stopwatch
from vexpress_rt.video import VideoWriter, check_output
from vexpress_rt.windows import plan_windows

ImageSource = str | os.PathLike[str] | bytes | UInt8
AudioSource = str | os.PathLike[str] | tuple[NDArray[Any], int]
Progress = Callable[[str, int, int], None]

_log = logging.getLogger("vexpress_rt")


@dataclass(frozen=True)
class _Job:
    """A call of `generate`: what was asked for, and the speech, which says how long the video is."""

    settings: Settings
    waveform: Waveform
    mode: str
    keypoints: KeypointSource | None
    path: Path | None
    keep: bool
    watch: Stopwatch
    tell: Progress

    @property
    def length(self) -> int:
        """Frames of the video."""
        return self.waveform.frame_count(self.settings.rate)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage that is done in one piece."""
        with self.watch.stage(name):
            yield
        self.tell(name, 1, 1)


class Generator:
    """Talking-portrait video from a photo and speech, with the engines of a bundle.

    bundle: folder that `python -m export.build` wrote; None takes the small one that ships with this package.
    threads: of the CPU; None for one a core.
    provider: what runs the engines. "tensorrt" for bundles that were compiled with it, "cuda" (ONNX Runtime on a GPU)
        and "cpu" for most; "auto" takes the first of these that the bundle and this machine allow.
    rebuild: what to do if TensorRT's plans are of another GPU or version, or damaged. "auto" compiles them anew, once,
        which takes minutes, and tells `progress` (stage, done, total; from any thread) as it goes; "never" makes that
        an error that names the command, whatever else could run the bundle, unless another provider is asked for.

    Engines are loaded when first needed and freed by `close` or at the end of a `with` block. Calls from several
    threads are allowed; each computes on its own.

    Raises BundleError (BundleNotFoundError, BundleDamagedError, BundleVersionError), ConfigError, and, for a provider
    that this machine lacks, BackendError (BackendMissingError, PlansMissingError); OutputError if plans cannot be
    written.
    """

    def __init__(
        self, bundle: str | os.PathLike[str] | None = None, *, provider: str = "auto", threads: int | None = None,
        rebuild: str = "auto", progress: Progress | None = None,
    ) -> None:  # fmt: skip
        self.threads = check_threads(threads)
        self.bundle = Bundle.open(shipped_bundle() if bundle is None else bundle)
        self._engines = Engines(self.bundle, choose(provider, self.bundle, rebuild, progress), self.threads)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the videos, pixels."""
        shape = self.bundle.manifest.shape
        return shape.height, shape.width

    def describe(self) -> str:
        """A few lines for people: bundle, size, precision, what runs it and why, device and memory, versions."""
        return self._engines.describe()

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
        self, portrait: Portrait | ImageSource, audio: AudioSource, *, keypoints: KeypointSource | None = None,
        retarget: str | None = None, config: GenerationConfig | None = None, noise: str | Float32 | None = None,
        output: str | os.PathLike[str] | None = None, keep_frames: bool | None = None, progress: Progress | None = None,
    ) -> Video:  # fmt: skip
        """Generate a video of ceil(duration of the speech x fps) frames.

        portrait: of `prepare`, or what `prepare` takes.
        audio: a sound file (or a video, whose sound is taken), or (mono float32 samples (N,), rate in Hz).
        keypoints: .pth, .npy, .npz or an (L, 3, 2) array in pixels of the bundle's picture; a `KeypointTrack`, which
            can say of what size its pictures were; or a driving video.
        retarget: no_retarget, fix_face, offset_retarget or naive_retarget (spec, stage 5); None takes `no_retarget`
            with keypoints and `fix_face` without.
        noise: None for counter-based noise of the seed, "upstream" for the public implementation's, or the initial
            latent itself, (1, c, L, h, w) float32.
        output: .mp4, .mov or .mkv; appears when complete.  keep_frames: None keeps them if no output is named.
        progress: called with stage (portrait, keypoints, audio; then denoise and frames by turns), done and total; an
            exception that it raises ends the work and comes out here.

        Raises InputError (ImageError, AudioError, KeypointError, NoFaceError, VideoError), ConfigError, OutputError,
        BundleError, BackendError. Nothing is left behind then, and the generator can be used again.
        """
        config = GenerationConfig() if config is None else config
        if not isinstance(config, GenerationConfig):
            raise ConfigError(f"config is {config!r}; expected a GenerationConfig: GenerationConfig(steps=25, ...)")
        settings, mode = self.bundle.manifest.settings(config), choose_retarget(retarget, keypoints)
        path = None if output is None else _check_output(output, portrait, audio, keypoints)
        keep = path is None if keep_frames is None else keep_frames
        watch, tell = Stopwatch(), progress or (lambda stage, done, total: None)
        with watch.stage("load"):
            self._load(settings)
        with watch.stage("audio"):
            waveform = load_audio(audio, self.bundle.manifest.model.sample_rate)
        return self._run(_Job(settings, waveform, mode, keypoints, path, keep, watch, tell), portrait, noise)

    def _run(self, job: _Job, source: Portrait | ImageSource, noise: str | Float32 | None) -> Video:
        initial = self._noise(job, noise)
        with job.stage("portrait"):
            portrait = self._portrait(source)
        with job.stage("keypoints"):
            motion = plan_motion(job.keypoints, job.mode, portrait, job.length, job.settings, self._find_faces)
        _log.info("%s: %s", job.mode, "; ".join(motion.notes))
        with job.stage("audio"):
            features = self._features(job.waveform)
        latents = job.watch.each("denoise", self._latents(job, portrait, features, motion.points, initial))
        path, filtered = self._engines.place().frames, job.settings.median_filter
        frames = make_frames(self._engine("vae_decoder"), latents, path, job.watch, filtered=filtered, rgb=job.keep)
        with closing(latents), closing(frames):  # a failure leaves no memory taken
            kept = self._collect(job, frames)
        return Video(
            frames=kept,
            fps=job.settings.rate,
            length=job.length,
            keypoints=motion.points,
            path=job.path,
            timings=job.watch.finish(),
            notes=motion.notes,
        )

    def live(
        self, portrait: Portrait | ImageSource, *, keypoints: KeypointSource | None = None, retarget: str | None = None,
        extension: str = "mirror", config: GenerationConfig | None = None, sample_rate: int = 16000,
        look_ahead: float = 0.2, context: float = 3.0, max_lag: float = 60.0,
    ) -> LiveSession:  # fmt: skip
        """A session in which the portrait speaks while its speech comes in: see `LiveSession`.

        portrait, retarget, config: as `generate` takes them; of the configuration `extension` and `quality` say nothing
            here. Fewer steps and less overlap make it faster.
        keypoints: as `generate` takes them, None for a head that is held; of a driving video the first minute.
        extension: how a track goes on after its end: "mirror" runs back and forth, "loop" starts again, "hold" stays.
        sample_rate: Hz, of the sound that frames carry, and of what is pushed unless another rate is said.
        look_ahead: seconds of sound that are waited for after the last frame of a window, 0 to 5. More of it, and lips
            know better what comes; all of it is latency.
        context: seconds of sound, 0.5 to 30, that the audio encoder hears before each window.
        max_lag: seconds of speech, 1 to 3600, that may wait to be pulled.

        A window of silence is computed first, from which the motion starts. Raises what `generate` raises for the
        same arguments, AudioError for an impossible rate, and ConfigError for seconds out of range.
        """
        config = GenerationConfig() if config is None else config
        if not isinstance(config, GenerationConfig):
            raise ConfigError(f"config is {config!r}; expected a GenerationConfig: GenerationConfig(steps=25, ...)")
        manifest = self.bundle.manifest
        settings, mode = manifest.settings(config), choose_retarget(retarget, keypoints)
        plan = plan_live(settings, manifest, look_ahead=look_ahead, context=context, max_lag=max_lag)
        sound = make_sound(plan, check_rate(sample_rate), manifest, settings)
        self._load(settings)
        prepared = self._portrait(portrait)
        place = endless_motion(keypoints, mode, prepared, settings, extension, self._find_faces)
        model = manifest.model
        alphas = alphas_cumprod(model.train_timesteps, model.beta_start, model.beta_end)
        shape = (model.latent_channels, self.size[0] // model.vae_factor, self.size[1] // model.vae_factor)
        sampler = self._sampler(settings)
        stages = LiveStages(
            engine=self._engine,
            guidance=Guidance.of(settings),
            sampler=sampler,
            levels=[float(alphas[t]) for t in sampler.timesteps],
            reference=prepared.reference,
            noise=lambda frame: frame_noise(settings.seed, frame % 2**64, shape),
            draw=lambda frame: draw_keypoints(place(max(0, frame)), *self.size),
            rows=model.audio_rows,
            minimum=model.audio_minimum_samples,
            path=self._engines.place().frames,
            filtered=settings.median_filter,
        )
        return LiveSession(stages, sound, plan)

    def close(self) -> None:
        """Free the engines. The generator cannot be used afterwards; closing twice is allowed."""
        self._engines.close()

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _engine(self, name: str) -> Engine:
        return self._engines.get(name)

    def _load(self, settings: Settings) -> None:
        """Check the choices and load what every video needs, so that what is missing is named before the work."""
        self._sampler(settings)
        for name in ("audio_encoder", "audio_projection", "pose_guider", Guidance.of(settings).engine, "vae_decoder"):
            self._engine(name)

    def _sampler(self, settings: Settings) -> Sampler:
        model = self.bundle.manifest.model
        return ddim(settings.steps, alphas_cumprod(model.train_timesteps, model.beta_start, model.beta_end))

    def _find_faces(self, picture: UInt8) -> list[Face]:
        if not self.bundle.has(FACE_DETECTOR):
            raise BundleNotFoundError(
                f"{self.bundle.folder} has no face detector, so faces cannot be found in pictures: give keypoints, or "
                "put insightface's det_10g.onnx into the checkpoint directory and build again with "
                f"--engine {FACE_DETECTOR}"
            )
        return faces.detect(self._engine(FACE_DETECTOR).run_positional, picture)

    def _own_keypoints(self, picture: UInt8, given: ArrayLike | None) -> Float32 | None:
        if given is not None:
            return load_portrait_keypoints(given)
        if self.bundle.has(FACE_DETECTOR) and (found := self._find_faces(picture)):
            return faces.largest_face(found).keypoints[:3]
        why = "no face was found in the photo" if self.bundle.has(FACE_DETECTOR) else "the bundle has no face detector"
        _log.warning("%s, so the photo is cut around its centre; it can be driven with no_retarget only", why)
        return None

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

    def _noise(self, job: _Job, choice: str | Float32 | None) -> Callable[[int], Float32]:
        model, shape = self.bundle.manifest.model, self.bundle.manifest.shape
        latent_shape = (model.latent_channels, shape.height // model.vae_factor, shape.width // model.vae_factor)
        denoised = max(job.length, shape.frames)
        with job.watch.stage("denoise"):
            return choose_noise(choice, job.settings.seed, job.length, denoised, latent_shape, model.audio_layers)

    def _latents(
        self, job: _Job, portrait: Portrait, features: Float32, points: Float32, noise: Callable[[int], Float32]
    ) -> Iterator[tuple[int, Tensor]]:
        manifest, length, guidance = self.bundle.manifest, job.length, Guidance.of(job.settings)
        return Denoiser(
            engine=self._engine(guidance.engine),
            static=portrait.reference,
            guidance=guidance,
            sampler=self._sampler(job.settings),
            windows=plan_windows(length, manifest.shape.frames, job.settings.overlap),
            length=length,
            noise=noise,
            conditions=WindowConditions(
                projection=self._engine("audio_projection"),
                guider=self._engine("pose_guider"),
                length=length,
                rows=lambda start, stop: frame_rows(features, length, manifest.model.audio_rows, start, stop),
                draw=lambda frame: draw_keypoints(points[frame], *self.size),
            ),
            progress=lambda done, total: job.tell("denoise", done, total),
            latents=self._engines.place().latents,
        ).run()

    def _collect(self, job: _Job, frames: Iterator[UInt8]) -> UInt8 | None:
        """The frames if they are to be kept; written to the file, too, if one was named."""
        kept = np.empty((job.length, *self.size, 3), np.uint8) if job.keep else None
        with ExitStack() as stack:
            write: Background[UInt8] | None = None
            if job.path is not None:
                stack.enter_context(job.watch.stage("encode"))  # waiting for it: stands still while a frame is made
                writer = VideoWriter(job.path, self.size, job.settings.rate, job.waveform, job.settings.quality)
                write = stack.enter_context(Background(stack.enter_context(writer).write))
            for index, frame in enumerate(frames):
                if kept is not None:
                    kept[index] = frame
                if write is not None:
                    write(frame)
                job.tell("frames", index + 1, job.length)
        return kept


def _check_output(output: str | os.PathLike[str], *sources: object) -> Path:
    """The path to write, after making sure that it can be written and that nothing is read from it."""
    path = check_output(output)
    if any(same_file(source, path) for source in sources):
        raise OutputError(f"{path} is read as an input and cannot be written as well: choose another name")
    return path
