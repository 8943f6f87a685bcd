"""`Generator`, the public class: it owns the engines of a bundle, reads inputs and runs the stages."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike

from vexpress_rt.backends.loaded_engines import Engines
from vexpress_rt.backends.provider import Progress
from vexpress_rt.backends.registry import choose
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.default_bundle import shipped_bundle
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR
from vexpress_rt.config import (
    RETARGET_MODES,
    WAVEFRONT,
    WINDOW_ORDERS,
    GenerationConfig,
    brief,
    check_choice,
    check_flag,
    check_progress,
    check_threads,
    refuse_renamed,
)
from vexpress_rt.errors import CancelledError, ConfigError, OutputError
from vexpress_rt.live.async_session import AsyncLiveSession
from vexpress_rt.live.session import LiveSession
from vexpress_rt.live.session_config import make_session_audio, plan_session
from vexpress_rt.media.audio_input import AudioSource, check_rate, known_duration
from vexpress_rt.media.recording import open_recording
from vexpress_rt.media.video_writer import VideoWriter, check_output
from vexpress_rt.pipeline.async_frame_stream import AsyncFrameStream
from vexpress_rt.pipeline.frame_stream import FrameStream, WorkControl
from vexpress_rt.pipeline.runner import FRAMES_REMEDY, PipelineInputs, RunContext, Runner, required_engines
from vexpress_rt.stages.audio_encoder import gate_notes
from vexpress_rt.stages.depth import DepthSource, looping_depth_track, plan_depth_track
from vexpress_rt.stages.portrait_encoder import (
    PORTRAIT_ENGINES,
    CroppedPhoto,
    ImageSource,
    PortraitEncoder,
    PortraitSource,
)
from vexpress_rt.stages.pose import KeypointSource, choose_pose, looping_pose_track, plan_pose_track
from vexpress_rt.types import Float32, Portrait, UInt8, Video, frame_count
from vexpress_rt.utils.async_thread import run_in_thread
from vexpress_rt.utils.cancellation import CancelToken, check_cancel
from vexpress_rt.utils.memory_budget import check_memory, free_memory
from vexpress_rt.utils.paths import folder_path, same_file
from vexpress_rt.utils.process_bound import refuse_pickling
from vexpress_rt.utils.signatures import takes_arguments_of
from vexpress_rt.utils.stopwatch import Stopwatch
from vexpress_rt.utils.worker import Worker

_log = logging.getLogger("vexpress_rt")

_FACELESS = "no_retarget"  # the retargeting mode that accepts photos without a face


class Generator:
    """A generator of talking-portrait videos from a photo and speech, with the engines of a bundle.

        with Generator() as generator:
            generator.generate("portrait.png", "speech.wav", output="video.mp4")

    Engines are loaded on first use and freed by `close` or at the end of a `with` block. On the CPU, the process keeps
    their working memory for later engines. Methods can be called from several threads at once.

    Args:
        bundle: Folder of a bundle that `python -m export.build` wrote; None for the small bundle of this package.
        provider: Name of the library and device that run the engines; docs/providers.md has the names, best first.
            "auto" selects the first provider that the bundle and this machine allow.
        device: For providers that run on several kinds of devices, the name of one, such as "GPU" for "openvino"; None
            for the provider's default. docs/providers.md has the names.
        precision: Precision that the engines compute in, "fp32", "fp16" or "bf16"; None for the provider's default.
            Only "openvino" accepts others than the bundle's. Reduced precision changes the frames: docs/providers.md
            says by how much.
        threads: CPU threads, 1 to 1024, limited to the CPUs that this process may use (affinity and CPU quota of the
            container), with a warning in the log; None for one per physical core that it may use.
        rebuild: For TensorRT plans that are damaged, or for another GPU or TensorRT version. "auto" compiles them again
            once, which takes minutes and is reported to `progress`. "never" raises an error that names the command to
            run, even if another provider could run the bundle, unless that provider is requested.
        progress: Called while plans are compiled, from any thread, with the stage, the steps done and the total steps.
        share_weights: On the CPU, keep one memory-mapped copy of the weights for both denoisers instead of a packed
            copy for each. For the half-width model: 2.5 GB instead of 4.0 GB, and calls take 10 to 20 % longer
            (`benchmarks.cpu.loading`). Results are equal up to rounding. It has an effect only for bundles built
            without --compact, with settings that use both denoisers (`guidance_interval`, `uncond_interval`).

    Attributes:
        bundle: The opened bundle.
        threads: CPU threads, as requested; `describe` names the number in use.

    Raises:
        BundleError: The bundle is missing (BundleNotFoundError), damaged (BundleDamagedError), or of another format
            version (BundleVersionError).
        ConfigError: An argument is outside its range.
        BackendError: This machine lacks the provider's library (BackendMissingError), its device, the precision, or
            plans that `rebuild` forbids compiling (PlansMissingError).
        OutputError: Compiled plans cannot be written.
    """

    def __init__(
        self, bundle: str | os.PathLike[str] | None = None, *, provider: str = "auto", device: str | None = None,
        precision: str | None = None, threads: int | None = None, rebuild: str = "auto",
        progress: Progress | None = None, share_weights: bool = False,
    ) -> None:  # fmt: skip
        check_threads(threads)
        check_progress(progress)
        check_flag("share_weights", share_weights)
        self.bundle = Bundle.open(shipped_bundle() if bundle is None else folder_path(bundle, "the bundle"))
        selection = choose(provider, self.bundle, rebuild, progress, device, precision, threads)
        self._engines = Engines(self.bundle, selection, threads, share_weights=share_weights)
        self.threads = self._engines.threads
        self._portraits = PortraitEncoder(self.bundle, self._engines)
        self._runner = Runner(self.bundle, self._engines)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the videos in pixels."""
        return self._portraits.size

    @property
    def _guiders(self) -> tuple[str, ...]:
        """The signals of the bundle's guiders."""
        return self.bundle.manifest.model.guiders

    def describe(self) -> str:
        """Return lines of text: bundle, size, guiders, precision, provider and reason, device, latents, versions."""
        return self._engines.describe(self._runner.describe_latents())

    def load(self, config: GenerationConfig | None = None, *, live: bool = False) -> None:
        """Load the engines of a video or a live session, so that the first one does not wait for them.

        Without this call, each engine is loaded by the first call that needs it. Engines that are loaded already stay
        as they are. On the CPU, engines are loaded side by side, as far as `threads` and the free memory allow.

        Args:
            config: The options of the later video; they decide which denoisers it needs. None: the bundle's defaults.
            live: Whether for a live session, for which the bundle can recommend other options.

        Raises:
            ConfigError: An option is outside its range.
            BundleError: The bundle lacks an engine, or a file of it is damaged.
            BackendError: An engine cannot be loaded, or `close` was called. Other engines stay loaded.
        """
        settings = self._run_context(config, WAVEFRONT, None, live=check_flag("live", live)).settings
        signals = self._guiders
        self._runner.check(settings, signals)
        detector = (FACE_DETECTOR,) if self.bundle.has(FACE_DETECTOR) else ()
        names = (*detector, *PORTRAIT_ENGINES, *required_engines(settings, signals))
        with self._engines.loading(names) as loading:
            loading.wait()

    def prepare(
        self, source: ImageSource, *, keypoints: ArrayLike | None = None, crop: str = "face",
        retarget: str | None = None, cancel: CancelToken | None = None,
    ) -> Portrait:  # fmt: skip
        """Read and encode a photo. The portrait can be used for any number of videos.

        The largest face is used. If no face is found, or the bundle has no face detector, the portrait has no
        keypoints, is cropped around its centre and has a note about it, and `no_retarget` is the only mode for it.

        Args:
            source: A file, its content as bytes, or an array (H, W, 3) uint8 RGB.
            keypoints: (3, 2), x and y in pixels of the photo: left eye, right eye, nose. None detects the face.
            crop: "face" crops the photo to the face in the aspect ratio of the bundle; "none" stretches the whole
                photo, as the public implementation does.
            retarget: Retargeting mode of the later video (see `stream`), if it is known. If the mode needs a face, a
                photo without one is refused before it is encoded.
            cancel: As in `generate`.

        Returns:
            The portrait: cropped photo, its latent, reference features and keypoints.

        Raises:
            ImageError: The photo cannot be read.
            KeypointError: The keypoints have another shape, or lie outside the photo.
            NoFaceError: There is no face, and `retarget` needs one.
            ConfigError: `crop` or `retarget` is unknown, or `cancel` is no token.
            BackendError: An engine cannot be loaded or run.
            CancelledError: `cancel` was set.
        """
        if retarget is not None:
            check_choice("retarget", retarget, RETARGET_MODES)
        with WorkControl(check_progress(None), check_cancel(cancel)).running():
            photo = self._portraits.read(source, keypoints, crop)
            if retarget is not None:
                self._portraits.check_face(photo, retarget, driven=retarget != "fix_face")
            return self._portraits.encode(photo)

    def read_photo(
        self, source: ImageSource, *, keypoints: ArrayLike | None = None, crop: str = "face"
    ) -> CroppedPhoto:  # fmt: skip
        """Read a photo and detect its face, without encoding it.

        `generate` and `stream` encode it after all inputs have been checked, so that faulty inputs are reported before
        any engine but the face detector is loaded. For several videos of one photo, `prepare` encodes it once.

        Args:
            source: As in `prepare`.
            keypoints: As in `prepare`.
            crop: As in `prepare`.

        Returns:
            The cropped photo, to pass as `portrait`.

        Raises:
            ImageError: The photo cannot be read.
            KeypointError: The keypoints have another shape, or lie outside the photo.
            ConfigError: `crop` is unknown.
            BackendError: The face detector cannot be loaded or run.
        """
        return self._portraits.read(source, keypoints, crop)

    @refuse_renamed
    def stream(
        self, portrait: PortraitSource, audio: AudioSource, *, keypoints: KeypointSource | None = None,
        depth: DepthSource | None = None, retarget: str | None = None, config: GenerationConfig | None = None,
        noise: str | Float32 | None = None, window_order: str = "wavefront", progress: Progress | None = None,
        cancel: CancelToken | None = None,
    ) -> FrameStream:  # fmt: skip
        """Return an iterator over the frames of a video, each as soon as it is final.

        All inputs are read and checked in this call, before any engine but the face detector is loaded. Audio features,
        latents and frames are computed when frames are requested.

        Args:
            portrait: The result of `prepare` or `read_photo`, or a photo as `prepare` reads it.
            audio: A sound file (or a video, for its sound), or (samples, rate in Hz) with samples of shape (N,) or
                (channels, N), float32 in [-1, 1] or int16.
            keypoints: Target motion: a file (.pth, .npy, .npz) or an array (L, 3, 2) in pixels of the bundle's picture,
                a `KeypointTrack`, which can have another picture size, or a driving video. None for a still head, or
                with depth for a head that the depth alone places.
            depth: Depth of head, neck and shoulders, nearer is larger, for bundles with a guider of depth: an array
                (L, H, W), or (H, W) for all frames, of floats of 0 (background) to 1, uint8 or uint16, which is not
                copied and must not change meanwhile; a file with one (.npy, .npz); or a video of depth. docs/files.md
                says how maps of other sizes and lengths are fitted.
            retarget: How keypoints are fitted to the photo's face: no_retarget, fix_face, offset_retarget or
                naive_retarget. None is no_retarget with keypoints and fix_face without; with depth and without
                keypoints it leaves the keypoints out.
            config: The options. Precedence: argument, preset, bundle, default.
            noise: None for counter-based noise of the seed, "upstream" for the noise of the public implementation, or
                the initial latents, (1, c, L, h, w) float32.
            window_order: Order in which context windows are denoised. "wavefront" gives each frame as early as
                possible, and memory does not grow with the length. "step_major" runs each step over the whole video,
                as the public implementation does, so that no frame is final before the last step. Both orders give the
                same frames.
            progress: Called with the stage, the steps done and the total steps. The stages are recording (in seconds),
                keypoints, depth and portrait, then audio, denoise and frames interleaved. Its exceptions end the work
                and are raised by this call or by the stream (StopIteration as the cause of a RuntimeError). It may
                close the stream.
            cancel: A `threading.Event`, or another object with `is_set`. Once it is set, this call raises
                CancelledError, and the stream ends as if it were cancelled: at most one engine call later.

        Returns:
            An iterator of ceil(duration of the speech x fps) frames, (H, W, 3) uint8 RGB.

        Raises:
            InputError: An input cannot be used: ImageError, AudioError, KeypointError, DepthError, NoFaceError or
                VideoError.
            ConfigError: An option is outside its range, the bundle has no guider for a signal that is given, or the
                video needs more memory than is free.
            BundleError: The bundle lacks an engine, or a file of it is damaged.
            BackendError: An engine cannot be loaded or run. Raised by the stream as well.
            AudioError: Raised by the stream: the recording cannot be read again, or its file has changed.
            CancelledError: `cancel` was set before the stream was returned.
        """
        context = self._run_context(config, window_order, progress, cancel)
        with context.control.running():
            inputs, notes = self._read_inputs(
                context, portrait, audio, keypoints, depth, retarget, noise, sound_track=False
            )
        return self._stream(context, inputs, notes)

    @refuse_renamed
    def generate(
        self, portrait: PortraitSource, audio: AudioSource, *, keypoints: KeypointSource | None = None,
        depth: DepthSource | None = None, retarget: str | None = None, config: GenerationConfig | None = None,
        noise: str | Float32 | None = None, window_order: str = "wavefront",
        output: str | os.PathLike[str] | None = None, keep_frames: bool | None = None,
        progress: Progress | None = None, cancel: CancelToken | None = None,
    ) -> Video:  # fmt: skip
        """Generate a video: write the frames of `stream` to a file, or return them.

        After an error no partial file is left, and the generator can be used again.

        Args:
            portrait: As in `stream`.
            audio: As in `stream`.
            keypoints: As in `stream`.
            depth: As in `stream`.
            retarget: As in `stream`.
            config: As in `stream`.
            noise: As in `stream`.
            window_order: As in `stream`.
            output: File to write, .mp4, .mov or .mkv. It appears when it is complete.
            keep_frames: Whether to return the frames. None returns them if there is no `output`. They must fit into the
                free memory: 4 hours at 30 fps and 512 x 512 pixels take 340 GB.
            progress: As in `stream`.
            cancel: A `threading.Event`, or another object with `is_set`. Once it is set, the call raises
                CancelledError, at most one engine call later.

        Returns:
            The video: its frames (L, H, W, 3) uint8 RGB or its path, frame rate, keypoints, timings and notes.

        Raises:
            VExpressError: As `stream` and its frames.
            OutputError: The file cannot be written.
            CancelledError: `cancel` was set before the video was complete.
        """
        context = self._run_context(config, window_order, progress, cancel)
        path = None if output is None else _check_output(output, portrait, audio, keypoints, depth)
        keep = path is None if keep_frames is None else check_flag("keep_frames", keep_frames)
        with context.control.running():
            inputs, notes = self._read_inputs(
                context, portrait, audio, keypoints, depth, retarget, noise, keep=keep, sound_track=path is not None
            )
        with self._stream(context, inputs, notes, rgb=keep) as stream, context.control.running_after_end():
            frames = self._collect(stream, context, inputs, path, keep)
        return Video(
            frames=frames,
            fps=stream.fps,
            length=stream.length,
            keypoints=stream.keypoints,
            path=path,
            timings=context.stopwatch.finish(),
            notes=stream.notes,
        )

    def live(
        self, portrait: PortraitSource, *, keypoints: KeypointSource | None = None, depth: DepthSource | None = None,
        retarget: str | None = None, extension: str = "mirror", config: GenerationConfig | None = None,
        sample_rate: int = 16000, look_ahead: float = 0.1, context: float = 3.0,
        overload: str = "raise", max_lag: float | None = None, idle_after: float | None = 0.5,
    ) -> LiveSession:  # fmt: skip
        """Open a session in which the portrait speaks while its speech arrives.

        A window of silence is generated first, so that the motion starts from rest. For shorter latency use fewer
        steps. Less overlap is faster too, but each window then has more new frames and waits for more speech.

        A bundle can recommend options for live sessions (`recommended_live` in its manifest) beside those for videos.
        `bundle.manifest.settings(config, live=True)` returns the options that a session runs with.

        Args:
            portrait: As in `stream`.
            keypoints: As in `stream`; None for a still head. Only the first minute of a driving video is used.
            depth: As in `stream`. Only the first minute of a video of depth is used.
            retarget: As in `stream`.
            extension: What follows the end of the keypoint track and of the depth: "mirror" runs back and forth, "loop"
                starts again, "hold" keeps the last frame.
            config: The options. Precedence: argument, preset, the bundle's options for live sessions, its other
                options, default. `extension` and `quality` have no effect.
            sample_rate: Sample rate in Hz of the samples of frames, and of pushed samples without a rate.
            look_ahead: Seconds of speech, 0 to 5, that a window waits for beyond its last frame. A larger value
                improves the lip sync and adds as much latency.
            context: Seconds of speech, 0.5 to 30, that the audio encoder sees before each window.
            overload: What happens when the session falls more than `max_lag` behind.

                * "raise": `push` raises AudioError if more than `max_lag` seconds of speech would wait to be pulled.
                * "drop": pictures are dropped. When the next frame is more than `max_lag` late (`LiveSession.delay`),
                  every frame whose time has passed is returned at once, with its samples and the last image (`held`).
                  A window in work is abandoned before its next engine call. All sound comes out, in order, and none
                  later than `max_lag` and one engine call.
                * "skip": speech is dropped. When the next frame is more than `max_lag` late, every frame whose time has
                  passed is left out, sound and picture, and the session continues with the next one. A window in work
                  is abandoned as with "drop". Indices and times of frames jump over what was left out.

                With "drop" and "skip", speech may be pushed ahead of its time, up to 600 seconds or `max_lag` if that
                is more; beyond that, `push` raises AudioError.
            max_lag: Seconds, 1 to 3600, by which the session may fall behind, as `overload` says. At least the length
                of a window plus the look-ahead. None for 5 seconds, or twice that length if it is longer. To push a
                whole recording at once with overload="raise", give more than its duration.
            idle_after: Seconds, 0 to 3600, without new sound after which `pull(idle=True)` ends an utterance. None
                ends utterances only with `flush` and `interrupt`. Choose more than the longest gap between the pieces
                of one utterance: an utterance that goes on after it is a new one.

        Returns:
            The session: `push` speech, `pull` frames.

        Raises:
            VExpressError: As `stream`.
            AudioError: `sample_rate` is impossible.
            ConfigError: `overload` is unknown, or a number of seconds is outside its range.
        """
        run, manifest = self._run_context(config, WAVEFRONT, None, live=True), self.bundle.manifest
        settings = run.settings
        mode = choose_pose(retarget, keypoints, self._guiders, depth=depth is not None)
        signals = _signals(mode, depth)
        rate = check_rate(sample_rate)
        plan = plan_session(
            settings, manifest, rate,
            look_ahead=look_ahead, context=context, overload=overload, max_lag=max_lag, idle_after=idle_after,
        )  # fmt: skip
        audio = make_session_audio(plan, rate, manifest, settings)
        needs = self._runner.live_memory_needs(plan.window, plan.keep)
        check_memory("a live session", needs, free_memory())
        photo = self._portraits.accept(portrait, mode or _FACELESS, driven=keypoints is not None)
        self._runner.check(settings, signals)
        keypoints_at, notes = None, _notes(mode, depth)
        if mode is not None:
            keypoints_at, notes = looping_pose_track(
                keypoints, mode, photo, settings, extension, self._portraits.find_faces
            )
        track = None if depth is None else looping_depth_track(depth, photo, settings, extension)
        encoded = self._load_and_encode(run, photo, signals)
        notes = (*photo.notes, *notes, *(() if track is None else track.notes))
        return LiveSession(self._runner.live(settings, encoded, keypoints_at, track), audio, plan, notes)

    @takes_arguments_of(stream)
    def astream(self, *args: Any, **options: Any) -> AsyncFrameStream:
        """Return an asynchronous iterator over the frames of a video, for `async with` and `async for`.

        `stream` is called in the stream's own thread, by `async with` or by the first frame, which raise its errors.

        Args:
            *args: As in `stream`.
            **options: As in `stream`. `progress` is called in the stream's thread.

        Returns:
            An asynchronous iterator of frames, (H, W, 3) uint8 RGB.
        """
        return AsyncFrameStream(partial(self.stream, *args, **options))

    @takes_arguments_of(generate)
    async def agenerate(self, *args: Any, **options: Any) -> Video:
        """Generate a video in a thread of its own, as `generate`, without blocking the event loop.

        If the task is cancelled, the work ends at most one engine call later, without a partial file, and the task
        ends after it.

        Args:
            *args: As in `generate`.
            **options: As in `generate`. `progress` is called in the video's thread.

        Returns:
            The video.

        Raises:
            VExpressError: As `generate`.
        """
        return await run_in_thread("vexpress_rt_generate", partial(self.generate, *args, **options))

    @takes_arguments_of(prepare)
    async def aprepare(self, *args: Any, **options: Any) -> Portrait:
        """Read and encode a photo in a thread of its own, as `prepare`, without blocking the event loop.

        If the task is cancelled, the work ends at most one engine call later, and the task ends after it.

        Args:
            *args: As in `prepare`.
            **options: As in `prepare`.

        Returns:
            The portrait.

        Raises:
            VExpressError: As `prepare`.
        """
        return await run_in_thread("vexpress_rt_prepare", partial(self.prepare, *args, **options))

    @takes_arguments_of(live)
    def alive(self, *args: Any, **options: Any) -> AsyncLiveSession:
        """Return a live session whose methods are coroutines, for `async with`.

        `live` is called in the session's own thread, by `async with`, which raises its errors.

        Args:
            *args: As in `live`.
            **options: As in `live`.

        Returns:
            The session: `push` speech, `pull` frames.
        """
        return AsyncLiveSession(partial(self.live, *args, **options))

    def _run_context(
        self, config: GenerationConfig | None, window_order: str, progress: Progress | None,
        cancel: CancelToken | None = None, *, live: bool = False,
    ) -> RunContext:  # fmt: skip
        config = GenerationConfig() if config is None else config
        if not issubclass(type(config), GenerationConfig):  # unlike isinstance, this calls no code of the object
            raise ConfigError(
                f"config is {brief(config)}; expected a GenerationConfig: GenerationConfig(steps=25, ...)"
            )
        check_choice("window_order", window_order, WINDOW_ORDERS)
        control = WorkControl(check_progress(progress), check_cancel(cancel))
        settings = self.bundle.manifest.settings(config, live=live)
        return RunContext(settings, window_order, Stopwatch(), control)

    def _read_inputs(
        self, context: RunContext, source: PortraitSource, audio: AudioSource, keypoints: KeypointSource | None,
        depth: DepthSource | None, retarget: str | None, noise: str | Float32 | None, *, keep: bool = False,
        sound_track: bool,
    ) -> tuple[PipelineInputs, tuple[str, ...]]:  # fmt: skip
        """Read and check the inputs of a video; return them and their notes. keep: whether frames stay in memory."""
        mode = choose_pose(retarget, keypoints, self._guiders, depth=depth is not None)
        signals = _signals(mode, depth)
        check = partial(self._check_memory, context, noise, keep)

        def check_length(seconds: Fraction) -> None:
            check(frame_count(seconds, context.settings.rate))

        if (seconds := known_duration(audio)) is not None:
            check_length(seconds)
        # Inputs are checked before engines are loaded, which is slow.
        with context.stopwatch.stage("portrait"):
            photo = self._portraits.accept(source, mode or _FACELESS, driven=keypoints is not None)
        with context.stopwatch.stage("audio"):
            recording = open_recording(
                audio, self.bundle.manifest.model.sample_rate, partial(context.control.report, "recording"),
                sound_track=sound_track, check_length=check_length,
            )  # fmt: skip
        length = recording.frame_count(context.settings.rate)
        check(length)
        self._runner.check(context.settings, signals)
        with context.stopwatch.stage("denoise"):
            initial = self._runner.noise(noise, context.settings, length)
        points, track_notes = None, _notes(mode, depth)
        if mode is not None:
            with context.stage("keypoints"):
                track = plan_pose_track(
                    keypoints, mode, photo, length, context.settings, self._portraits.find_faces,
                    partial(context.control.report, "keypoints"),
                )  # fmt: skip
            points, track_notes = track.points, track.notes
        depth_track = None
        if depth is not None:
            with context.stage("depth"):
                depth_track = plan_depth_track(
                    depth,
                    photo,
                    length,
                    context.settings,
                    partial(context.control.report, "depth"),
                )
            track_notes += depth_track.notes
        portrait = self._load_and_encode(context, photo, signals)
        gated = gate_notes(recording, self.bundle.manifest.model, context.settings.noise_gate)
        notes = (*portrait.notes, *recording.notes, *gated, *track_notes)
        _log.info("%s: %s", mode or "no keypoints", "; ".join(notes))
        return PipelineInputs(portrait, recording, length, points, depth_track, initial), notes

    def _load_and_encode(
        self, context: RunContext, photo: Portrait | CroppedPhoto, signals: tuple[str, ...]
    ) -> Portrait:  # fmt: skip
        """Load the engines of a video, and encode its photo as soon as the engines for it are loaded."""
        first = () if isinstance(photo, Portrait) else PORTRAIT_ENGINES
        load = partial(context.stopwatch.stage, "load")
        with self._engines.loading(required_engines(context.settings, signals), first=first) as loading:
            if first:
                with load():
                    loading.wait(*first)
            with context.stage("portrait"):
                portrait = self._portraits.finish(photo)
            with load():
                loading.wait()
        return portrait

    def _check_memory(self, context: RunContext, noise: object, keep: bool, length: int) -> None:
        """Raise ConfigError if a video does not fit into the free memory, before memory is allocated for it."""
        needs = self._runner.memory_needs(context.settings, context.window_order, noise, length, keep=keep)
        check_memory(f"a video of {length} frames", needs, free_memory())

    def _stream(
        self, context: RunContext, inputs: PipelineInputs, notes: tuple[str, ...], *, rgb: bool = True
    ) -> FrameStream:
        frames = self._runner.frames(context, inputs, rgb=rgb)
        points = np.zeros((0, 3, 2), np.float32) if inputs.points is None else inputs.points
        return FrameStream(
            frames, fps=context.settings.rate, length=inputs.length, keypoints=points, notes=notes,
            stopwatch=context.stopwatch, control=context.control,
        )  # fmt: skip

    def close(self) -> None:
        """Free the engines. The generator cannot be used afterwards. Closing twice is allowed."""
        self._runner.close()
        self._engines.close()

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        refuse_pickling(self, "pass the bundle's folder, and make a Generator in the other process")

    def _collect(
        self, stream: FrameStream, context: RunContext, inputs: PipelineInputs, path: Path | None, keep: bool
    ) -> UInt8 | None:
        """Write the frames to a file, if there is a path, and return them, if they are kept."""
        kept = _allocate((stream.length, *self.size, 3)) if keep else None
        with ExitStack() as stack:
            write: Worker[UInt8] | None = None
            if path is not None:
                # This stage is the wait for the encoder; stages within it measure the work on frames.
                stack.enter_context(context.stopwatch.stage("encode"))
                writer = VideoWriter(
                    path, self.size, stream.fps, inputs.recording, context.settings.quality, self.threads
                )
                write = stack.enter_context(Worker(stack.enter_context(writer).write))
            for index, frame in enumerate(stream):
                if kept is not None:
                    kept[index] = frame
                if write is not None:
                    write(frame)
            if stream.cancelled:
                raise CancelledError(
                    f"the video was cancelled after {stream.done} of {stream.length} frames; no partial file is left"
                )
        return kept


def _allocate(shape: tuple[int, ...]) -> UInt8:
    """Return an array for all frames, (L, H, W, 3); where the free memory is unknown, the system refuses it."""
    try:
        return np.empty(shape, np.uint8)
    except MemoryError as error:
        raise ConfigError(
            f"a video of {shape[0]} frames does not fit into memory ({error}): {FRAMES_REMEDY}"
        ) from error


def _signals(mode: str | None, depth: DepthSource | None) -> tuple[str, ...]:
    """Return the spatial signals of a video; mode: from `choose_pose`."""
    return (*(() if mode is None else ("keypoints",)), *(() if depth is None else ("depth",)))


def _notes(mode: str | None, depth: DepthSource | None) -> tuple[str, ...]:
    """Return the note on a video without keypoints."""
    alone = mode is None and depth is not None
    return ("depth: no keypoints are given, and the depth alone places the head",) if alone else ()


def _check_output(output: str | os.PathLike[str], *sources: object) -> Path:
    """Return the path of the output, after checking that it can be written and is not an input."""
    path = check_output(output)
    if any(same_file(source, path) for source in sources):
        raise OutputError(f"{path} is read as an input and cannot be written as well: choose another name")
    return path
