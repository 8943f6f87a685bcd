"""A session in which a portrait speaks while its speech comes in, of which the end is not known."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Self

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

_LARGE = 1 << 26  # bytes of pushed sound above which it is compared with the free memory


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """A frame of a session, and the sound that belongs to it.

    image: (H, W, 3) uint8 RGB.  index: 0, 1, 2 and so on.  time: index / fps seconds, exactly.
    samples: (n,) float32, mono, at the session's `sample_rate`: those from `time` until the next frame's. Played one
        after the other they are what was pushed, without a gap; n differs by one where the rates do not divide.
    """

    image: UInt8 = field(repr=False)
    index: int
    time: Fraction
    samples: Float32 = field(repr=False)


class LiveSession:
    """Made by `Generator.live`: sound goes in while it is spoken, frames come out.

    with generator.live(portrait) as session:
        session.push(samples)
        for frame in session.frames():
            show(frame.image); play(frame.samples)

    The clock is the sound: frame k shows what is said from k / fps seconds on, counted in what was pushed, and carries
    these samples. Whoever wants a face that rests while nobody speaks pushes silence, or asks for idle frames.

    Work is done in `pull` and `frames` and nowhere else: a window of frames is denoised to its end when all the sound
    that it needs is there, and its frames are decoded as they are asked for. With the median filter the last frame of a
    window waits for the next window, in which its neighbour is. `push`, `flush` and `interrupt` return at once, also
    while another thread pulls. All may be called from any thread; of two that pull one waits while the other works.
    What is given out depends on the sound and on where in it the calls come, not on how it was cut to pieces.

    fps: frames a second, exact.  sample_rate: Hz, of the sound that frames carry.
    notes: what was repaired, left out or decided while the photo and the keypoints were read, as in `Video.notes`.
    """

    def __init__(
        self, stages: WindowDenoiser, sound: SessionAudio, plan: SessionPlan, notes: tuple[str, ...] = ()
    ) -> None:
        self.fps = sound.fps
        self.sample_rate = sound.rate
        self.notes = notes
        self._stages, self._sound, self._plan = stages, sound, plan
        self._changed = threading.Condition()  # guards everything but the stages
        self._making = threading.Lock()  # held by the one that makes frames
        self._turn = 0  # what was begun in an earlier one is not wanted any more
        self._given = self._denoised = 0  # frames
        self._oldest = 0  # frames that were given and cannot be taken back
        self._closed = False
        self._latents = self._rest()

    @property
    def lag(self) -> float:
        """Seconds of speech that were pushed and whose frames were not pulled yet."""
        with self._changed:
            return float(self._lag)

    @property
    def _lag(self) -> Fraction:
        return max(Fraction(0), self._sound.seconds - self._given / self.fps)

    def push(self, samples: NDArray[Any], rate: int | None = None) -> None:
        """Go on speaking.

        samples: (n,), mono, any n: float32 (or another floating dtype) of full scale 1, or int16; copied.
        rate: Hz, whole; None is the session's. Another one is resampled, without a seam between calls; who changes it
            within a word hears that.

        Raises AudioError for anything else, for samples that are NaN, infinite or beyond `media.LOUDEST`, and if more
        than `max_lag` seconds would wait for being pulled; nothing of the samples is taken then. Raises InputError
        after `close`.
        """
        if not isinstance(samples, np.ndarray) or samples.ndim != 1:
            found = f"shape {samples.shape}" if isinstance(samples, np.ndarray) else type(samples).__name__
            raise AudioError(f"audio samples of {found}; expected a NumPy array (n,) of mono sound: average channels")
        rate = self.sample_rate if rate is None else check_rate(rate)
        with self._changed:
            self._check_room(len(samples), rate)  # before hours of it are converted
        taken = to_float32(samples)
        with self._changed:
            self._check_room(len(taken), rate)  # another thread may have pushed
            self._sound.push(taken, rate)
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
        """Check that the pushed samples fit into the memory: converted, at both rates, in buffers that double."""
        kept = count * (self._sound.rate + self._sound.model_rate) // rate
        if (size := 4 * (count + 2 * kept)) > _LARGE:
            need = Need(size, "the samples, resampled", "pull frames first, push less at once, or use lower rates")
            check_memory(f"pushing {count / rate:.1f} seconds of speech", [need], free_memory(), AudioError)

    def pull(self, timeout: float | None = 0.0, *, idle: bool = False) -> LiveFrame | None:
        """The next frame, or None if more sound is needed for it.

        timeout: seconds to wait for that sound, at least 0; None waits until it comes, or the session is closed. The
            time that the work itself takes does not count.
        idle: instead of waiting, continue the speech with as much silence as a window needs. There is always a frame
            then; speech that is pushed later comes after it.

        Raises BackendError if an engine fails or the generator was closed, ConfigError for another timeout, and
        InputError after `close`.
        """
        with self._changed:
            self._check_open()
        return self._pull(check_timeout(timeout), idle)

    def frames(self, timeout: float | None = 0.0) -> Iterator[LiveFrame]:
        """Frames as `pull` gives them, until one would have to wait for longer than `timeout`, or `close`."""
        with self._changed:
            self._check_open()
        seconds = check_timeout(timeout)
        return iter(lambda: self._pull(seconds, False), None)

    def flush(self) -> None:
        """The speech has ended: all its frames can be pulled now, ceil(duration x fps) of them; the last is completed
        with silence. What is pushed later begins with the frame after. Raises InputError after `close`.
        """
        with self._changed:
            self._check_open()
            self._sound.finish()
            self._changed.notify_all()

    def interrupt(self, shown: int | None = None) -> None:
        """Be silent: drop the speech that was not shown, and go on from the last frame that was.

        shown: frames of the session that were shown; None: all that were pulled. At most the frames of the last
            `context` seconds can be taken back. The next frame that is pulled has this index; what is said in it was
            not pushed yet, and the face returns to rest if that is silence.

        A window in work is given up after its current step. Raises InputError for frames that cannot be taken back or
        were not pulled, and after `close`.
        """
        with self._changed:
            self._check_open()
            shown = self._given if shown is None else shown
            number = plain_number(shown, whole=True)
            if number is None or not self._oldest <= number <= self._given:
                raise InputError(
                    f"{brief(shown)} frames were shown; expected {self._oldest} to {self._given}: no more than were "
                    "pulled, and no fewer than can be taken back: make the session with more context"
                )
            self._given = int(number)
            self._sound.interrupt(self._given)
            self._drop()
            self._changed.notify_all()

    def close(self) -> None:
        """Free what the session holds; whoever waits for a frame gets None. Closing twice is allowed."""
        with self._changed:
            self._closed = True
            self._latents.clear()
            self._sound.interrupt(0)
            self._drop()
            self._stages.forget()
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("this live session was closed: make a new one with Generator.live")

    def _drop(self) -> None:
        """Want nothing any more that was not given."""
        self._turn += 1
        self._denoised = self._given

    def _pull(self, timeout: float | None, idle: bool) -> LiveFrame | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._wait(deadline, idle) is not None:
            with self._making:  # not while waiting: another that does not wait could not pull then
                turn = self._wait(time.monotonic(), idle)  # it may have taken the frame
                if turn is not None and (frame := self._work(turn)) is not None:
                    return frame
        return None

    def _work(self, turn: int) -> LiveFrame | None:
        """As `_make`; of a session that is closed meanwhile nothing stays behind."""
        try:
            return self._make(turn)
        finally:
            with self._changed:
                if self._closed:
                    self._stages.forget()

    def _wait(self, deadline: float | None, idle: bool) -> int | None:
        """The turn in which the next frame can be made; None if it cannot in time, or the session was closed."""
        with self._changed:
            if idle and not self._possible():
                self._sound.finish(self._denoised + self._plan.new)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self._changed.wait_for(lambda: self._closed or self._possible(), left)
            return self._turn if not self._closed and self._possible() else None

    def _possible(self) -> bool:
        return self._finished() or self._new_frames() > 0

    def _finished(self) -> bool:
        """Whether the next frame is denoised, and what the median takes of the one after it."""
        following = self._given + 1
        alone = not self._stages.median_filter or self._sound.ends_with(following)
        return following < self._denoised or (alone and following == self._denoised)

    def _new_frames(self) -> int:
        return self._sound.frames_of(self._denoised, self._denoised + self._plan.new)

    def _make(self, turn: int) -> LiveFrame | None:
        """The next frame; None if that needs another window, or nothing of this turn is wanted any more."""
        with self._changed:
            if turn != self._turn:
                return None
            finished, first = self._finished(), self._denoised
            if not finished:
                count, held = self._new_frames(), self._held(first)
                sound = self._listen(first, first + self._plan.new)
        if finished:
            return self._show(turn)
        latents = self._denoise(first, held, sound, lambda: turn == self._turn)
        with self._changed:
            if turn == self._turn and latents is not None:
                self._latents.update(enumerate(latents[:count], first))
                self._denoised += count
        return None

    def _held(self, first: int) -> Float32:
        """Latents (overlap, c, h, w) of the frames before `first`."""
        held = [self._latents[frame] for frame in range(first - self._plan.overlap, first)]
        return np.stack(held) if held else np.empty((0, 1, 1, 1), np.float32)

    def _listen(self, first: int, stop: int) -> Callable[[], Float32]:
        """Read the model's input for frames [first, stop); the returned function normalises it."""
        plan, rate = self._plan, self._sound.model_rate
        samples, level = self._sound.around(first, stop)
        if not plan.normalized:
            return lambda: samples
        if not plan.gated:
            return lambda: normalize_live(samples, level, rate)
        recent = self._sound.recent(first, stop)

        def gated() -> Float32:
            gain, counted = voice_gains(recent, rate)
            return normalize_live(samples, level * counted, rate) * gain

        return gated

    def _denoise(
        self, first: int, held: Float32, sound: Callable[[], Float32], proceed: Callable[[], bool]
    ) -> Float32 | None:
        """The latents of the window whose first new frame is `first`."""
        samples, plan, stop = sound(), self._plan, first + self._plan.window - len(held)
        heard = AudioContext(samples, stop - plan.before, stop + plan.after)
        return self._stages.denoise(Window(0, first - len(held), stop), held, heard, proceed)

    def _rest(self) -> dict[int, Float32]:
        """Latents of the frames before the first, in which nobody speaks. Engines are loaded and warm then."""
        start, nothing = -self._plan.window, np.empty((0, 1, 1, 1), np.float32)
        latents = self._denoise(start, nothing, self._listen(start, 0), lambda: True)
        assert latents is not None
        return dict(enumerate(latents, start))

    def _show(self, turn: int) -> LiveFrame | None:
        with self._changed:
            if turn != self._turn:
                return None
            before, latent = self._latents[self._given - 1], self._latents[self._given]
            following = self._latents[self._given + 1] if self._given + 1 < self._denoised else None
        image = self._stages.decode(before, latent, following)
        with self._changed:
            return self._give(image) if turn == self._turn else None

    def _give(self, image: UInt8) -> LiveFrame:
        index, plan = self._given, self._plan
        frame = LiveFrame(image, index, index / self.fps, self._sound.of_frame(index))
        self._given += 1
        self._oldest = max(self._oldest, self._given - plan.keep)
        self._sound.forget(self._oldest)
        for known in [known for known in self._latents if known < self._oldest - max(plan.overlap, 1)]:
            del self._latents[known]
        return frame
