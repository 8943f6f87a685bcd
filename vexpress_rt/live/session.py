"""A live session: a portrait speaks while its speech arrives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.config import brief, plain_number
from vexpress_rt.diffusion.context_windows import Window
from vexpress_rt.errors import AudioError, InputError
from vexpress_rt.live.audio_buffer import SessionAudio, normalize_live, voice_gains
from vexpress_rt.live.session_config import SessionPlan, check_timeout
from vexpress_rt.live.window_denoiser import AudioContext, WindowDenoiser
from vexpress_rt.media.audio_input import check_rate, to_float32
from vexpress_rt.types import Float32, UInt8
from vexpress_rt.utils.memory_budget import Need, check_memory, free_memory
from vexpress_rt.utils.process_bound import refuse_pickling

_LARGE = 1 << 26  # bytes; a larger piece of pushed sound is compared with the free memory


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """A frame of a session, with its sound.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        index: Number of the frame: 0, 1, 2 and so on.
        time: index / fps seconds, exactly.
        samples: (n,) float32, mono, at the session's `sample_rate`, from `time` until the next frame. Concatenated, the
            samples of all frames are the pushed sound without a gap. n varies by one if `sample_rate` is not a
            multiple of `fps`.
    """

    image: UInt8 = field(repr=False)
    index: int
    time: Fraction
    samples: Float32 = field(repr=False)


class LiveSession:
    """A portrait that speaks while its speech arrives: the result of `Generator.live`.

        with generator.live(portrait) as session:
            session.push(samples)
            for frame in session.frames():
                show(frame.image)
                play(frame.samples)

    Pushed samples are the clock: frame k shows the speech from k / fps seconds on, and carries the samples of that
    speech. For an idle face, push silence or call `pull(idle=True)`.

    All computation happens in `pull` and `frames`. A window of frames is denoised once all of its sound has arrived;
    its frames are decoded when they are pulled. With the median filter, the last frame of a window waits for the next
    window, because the filter needs the following frame. `push`, `flush` and `interrupt` return at once, even while
    another thread pulls. All methods can be called from any thread; concurrent pulls wait for each other. Frames depend
    on the sound and on its length at each call of `flush`, `interrupt` and `pull(idle=True)`, not on the sizes of the
    pushed pieces.

    Attributes:
        fps: Frames per second, exact.
        sample_rate: Hz of the sound that frames carry.
        notes: Repairs of photo and keypoints, and choices left to the generator, as in `Video.notes`.
    """

    def __init__(
        self, denoiser: WindowDenoiser, audio: SessionAudio, plan: SessionPlan, notes: tuple[str, ...] = ()
    ) -> None:
        """Denoise a window of silence, so that the motion starts from rest; this also loads and warms up engines."""
        self.fps = audio.fps
        self.sample_rate = audio.rate
        self.notes = notes
        self._denoiser, self._audio, self._plan = denoiser, audio, plan
        self._changed = threading.Condition()  # guards everything but the denoiser
        self._working = threading.Lock()  # held by the thread that makes frames
        self._generation = 0  # rises with `_discard`; work that began in an earlier generation is thrown away
        self._pulled = self._denoised = 0  # frames
        self._earliest = 0  # the earliest frame that can be taken back
        self._closed = False
        self._latents = self._denoise_silence()

    @property
    def lag(self) -> float:
        """Seconds of pushed speech whose frames were not pulled yet."""
        with self._changed:
            return float(self._lag)

    @property
    def _lag(self) -> Fraction:
        return max(Fraction(0), self._audio.seconds - self._pulled / self.fps)

    def push(self, samples: NDArray[Any], rate: int | None = None) -> None:
        """Append speech.

        Args:
            samples: (n,), mono, any n: float32 (or another floating dtype) of full scale 1, or int16. They are copied.
            rate: Integer Hz; None for the session's rate. Other rates are resampled, without a seam between calls with
                the same rate. A change of the rate within a word is audible.

        Raises:
            AudioError: The samples have another shape or dtype, or are NaN, infinite or above 1e4 times full scale; or
                more than `max_lag` seconds would wait to be pulled. Then no sample is appended.
            InputError: The session was closed.
        """
        if not isinstance(samples, np.ndarray) or samples.ndim != 1:
            found = f"shape {samples.shape}" if isinstance(samples, np.ndarray) else type(samples).__name__
            raise AudioError(f"audio samples of {found}; expected a NumPy array (n,) of mono sound: average channels")
        rate = self.sample_rate if rate is None else check_rate(rate)
        with self._changed:
            self._check_room(len(samples), rate)  # before a long piece is converted
        taken = to_float32(samples)
        with self._changed:
            self._check_room(len(taken), rate)  # another thread may have pushed
            self._audio.push(taken, rate)
            self._changed.notify_all()

    def _check_room(self, count: int, rate: int) -> None:
        self._check_open()
        waiting = float(self._lag + Fraction(count, rate))
        if count and waiting > self._plan.max_lag:
            raise AudioError(
                f"{waiting:.1f} seconds of speech would wait to be pulled; expected at most max_lag, "
                f"{self._plan.max_lag:g}: pull frames first, push less at once, or make the session with more"
            )
        self._check_memory(count, rate)

    def _check_memory(self, count: int, rate: int) -> None:
        """Check that pushed samples fit into memory: converted, then kept at both rates in double-size buffers."""
        kept = count * (self._audio.rate + self._audio.model_rate) // rate
        if (size := 4 * (count + 2 * kept)) > _LARGE:
            need = Need(size, "the samples, resampled", "pull frames first, push less at once, or use lower rates")
            check_memory(f"pushing {count / rate:.1f} seconds of speech", [need], free_memory(), AudioError)

    def pull(self, timeout: float | None = 0.0, *, idle: bool = False) -> LiveFrame | None:
        """Return the next frame, or None if it needs more sound.

        Args:
            timeout: Seconds to wait for that sound, at least 0; None waits until it arrives or the session is closed.
                Time spent computing does not count.
            idle: Whether to append as much silence as a window needs, instead of waiting. Then there is always a
                frame, and speech that is pushed later follows the silence.

        Raises:
            BackendError: An engine failed, or the generator was closed.
            ConfigError: `timeout` is out of range.
            InputError: The session was closed.
        """
        with self._changed:
            self._check_open()
        return self._pull(check_timeout(timeout), idle)

    def frames(self, timeout: float | None = 0.0) -> Iterator[LiveFrame]:
        """Return an iterator over frames that ends when a frame needs more sound, or the session is closed.

        Args:
            timeout: Seconds to wait for the sound of each frame, as in `pull`.

        Raises:
            ConfigError: `timeout` is out of range.
            InputError: The session was closed.
        """
        with self._changed:
            self._check_open()
        seconds = check_timeout(timeout)
        return iter(lambda: self._pull(seconds, False), None)

    def flush(self) -> None:
        """End the speech, so that all its frames, ceil(duration * fps), can be pulled.

        The last frame is completed with silence. Speech that is pushed later begins with the frame after it.

        Raises:
            InputError: The session was closed.
        """
        with self._changed:
            self._check_open()
            self._audio.finish()
            self._changed.notify_all()

    def interrupt(self, shown: int | None = None) -> None:
        """Discard the speech of frames that were not shown, and continue from the last shown frame.

        A window that is being denoised is dropped after its current step. The next pulled frame has the index `shown`,
        and its speech is pushed anew; silence returns the face to rest.

        Args:
            shown: Number of frames of the session that were shown; None for all that were pulled. At most the pulled
                frames of the last `context` seconds can be taken back.

        Raises:
            InputError: The frames cannot be taken back or were not pulled, or the session was closed.
        """
        with self._changed:
            self._check_open()
            shown = self._pulled if shown is None else shown
            number = plain_number(shown, whole=True)
            if number is None or not self._earliest <= number <= self._pulled:
                raise InputError(
                    f"{brief(shown)} frames were shown; expected {self._earliest} to {self._pulled}: no more than were "
                    "pulled, and no fewer than can be taken back: make the session with more context"
                )
            self._pulled = int(number)
            self._audio.interrupt(self._pulled)
            self._discard()
            self._changed.notify_all()

    def close(self) -> None:
        """Free the session's memory; a thread that waits for a frame gets None. Closing twice is allowed."""
        with self._changed:
            self._closed = True
            self._latents.clear()
            self._audio.interrupt(0)
            self._discard()
            self._denoiser.forget()
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        refuse_pickling(self, "send its frames, whose images and samples are NumPy arrays")

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("this live session was closed: make a new one with Generator.live")

    def _discard(self) -> None:
        """Discard the frames that were not pulled, and the work on them."""
        self._generation += 1
        self._denoised = self._pulled

    def _pull(self, timeout: float | None, idle: bool) -> LiveFrame | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._wait(deadline, idle) is not None:
            with self._working:  # not held while waiting, so that another thread can pull idle frames meanwhile
                generation = self._wait(time.monotonic(), idle)  # another thread may have taken the frame
                if generation is not None and (frame := self._work(generation)) is not None:
                    return frame
        return None

    def _work(self, generation: int) -> LiveFrame | None:
        """Call `_make`, and free the denoiser's memory if the session was closed meanwhile."""
        try:
            return self._make(generation)
        finally:
            with self._changed:
                if self._closed:
                    self._denoiser.forget()

    def _wait(self, deadline: float | None, idle: bool) -> int | None:
        """Return the generation if the next frame can be made in time; None if not, or after `close`."""
        with self._changed:
            if idle and not self._can_work():
                self._audio.finish(self._denoised + self._plan.new)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self._changed.wait_for(lambda: self._closed or self._can_work(), left)
            return self._generation if not self._closed and self._can_work() else None

    def _can_work(self) -> bool:
        return self._is_denoised() or self._new_frames() > 0

    def _is_denoised(self) -> bool:
        """Return whether the next frame is denoised, and its neighbour too if the median filter needs that."""
        following = self._pulled + 1
        alone = not self._denoiser.median_filter or self._audio.ends_at(following)
        return following < self._denoised or (alone and following == self._denoised)

    def _new_frames(self) -> int:
        return self._audio.ready_frames(self._denoised, self._denoised + self._plan.new)

    def _make(self, generation: int) -> LiveFrame | None:
        """Return the next frame; None after denoising a window for it, or if the work was discarded."""
        with self._changed:
            if generation != self._generation:
                return None
            denoised, first = self._is_denoised(), self._denoised
            if not denoised:
                count, held = self._new_frames(), self._held_latents(first)
                read_audio = self._model_input(first, first + self._plan.new)
        if denoised:
            return self._decode(generation)
        latents = self._denoise_window(first, held, read_audio, lambda: generation == self._generation)
        with self._changed:
            if generation == self._generation and latents is not None:
                self._latents.update(enumerate(latents[:count], first))
                self._denoised += count
        return None

    def _held_latents(self, first: int) -> Float32:
        """Return the latents (overlap, c, h, w) of the frames before `first`."""
        held = [self._latents[frame] for frame in range(first - self._plan.overlap, first)]
        return np.stack(held) if held else np.empty((0, 1, 1, 1), np.float32)

    def _model_input(self, first: int, stop: int) -> Callable[[], Float32]:
        """Read the model's input for frames [first, stop); the returned function normalises it without the lock."""
        plan, rate = self._plan, self._audio.model_rate
        samples, level = self._audio.model_input(first, stop)
        if not plan.normalized:
            return lambda: samples
        if not plan.gated:
            return lambda: normalize_live(samples, level, rate)
        detection = self._audio.detection_input(first, stop)

        def gated() -> Float32:
            gain, counted = voice_gains(detection, rate)
            return normalize_live(samples, level * counted, rate) * gain

        return gated

    def _denoise_window(
        self, first: int, held: Float32, read_audio: Callable[[], Float32], proceed: Callable[[], bool]
    ) -> Float32 | None:
        """Return the latents of the new frames of a window, `first` and later; None if `proceed` returned False."""
        samples, plan, stop = read_audio(), self._plan, first + self._plan.window - len(held)
        audio = AudioContext(samples, stop - plan.before, stop + plan.after)
        return self._denoiser.denoise(Window(0, first - len(held), stop), held, audio, proceed)

    def _denoise_silence(self) -> dict[int, Float32]:
        """Return the latents of a window of silence before the first frame."""
        start, no_latents = -self._plan.window, np.empty((0, 1, 1, 1), np.float32)
        latents = self._denoise_window(start, no_latents, self._model_input(start, 0), lambda: True)
        assert latents is not None
        return dict(enumerate(latents, start))

    def _decode(self, generation: int) -> LiveFrame | None:
        with self._changed:
            if generation != self._generation:
                return None
            before, latent = self._latents[self._pulled - 1], self._latents[self._pulled]
            following = self._latents[self._pulled + 1] if self._pulled + 1 < self._denoised else None
        image = self._denoiser.decode(before, latent, following)
        with self._changed:
            return self._emit(image) if generation == self._generation else None

    def _emit(self, image: UInt8) -> LiveFrame:
        """Count a frame as pulled and return it; discard the sound and the latents that can no longer be needed."""
        index, plan = self._pulled, self._plan
        live_frame = LiveFrame(image, index, index / self.fps, self._audio.frame_samples(index))
        self._pulled += 1
        self._earliest = max(self._earliest, self._pulled - plan.keep)
        self._audio.discard_before(self._earliest)
        for old in [frame for frame in self._latents if frame < self._earliest - max(plan.overlap, 1)]:
            del self._latents[old]
        return live_frame
