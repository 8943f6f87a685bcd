"""Make a talking-portrait video from a photo and a recording.

With the inputs that `make demo` draws:

    python examples/file_to_file.py out/portrait_a.png demo/speech.flac out/talking.mp4
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from vexpress_rt import GenerationConfig, Generator, VExpressError


def main(arguments: Sequence[str] | None = None) -> None:
    """Make a video file from a photo and a recording."""
    parser = argparse.ArgumentParser(description="Make a talking-portrait video from a photo and a recording.")
    parser.add_argument("photo", help="photo of the face")
    parser.add_argument("speech", help="sound file, or a video with sound")
    parser.add_argument("output", help="video to write: .mp4, .mov or .mkv")
    parser.add_argument("--engines", metavar="DIR", help="bundle of engines (default: the small model)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: those that the bundle recommends)")
    args = parser.parse_args(arguments)

    with Generator(args.engines) as generator:
        video = generator.generate(
            args.photo, args.speech, config=GenerationConfig(steps=args.steps), output=args.output, progress=show
        )

    print(f"\n{video.path}: {video.length} frames at {float(video.fps):g} frames per second")
    for note in video.notes:  # repairs and choices, such as which of two faces speaks
        print("note:", note)


def show(stage: str, done: int, total: int) -> None:
    """Print the progress of a stage on one line."""
    print(f"\r{stage}: {done} of {total}   ", end="", flush=True)


if __name__ == "__main__":
    try:
        main()
    except VExpressError as error:
        raise SystemExit(f"error: {error}") from None
