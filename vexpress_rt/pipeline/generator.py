"""Generator: owns the engines of a bundle and hands inputs to the stages; nothing numeric happens here."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vexpress_rt.backends.engines import Engines
from vexpress_rt.backends.registry import choose
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.default_bundle import shipped_bundle
from vexpress_rt.config import (
    RETARGET_MODES,
    WINDOW_ORDERS,
    GenerationConfig,
    brief,
    check_choice,
    check_flag,
    check_progress,
    check_threads,
    refuse_renamed,
)
from vexpress_rt.errors import ConfigError, OutputError
from vexpress_rt.live.session import LiveSession
from vexpress_rt.live.session_config import make_sound, plan_session
from vexpress_rt.media.audio_input import check_rate, known_duration
from vexpress_rt.media.recording import open_recording
from vexpress_rt.media.video_writer import VideoWriter, check_output
from vexpress_rt.pipeline.frame_stream import FrameStream, ProgressReporter
from vexpress_rt.pipeline.runner import PipelineInputs, Progress, RunContext, Runner
from vexpress_rt.stages.audio_encoder import gate_notes
from vexpress_rt.stages.portrait_encoder import CroppedPhoto, ImageSource, PortraitEncoder, PortraitSource
from vexpress_rt.stages.pose import KeypointSource, choose_retarget, looping_pose_track, plan_pose_track
from vexpress_rt.types import Float32, Portrait, UInt8, Video, frame_count
from vexpress_rt.utils.memory_budget import check_memory, free_memory
from vexpress_rt.utils.paths import folder_path, same_file
from vexpress_rt.utils.stopwatch import Stopwatch
from vexpress_rt.utils.worker import Worker

AudioSource = str | os.PathLike[str] | tuple[NDArray[Any], int]

_log = logging.getLogger("vexpress_rt")


class Generator:
    """Talking-portrait video from a photo and speech, with the engines of a bundle.

    bundle: folder that `python -m export.build` wrote; None takes the small one that ships with this package.
    threads: CPU threads, limited to the CPUs that this process may use (affinity and the container's CPU quota); None
        for one per core. A number above the limit is lowered, with a warning in the log.
    provider: what runs the engines. "tensorrt" for bundles that were compiled with it, "cuda" (ONNX Runtime on a GPU)
        and "cpu" for most; "auto" takes the first of these that the bundle and this machine allow.
    rebuild: what to do if TensorRT's plans are of another GPU or version, or damaged. "auto" compiles them anew, once,
        which takes minutes, and tells `progress` (stage, done, total; from any thread) as it goes; "never" makes that
        an error that names the command, whatever else could run the bundle, unless another provider is asked for.
    share_weights: on the CPU, let the two denoisers use their weights where the file is mapped to, in place of a copy
        for each that is packed for the kernels. Of half the full width they take 2.5 GB then, not 4.0, and calls take
        10 to 20 % longer (`benchmarks.cpu.loading`). Results are equal up to rounding. Only for settings that need both
        (`guidance_interval`), and not for a bundle built with --compact, whose weights are widened as they are loaded.
        TensorRT and CUDA keep their copies.

    Engines are loaded when first needed and freed by `close` or at the end of a `with` block; on the CPU the process
    keeps the memory that they computed in, for the next ones. Calls from several threads are allowed; each computes on
    its own.

    Raises BundleError (BundleNotFoundError, BundleDamagedError, BundleVersionError), ConfigError, and, for a provider
    that this machine lacks, BackendError (BackendMissingError, PlansMissingError); OutputError if plans cannot be
    written.
    """

    def __init__(
        self, bundle: str | os.PathLike[str] | None = None, *, provider: str = "auto", threads: int | None = None,
        rebuild: str = "auto", progress: Progress | None = None, share_weights: bool = False,
    ) -> None:  # fmt: skip
        check_threads(threads)
        check_progress(progress)
        check_flag("share_weights", share_weights)
        self.bundle = Bundle.open(shipped_bundle() if bundle is None else folder_path(bundle, "the bundle"))
        selection = choose(provider, self.bundle, rebuild, progress)
        self._engines = Engines(self.bundle, selection, threads, share_weights=share_weights)
        self.threads = self._engines.threads
        self._portraits = PortraitEncoder(self.bundle, self._engines)
        self._pipeline = Runner(self.bundle, self._engines)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the videos, pixels."""
        return self._portraits.size

    def describe(self) -> str:
        """A few lines for people: bundle, size, precision, what runs it and why, device and memory, versions."""
        return self._engines.describe(self._pipeline.describe_latents())

    def prepare(
        self, source: ImageSource, *, keypoints: ArrayLike | None = None, crop: str = "face",
        retarget: str | None = None,
    ) -> Portrait:  # fmt: skip
        """Read a photo and compute everything that depends on it alone; the result serves any number of videos.

        source: a file, its bytes, or (H, W, 3) uint8 RGB.
        keypoints: (3, 2), x then y in pixels of the photo: left eye, right eye, nose. Skips the detector.
        crop: "face" cuts the bundle's aspect around the face; "none" stretches the whole photo, as upstream does.
        retarget: the retargeting mode of the later video (see `stream`), if it is known.

        Of several faces the largest is taken. Without a face (or a detector in the bundle) the portrait has no
        keypoints, is cut around its centre and has a note that says so; it can then be driven with `no_retarget` only.
        With another mode as `retarget` this method raises NoFaceError then, before it loads other engines than the
        detector.
        Raises ImageError, KeypointError, NoFaceError, ConfigError, BackendError.
        """
        photo = self._portraits.read(source, keypoints, crop)
        if retarget is not None:
            check_choice("retarget", retarget, RETARGET_MODES)
            self._portraits.check_face(photo, retarget, driven=retarget != "fix_face")
        return self._portraits.encode(photo)

    def read_photo(
        self, source: ImageSource, *, keypoints: ArrayLike | None = None, crop: str = "face"
    ) -> CroppedPhoto:  # fmt: skip
        """Read a photo and find its face, and leave the encoding to the video that it is given to.

        Arguments and errors are those of `prepare`. For a single video: no engine but the face detector is loaded
        until all inputs of the video were read and checked. A portrait of `prepare` saves the encoding in further ones.
        """
        return self._portraits.read(source, keypoints, crop)

    @refuse_renamed
    def stream(
        self, portrait: PortraitSource, audio: AudioSource, *, keypoints: KeypointSource | None = None,
        retarget: str | None = None, config: GenerationConfig | None = None, noise: str | Float32 | None = None,
        window_order: str = "wavefront", progress: Progress | None = None,
    ) -> FrameStream:  # fmt: skip
        """The frames of a video of ceil(duration of the speech x fps) frames, while it is being made.

        portrait: of `prepare` or `read_photo`, or a photo as these take it.
        audio: a sound file (or a video, whose sound is taken), or (mono float32 samples (N,), rate in Hz).
        keypoints: .pth, .npy, .npz or an (L, 3, 2) array in pixels of the bundle's picture; a `KeypointTrack`, which
            can say of what size its pictures were; or a driving video.
        retarget: no_retarget, fix_face, offset_retarget or naive_retarget (spec, stage 5); None takes `no_retarget`
            with keypoints and `fix_face` without.
        noise: None for counter-based noise of the seed, "upstream" for the public implementation's, or the initial
            latent itself, (1, c, L, h, w) float32.
        window_order: order in which context windows are denoised. "wavefront" gives each frame as early as possible,
            and memory does not grow with the speech; "step_major" runs each step over the whole video, as the public
            code does, so that no frame comes before the last step. Frames are the same.
        progress: called with stage, done and total. The stages are recording (in seconds), keypoints and portrait,
            then audio, denoise and frames in alternation. An exception that it raises ends the work and comes out
            of the call or of the stream; StopIteration, which would look like the end of the frames, as the cause of a
            RuntimeError. It may close the stream.

        Everything is read and checked in the call, before any engine is loaded but the face detector; audio features,
        latents and frames are computed as frames are asked for. Raises InputError (ImageError, AudioError,
        KeypointError, NoFaceError, VideoError), ConfigError, BundleError, BackendError, and the stream BackendError, or
        AudioError if the temporary file that keeps a long recording cannot be read.
        """
        task = self._task(config, window_order, progress)
        scene, notes = self._scene(task, portrait, audio, keypoints, retarget, noise, sound_track=False)
        return self._stream(task, scene, notes)

    @refuse_renamed
    def generate(
        self, portrait: PortraitSource, audio: AudioSource, *, keypoints: KeypointSource | None = None,
        retarget: str | None = None, config: GenerationConfig | None = None, noise: str | Float32 | None = None,
        window_order: str = "wavefront", output: str | os.PathLike[str] | None = None, keep_frames: bool | None = None,
        progress: Progress | None = None,
    ) -> Video:  # fmt: skip
        """Generate a video: the frames of `stream`, kept or written to a file as they come.

        output: .mp4, .mov or .mkv; appears when complete.  keep_frames: None keeps them if no output is named.
        The others are those of `stream`.

        Kept frames must fit into the free memory: 4 hours at 30 frames a second and 512 x 512 pixels take 340 GB.
        Otherwise ConfigError is raised as soon as the length of the video is known.

        Raises what `stream` and its frames raise, and OutputError. Nothing is left behind then, and the generator can
        be used again.
        """
        task = self._task(config, window_order, progress)
        path = None if output is None else _check_output(output, portrait, audio, keypoints)
        keep = path is None if keep_frames is None else check_flag("keep_frames", keep_frames)
        scene, notes = self._scene(
            task, portrait, audio, keypoints, retarget, noise, keep=keep, sound_track=path is not None
        )
        with self._stream(task, scene, notes, rgb=keep) as stream:
            frames = self._collect(stream, task, scene, path, keep)
        return Video(
            frames=frames,
            fps=stream.fps,
            length=stream.length,
            keypoints=stream.keypoints,
            path=path,
            timings=task.watch.finish(),
            notes=stream.notes,
        )

    def live(
        self, portrait: PortraitSource, *, keypoints: KeypointSource | None = None, retarget: str | None = None,
        extension: str = "mirror", config: GenerationConfig | None = None, sample_rate: int = 16000,
        look_ahead: float = 0.1, context: float = 3.0, max_lag: float = 60.0,
    ) -> LiveSession:  # fmt: skip
        """A session in which the portrait speaks while its speech comes in: see `LiveSession`.

        portrait, retarget, config: as `stream` takes them; of the configuration, `extension` and `quality` say nothing
            here. Fewer steps and less overlap make it faster, less overlap also makes windows, and so the wait, longer.
        keypoints: as `stream` takes them, None for a head that is held; of a driving video the first minute.
        extension: how a track goes on after its end: "mirror" runs back and forth, "loop" starts again, "hold" stays.
        sample_rate: Hz, of the sound that frames carry, and of what is pushed unless another rate is said.
        look_ahead: seconds of sound that are waited for after the last frame of a window, 0 to 5. More of it, and lips
            know better what comes; all of it is latency.
        context: seconds of sound, 0.5 to 30, that the audio encoder hears before each window.
        max_lag: seconds of speech, 1 to 3600, that may wait to be pulled; no less than a window's and the look-ahead.

        A window of silence is computed first, from which the motion starts. Raises what `stream` raises for the same
        arguments, AudioError for an impossible rate, and ConfigError for seconds out of range.
        """
        settings, manifest = self._task(config, WINDOW_ORDERS[0], None).settings, self.bundle.manifest
        mode = choose_retarget(retarget, keypoints)
        rate = check_rate(sample_rate)
        plan = plan_session(settings, manifest, rate, look_ahead=look_ahead, context=context, max_lag=max_lag)
        sound = make_sound(plan, rate, manifest, settings)
        needs = self._pipeline.live_memory_needs(plan.window, plan.keep)
        check_memory("a live session", needs, free_memory())
        photo = self._portraits.accept(portrait, mode, driven=keypoints is not None)
        self._pipeline.check(settings)
        place, notes = looping_pose_track(keypoints, mode, photo, settings, extension, self._portraits.find_faces)
        self._pipeline.load(settings)
        stages = self._pipeline.live(settings, self._portraits.finish(photo), place)
        return LiveSession(stages, sound, plan, (*photo.notes, *notes))

    def _task(self, config: GenerationConfig | None, window_order: str, progress: Progress | None) -> RunContext:
        config = GenerationConfig() if config is None else config
        if not issubclass(type(config), GenerationConfig):  # unlike isinstance, this calls no code of the object
            raise ConfigError(
                f"config is {brief(config)}; expected a GenerationConfig: GenerationConfig(steps=25, ...)"
            )
        check_choice("window_order", window_order, WINDOW_ORDERS)
        settings = self.bundle.manifest.settings(config)
        return RunContext(settings, window_order, Stopwatch(), ProgressReporter(check_progress(progress)))

    def _scene(
        self, task: RunContext, source: PortraitSource, audio: AudioSource, keypoints: KeypointSource | None,
        retarget: str | None, noise: str | Float32 | None, *, keep: bool = False, sound_track: bool,
    ) -> tuple[PipelineInputs, tuple[str, ...]]:  # fmt: skip
        """Read the inputs of a video; return them with the notes of reading. keep: whether its frames are kept."""
        mode = choose_retarget(retarget, keypoints)
        if (seconds := known_duration(audio)) is not None:
            self._check_memory(task, noise, frame_count(seconds, task.settings.rate), keep)
        # Inputs are checked before engines are loaded, which is slow.
        with task.watch.stage("portrait"):
            photo = self._portraits.accept(source, mode, driven=keypoints is not None)
        with task.watch.stage("audio"):
            read = partial(task.tell, "recording")
            recording = open_recording(audio, self.bundle.manifest.model.sample_rate, read, sound_track=sound_track)
        length = recording.frame_count(task.settings.rate)
        self._check_memory(task, noise, length, keep)
        self._pipeline.check(task.settings)
        with task.watch.stage("denoise"):
            initial = self._pipeline.noise(noise, task.settings, length)
        with task.stage("keypoints"):
            motion = plan_pose_track(
                keypoints, mode, photo, length, task.settings, self._portraits.find_faces,
                lambda done, total: task.tell("keypoints", done, total),
            )  # fmt: skip
        with task.watch.stage("load"):
            self._pipeline.load(task.settings)
        with task.stage("portrait"):
            portrait = self._portraits.finish(photo)
        gated = gate_notes(recording, self.bundle.manifest.model, task.settings.noise_gate)
        notes = (*portrait.notes, *recording.notes, *gated, *motion.notes)
        _log.info("%s: %s", mode, "; ".join(notes))
        return PipelineInputs(portrait, recording, motion.points, initial), notes

    def _check_memory(self, task: RunContext, noise: object, length: int, keep: bool) -> None:
        """Raise ConfigError for a video that does not fit into the free memory, before anything is allocated for it."""
        needs = self._pipeline.memory_needs(task.settings, task.window_order, noise, length, keep=keep)
        check_memory(f"a video of {length} frames", needs, free_memory())

    def _stream(
        self, task: RunContext, scene: PipelineInputs, notes: tuple[str, ...], *, rgb: bool = True
    ) -> FrameStream:
        frames = self._pipeline.frames(task, scene, rgb=rgb)
        fps, points = task.settings.rate, scene.points
        return FrameStream(frames, fps=fps, keypoints=points, notes=notes, watch=task.watch, telling=task.tell)

    def close(self) -> None:
        """Free the engines. The generator cannot be used afterwards; closing twice is allowed."""
        self._pipeline.close()
        self._engines.close()

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _collect(
        self, stream: FrameStream, task: RunContext, scene: PipelineInputs, path: Path | None, keep: bool
    ) -> UInt8 | None:
        """The frames if they are to be kept; written to the file, too, if one was named."""
        kept = np.empty((stream.length, *self.size, 3), np.uint8) if keep else None
        with ExitStack() as stack:
            write: Worker[UInt8] | None = None
            if path is not None:
                stack.enter_context(task.watch.stage("encode"))  # waiting for it: stands still while a frame is made
                writer = VideoWriter(path, self.size, stream.fps, scene.recording, task.settings.quality)
                write = stack.enter_context(Worker(stack.enter_context(writer).write))
            for index, frame in enumerate(stream):
                if kept is not None:
                    kept[index] = frame
                if write is not None:
                    write(frame)
        return kept


def _check_output(output: str | os.PathLike[str], *sources: object) -> Path:
    """The path to write, after making sure that it can be written and that nothing is read from it."""
    path = check_output(output)
    if any(same_file(source, path) for source in sources):
        raise OutputError(f"{path} is read as an input and cannot be written as well: choose another name")
    return path
