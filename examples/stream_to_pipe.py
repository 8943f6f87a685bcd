"""Write each frame to standard output as soon as it is final: raw RGB, 8 bits per channel.

Show the video while it is made (the small model makes 128 x 128 pixels, 25 frames per second):

    python examples/stream_to_pipe.py out/portrait_a.png demo/speech.flac |
        ffplay -f rawvideo -pixel_format rgb24 -video_size 128x128 -framerate 25 -

The size and the frame rate of any bundle are printed to standard error before the first frame.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from vexpress_rt import GenerationConfig, Generator, VExpressError


def main(arguments: Sequence[str] | None = None) -> None:
    """Write frames to standard output while they are made."""
    parser = argparse.ArgumentParser(description="Write frames to standard output as raw RGB while they are made.")
    parser.add_argument("photo", help="photo of the face")
    parser.add_argument("speech", help="sound file, or a video with sound")
    parser.add_argument("--engines", metavar="DIR", help="bundle of engines (default: the small model)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: those that the bundle recommends)")
    args = parser.parse_args(arguments)

    pipe = sys.stdout.buffer
    with Generator(args.engines) as generator:
        height, width = generator.size
        config = GenerationConfig(steps=args.steps)
        with generator.stream(args.photo, args.speech, config=config) as stream:
            print(
                f"{stream.length} frames of {width} x {height} pixels, {float(stream.fps):g} per second",
                file=sys.stderr,
            )
            for frame in stream:  # (height, width, 3) uint8
                pipe.write(frame.tobytes())
                pipe.flush()


if __name__ == "__main__":
    try:
        main()
    except VExpressError as error:
        raise SystemExit(f"error: {error}") from None
    except BrokenPipeError:  # the player was closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails again when it flushes at exit
