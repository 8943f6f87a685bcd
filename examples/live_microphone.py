"""Let a portrait speak while its speech comes in, and record its frames with their sound.

A recording is played at the pace of a microphone:

    python examples/live_microphone.py out/portrait_a.png demo/speech.flac out/live.mp4

With a microphone (`pip install sounddevice`), until Ctrl-C:

    python examples/live_microphone.py out/portrait_a.png microphone out/live.mp4
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import chain
from threading import Event
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from numpy.typing import NDArray

from vexpress_rt import GenerationConfig, Generator, LiveFrame, LiveSession, VExpressError

RATE = 16000  # Hz
CHUNK = RATE // 20  # samples: 50 ms


def main(arguments: Sequence[str] | None = None) -> None:
    """Record the portrait while it speaks."""
    parser = argparse.ArgumentParser(description="Let a portrait speak while its speech comes in.")
    parser.add_argument("photo", help="photo of the face")
    parser.add_argument("speech", help='recording to play at the pace of a microphone, or "microphone"')
    parser.add_argument("output", help="video to record")
    parser.add_argument("--engines", metavar="DIR", help="bundle of engines (default: the small model)")
    parser.add_argument("--steps", type=int, default=4, help="denoising steps; fewer are faster (default: 4)")
    args = parser.parse_args(arguments)

    chunks = microphone() if args.speech == "microphone" else paced_recording(args.speech)
    config = GenerationConfig(steps=args.steps, guidance_scale=1)  # no guidance: half the work
    stopped = Event()
    with (
        Generator(args.engines) as generator,
        generator.live(args.photo, config=config, sample_rate=RATE, max_lag=60) as session,  # a recorder can wait
        Recorder(args.output, generator.size, session.fps) as recorder,
        ThreadPoolExecutor(1) as pool,
    ):
        speaking = pool.submit(push, session, chunks, stopped)
        longest_lag = 0.0
        try:
            while True:
                ended = speaking.done()  # asked first: after this, no sound is pushed
                frame = session.pull(timeout=0.1)
                if frame is not None:
                    recorder.write(frame)  # or show it: frame.image at frame.time, with frame.samples
                    longest_lag = max(longest_lag, session.lag)
                elif ended:
                    break
        except KeyboardInterrupt:
            print("stopping")
        finally:
            stopped.set()
        speaking.result()  # raises the error of the thread, if there was one
    print(f"{args.output}: {recorder.count} frames; at most {longest_lag:.2f} s of speech waited for their frames")


def push(session: LiveSession, chunks: Iterator[NDArray[np.float32]], stopped: Event) -> None:
    """Push sound as it comes, until it ends or `stopped` is set."""
    for chunk in chunks:
        if stopped.is_set():
            return
        session.push(chunk)
    session.flush()


def paced_recording(path: str) -> Iterator[NDArray[np.float32]]:
    """Yield the samples of a recording, mono at RATE, in chunks, each when a microphone would deliver it."""
    start, count = time.monotonic(), 0
    resampler = av.AudioResampler("flt", "mono", RATE, frame_size=CHUNK)
    with av.open(path) as container:
        if not container.streams.audio:
            raise SystemExit(f"error: {path} has no sound; expected a recording of speech")
        for frame in chain(container.decode(audio=0), [None]):  # None drains the resampler
            for block in resampler.resample(frame):
                count += block.samples
                time.sleep(max(0.0, start + count / RATE - time.monotonic()))
                yield block.to_ndarray()[0]


def microphone() -> Iterator[NDArray[np.float32]]:
    """Return the sound of the default microphone, mono at RATE, in chunks."""
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: the PortAudio library is missing
        raise SystemExit(f"error: the microphone needs sounddevice ({error}): pip install sounddevice") from None

    def listen() -> Iterator[NDArray[np.float32]]:
        with sounddevice.InputStream(samplerate=RATE, channels=1, dtype="float32", blocksize=CHUNK) as stream:
            while True:
                samples, _ = stream.read(CHUNK)
                yield samples[:, 0]

    return listen()


class Recorder:
    """Writes frames and the sound that belongs to them into a video."""

    def __init__(self, path: str, size: tuple[int, int], fps: Fraction) -> None:
        self.count = 0
        self._container = av.open(path, "w")
        self._video = self._container.add_stream("libx264", fps)
        self._video.height, self._video.width = size
        self._video.pix_fmt = "yuv420p"
        self._audio: Any = self._container.add_stream("aac", RATE)
        self._audio.layout = "mono"
        self._samples = 0

    def write(self, frame: LiveFrame) -> None:
        """Write a frame and its sound."""
        self._container.mux(self._video.encode(av.VideoFrame.from_ndarray(frame.image, "rgb24")))
        sound = av.AudioFrame.from_ndarray(frame.samples[None], "fltp", "mono")
        sound.sample_rate, sound.pts, sound.time_base = RATE, self._samples, Fraction(1, RATE)
        self._container.mux(self._audio.encode(sound))
        self._samples += len(frame.samples)
        self.count += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for stream in (self._video, self._audio):
            self._container.mux(stream.encode(None))
        self._container.close()


if __name__ == "__main__":
    try:
        main()
    except VExpressError as error:
        raise SystemExit(f"error: {error}") from None
