"""A live session: a portrait speaks while its speech arrives."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.config import brief, plain_number
from vexpress_rt.diffusion.context_windows import Window
from vexpress_rt.errors import AudioError, InputError
from vexpress_rt.live.audio_buffer import SessionAudio, normalize_live, voice_gains
from vexpress_rt.live.frame import LiveFrame
from vexpress_rt.live.playback_clock import PlaybackClock
from vexpress_rt.live.session_config import SessionPlan, check_timeout, seconds_above
from vexpress_rt.live.utterances import Utterances
from vexpress_rt.live.window_denoiser import AudioContext, WindowDenoiser
from vexpress_rt.media.audio_input import check_rate, to_float32
from vexpress_rt.types import Float32, UInt8
from vexpress_rt.utils.memory_budget import Need, check_memory, free_memory
from vexpress_rt.utils.process_bound import refuse_pickling

_LARGE = 1 << 26  # bytes; a larger piece of pushed sound is compared with the free memory
_RECENT = 4  # seconds of frames over which `realtime_factor` is measured


class LiveSession:
    """A portrait that speaks while its speech arrives: the result of `Generator.live`.

        with generator.live(portrait) as session:
            session.push(samples)
            for frame in session.frames():
                show(frame.image)
                play(frame.samples)

    Pushed samples are the clock: frame k shows the speech from k / fps seconds on, and carries the samples of that
    speech. For an idle face, push silence or call `pull(idle=True)`.

    An utterance begins with the first sample pushed after the end of the one before. It ends with `flush`, with
    `interrupt`, or in `pull(idle=True)` after `idle_after` seconds without new sound. Frames say which utterance they
    belong to. Idle frames lie between utterances only, so that none breaks a word.

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
        clock: Returns the time in seconds, by which gaps, delays and work are measured: `time.monotonic`. A simulation
            can replace it.
    """

    def __init__(
        self, denoiser: WindowDenoiser, audio: SessionAudio, plan: SessionPlan, notes: tuple[str, ...] = ()
    ) -> None:
        """Denoise a window of silence, so that the motion starts from rest; this also loads and warms up engines."""
        self.fps = audio.fps
        self.sample_rate = audio.rate
        self.notes = notes
        self.clock: Callable[[], float] = time.monotonic
        self._denoiser, self._audio, self._plan = denoiser, audio, plan
        self._changed = threading.Condition()  # guards everything but the denoiser
        self._working = threading.Lock()  # held by the thread that makes frames
        self._generation = 0  # rises with `_discard`; work that began in an earlier generation is thrown away
        self._pulled = self._denoised = 0  # frames
        self._earliest = 0  # the earliest frame that can be taken back
        self._utterances, self._playback = Utterances(), PlaybackClock(self.fps)
        self._last_push = 0.0  # time
        self._last_end = 0  # the frame after the last one that was returned
        self._last_utterance = 0  # number of the utterance of the last frame that was not idle
        self._skips = 0  # times that speech was skipped
        self._hold_until = 0  # frames before it have the image of the frame before (overload="drop")
        self._held_image: UInt8 | None = None  # copy of the last image, if frames may be held
        self._shares: dict[int, float] = {}  # seconds of denoising, by denoised frame
        self._costs: deque[float] = deque(maxlen=math.ceil(_RECENT * self.fps))  # seconds of work, by frame
        self._closed = False
        self._oldest = -plan.window  # the oldest frame whose latents are kept
        self._latents = self._denoise_silence()

    @property
    def lag(self) -> float:
        """Seconds of pushed speech, and of silence between utterances, whose frames were not pulled yet.

        It includes speech that arrived ahead of its time; `delay` does not.
        """
        with self._changed:
            return float(self._lag)

    @property
    def delay(self) -> float:
        """Seconds by which the next frame is late; 0 if it is not, or if its sound has not arrived.

        A frame is due 1 / fps after the frame before it was due, but not before all the sound has arrived that a window
        beginning with it needs: its new frames, the look-ahead and one frame for the median filter. So neither late
        sound, nor the wait for the sound of a window, nor speech that arrives faster than it is played counts as delay.
        """
        with self._changed:
            return self._playback.delay(self._pulled, self.clock())

    @property
    def realtime_factor(self) -> float | None:
        """Frames made per second of work, over `fps`: at 1 or more the session keeps up. None before the first frame.

        It is the mean over the frames made last, of at most 4 seconds of video, idle frames included. The work on a
        frame is its equal share of the denoising of its window, and its decoding. Waiting for sound does not count,
        nor do held frames. A window that was abandoned because it was late counts with the work done on it.
        """
        with self._changed:
            if not self._costs:
                return None
            seconds = sum(self._costs) / len(self._costs)
            return float(1 / (seconds * float(self.fps))) if seconds > 0 else math.inf

    @property
    def _lag(self) -> Fraction:
        return max(Fraction(0), self._audio.seconds - self._pulled / self.fps)

    def push(self, samples: NDArray[Any], rate: int | None = None) -> None:
        """Append speech. The first sample after the end of an utterance begins a new one.

        Args:
            samples: (n,), mono, any n: float32 (or another floating dtype) of full scale 1, or int16. They are copied.
            rate: Integer Hz; None for the session's rate. Other rates are resampled, without a seam between calls with
                the same rate. A change of the rate within a word is audible.

        Raises:
            AudioError: The samples have another shape or dtype, or are NaN, infinite or above 1e4 times full scale; or
                more speech than `overload` and `max_lag` allow would wait to be pulled. Then no sample is appended.
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
            if taken.size:
                self._utterances.begin(self._end_of_sound())
                self._last_push = self.clock()
            self._audio.push(taken, rate)
            self._sound_arrived()

    def _check_room(self, count: int, rate: int) -> None:
        self._check_open()
        waiting, limit = float(self._lag + Fraction(count, rate)), self._plan.longest_queue
        if count and waiting > limit:
            name = "max_lag, " if limit == self._plan.max_lag else ""
            remedy = "a larger max_lag" if self._plan.overload != "raise" else 'a larger max_lag or overload="drop"'
            raise AudioError(
                f"{seconds_above(waiting, limit)} seconds of speech would wait to be pulled; expected at most "
                f"{name}{limit:g}: pull frames first, push less at once, or make the session with {remedy}"
            )
        self._check_memory(count, rate)

    def _end_of_sound(self) -> int:
        """Return the first frame after the sound."""
        return math.ceil(self._audio.seconds * self.fps)

    def _end_utterance(self) -> None:
        self._audio.finish()
        self._utterances.end(self._end_of_sound())
        self._sound_arrived()

    def _sound_arrived(self) -> None:
        """Note which frames can be made, and wake the threads that wait for them."""
        self._playback.arrive(self._audio.ready_before(self._plan.new), self.clock())
        self._changed.notify_all()

    def _check_memory(self, count: int, rate: int) -> None:
        """Check that pushed samples fit into memory: converted, then kept at both rates in double-size buffers."""
        kept = count * (self._audio.rate + self._audio.model_rate) // rate
        if (size := 4 * (count + 2 * kept)) > _LARGE:
            need = Need(size, "the samples, resampled", "pull frames first, push less at once, or use lower rates")
            check_memory(f"pushing {count / rate:.1f} seconds of speech", [need], free_memory(), AudioError)

    def pull(self, timeout: float | None = 0.0, *, idle: bool = False) -> LiveFrame | None:
        """Return the next frame, or None if it needs more sound.

        With `overload="skip"`, also return None if speech was skipped twice during the call, because no window is made
        in time.

        Args:
            timeout: Seconds to wait for that sound, at least 0; None waits until it arrives or the session is closed.
                Time spent computing does not count.
            idle: Whether to return idle frames between utterances, instead of waiting. They come in windows of silence;
                speech that is pushed later follows the window that was begun, so it starts at most the new frames of
                one window after the last idle frame. Inside an utterance the call waits for sound as without `idle`,
                and ends the utterance after `idle_after` seconds without new sound. While it returns None, show the
                last image again.

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
            self._end_utterance()

    def interrupt(self, shown: int | None = None) -> None:
        """Discard the speech of frames that were not shown, and continue from the last shown frame.

        A window that is being denoised is dropped after its current step. The next pulled frame has the index `shown`,
        and its speech is pushed anew; silence returns the face to rest.

        Args:
            shown: Number of frames of the session that were shown, which is the `index` of the last one plus 1; None
                for all that were pulled. At most the pulled frames of the last `context` seconds can be taken back.

        Raises:
            InputError: The frames cannot be taken back or were not pulled, or the session was closed.
        """
        with self._changed:
            self._check_open()
            shown = self._pulled if shown is None else shown
            number = plain_number(shown, whole=True)
            if number == self._last_end:  # nothing that was skipped since has to be taken back
                number = max(number, self._earliest)
            if number is None or not self._earliest <= number <= self._pulled:
                raise InputError(
                    f"{brief(shown)} frames were shown; expected {self._earliest} to {self._pulled}: no more than were "
                    "pulled, and no fewer than can be taken back: make the session with more context"
                )
            self._pulled = self._last_end = int(number)
            self._audio.interrupt(self._pulled)
            self._utterances.cut(self._pulled)
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
        self._denoised = self._hold_until = self._pulled
        self._held_image = None
        self._playback.restart()

    def _pull(self, timeout: float | None, idle: bool) -> LiveFrame | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        skips = self._skips
        while self._wait(deadline, idle) is not None and self._skips - skips < 2:
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
            while not self._closed:
                if idle:
                    self._add_idle_frames()
                if self._can_work():
                    return self._generation
                left = [] if deadline is None else [deadline - time.monotonic()]
                if left and left[0] <= 0:
                    return None
                if idle and self._plan.idle_after is not None:  # an utterance is open
                    left.append(max(0.0, self._last_push + self._plan.idle_after - self.clock()))
                self._changed.wait(min(left, default=None))
            return None

    def _add_idle_frames(self) -> None:
        """Append a window of silence if no frame can be made and no utterance is open; end one that has paused."""
        if self._can_work():
            return
        if self._utterances.open:
            limit = self._plan.idle_after
            if limit is None or self.clock() - self._last_push < limit:
                return
            self._end_utterance()
        if not self._can_work():
            self._audio.finish(self._denoised + self._plan.new)
            self._sound_arrived()

    def _can_work(self) -> bool:
        return self._pulled < self._hold_until or self._is_denoised() or self._new_frames() > 0

    def _is_denoised(self) -> bool:
        """Return whether the next frame is denoised, and its neighbour too if the median filter needs that."""
        following = self._pulled + 1
        alone = not self._denoiser.median_filter or self._audio.ends_at(following)
        return following < self._denoised or (alone and following == self._denoised)

    def _new_frames(self) -> int:
        return self._audio.ready_frames(self._denoised, self._denoised + self._plan.new)

    def _make(self, generation: int) -> LiveFrame | None:
        """Return the next frame; None after denoising a window for it, or if the work was discarded or is not ready."""
        with self._changed:
            if generation != self._generation:
                return None
            self._catch_up()
            if not self._can_work():
                return None
            hold, denoised, first = self._pulled < self._hold_until, self._is_denoised(), self._denoised
            if not (hold or denoised):
                count, held = self._new_frames(), self._held_latents(first)
                read_audio = self._model_input(first, first + self._plan.new)
        if hold:
            return self._hold(generation)
        if denoised:
            return self._decode(generation)
        began = self.clock()
        latents = self._denoise_window(first, held, read_audio, lambda: self._is_wanted(generation))
        share = (self.clock() - began) / count
        with self._changed:
            if generation != self._generation:
                return None
            if latents is None:
                self._costs.extend([share] * count)
            else:
                self._latents.update(enumerate(latents[:count], first))
                self._shares.update((frame, share) for frame in range(first, first + count))
                self._denoised += count
        return None

    def _is_wanted(self, generation: int) -> bool:
        """Return whether to go on with a window: its speech was not discarded, and it is not too late."""
        with self._changed:
            return generation == self._generation and not self._is_late()

    def _is_late(self) -> bool:
        """Return whether the next frame is so late that pictures or speech are dropped. Idle frames alone never are."""
        frame = self._pulled
        bounded = self._plan.overload != "raise" and frame >= self._hold_until and self._utterances.any_after(frame)
        return bounded and self._playback.delay(self._pulled, self.clock()) > self._plan.max_lag

    def _catch_up(self) -> None:
        """If the next frame is too late, hold or skip every frame whose time has passed."""
        if not self._is_late():
            return
        frame = self._pulled + self._playback.overdue(self._pulled, self.clock())
        if frame >= self._denoised:  # the next window continues from the last image
            self._latents.update(dict.fromkeys(range(self._pulled, frame), self._latents[self._pulled - 1]))
            self._denoised = frame
        if self._plan.overload == "drop":
            self._hold_until = frame
        else:
            self._skips += 1
            while self._pulled < frame:
                self._go_on()

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
        began = self.clock()
        image = self._denoiser.decode(before, latent, following)
        took = self.clock() - began
        with self._changed:
            if generation != self._generation:
                return None
            self._costs.append(self._shares.get(self._pulled, 0.0) + took)
            if self._plan.overload == "drop":
                self._held_image = image.copy()  # the caller may change its own
            return self._emit(image)

    def _hold(self, generation: int) -> LiveFrame | None:
        """Return the next frame with the image of the frame before."""
        with self._changed:
            if generation != self._generation:
                return None
            image, latest = self._held_image, self._latents[self._pulled - 1]
        if image is None:
            image = self._denoiser.decode(latest, latest, None)
        with self._changed:
            if generation != self._generation:
                return None
            self._held_image = image
            return self._emit(image.copy(), held=True)

    def _emit(self, image: UInt8, *, held: bool = False) -> LiveFrame:
        """Count a frame as pulled and return it."""
        index, place = self._pulled, self._utterances.place(self._pulled)
        live_frame = LiveFrame(
            image,
            index,
            index / self.fps,
            self._audio.frame_samples(index),
            idle=place.idle,
            utterance=place.utterance,
            first=not place.idle and place.utterance != self._last_utterance,
            last=place.last,
            held=held,
        )
        if not place.idle:
            self._last_utterance = place.utterance
        self._go_on()
        self._last_end = self._pulled
        return live_frame

    def _go_on(self) -> None:
        """Count a frame as pulled; discard the sound and the latents that can no longer be needed."""
        plan = self._plan
        self._playback.pulled(self._pulled)
        self._pulled += 1
        self._earliest = max(self._earliest, self._pulled - plan.keep)
        self._audio.discard_before(self._earliest)
        self._utterances.forget_before(self._earliest)
        while self._oldest < self._earliest - max(plan.overlap, 1):
            self._latents.pop(self._oldest, None)
            self._shares.pop(self._oldest, None)
            self._oldest += 1
