"""Let many portraits say the same recording: one generator, several threads.

    python examples/many_portraits.py demo/speech.flac out/many out/portrait_a.png out/portrait_b.png

The engines are loaded once, whatever the number of portraits. On a CPU, each engine already uses all cores, so that
threads save little time; they pay on a GPU, and in a server that answers several clients.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vexpress_rt import GenerationConfig, Generator, VExpressError, Video


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a video of each photo; return the exit code."""
    parser = argparse.ArgumentParser(description="Let many portraits say the same recording.")
    parser.add_argument("speech", help="sound file, or a video with sound")
    parser.add_argument("output", type=Path, help="folder for the videos")
    parser.add_argument("photos", type=Path, nargs="+", metavar="photo", help="photo of a face")
    parser.add_argument("--workers", type=int, default=2, help="videos made at the same time (default: 2)")
    parser.add_argument("--engines", metavar="DIR", help="bundle of engines (default: the small model)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: those that the bundle recommends)")
    args = parser.parse_args(arguments)

    args.output.mkdir(parents=True, exist_ok=True)
    config = GenerationConfig(steps=args.steps)
    failed = 0
    with Generator(args.engines) as generator, ThreadPoolExecutor(args.workers) as pool:

        def make(photo: Path) -> Video:
            return generator.generate(photo, args.speech, config=config, output=args.output / f"{photo.stem}.mp4")

        videos = {photo: pool.submit(make, photo) for photo in args.photos}
        for photo, future in videos.items():
            try:
                video = future.result()
                print(f"{video.path}: {video.length} frames, {video.timings['total']:.1f} s")
            except VExpressError as error:  # of this photo alone: the others are made all the same
                print(f"{photo}: {error}")
                failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except VExpressError as error:
        raise SystemExit(f"error: {error}") from None
