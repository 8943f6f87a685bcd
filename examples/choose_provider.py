"""Choose the provider that runs the engines, in an order of your own, and print why others were passed over.

    python examples/choose_provider.py out/portrait_a.png demo/speech.flac out/talking.mp4 --providers cuda cpu

`Generator(provider="auto")`, the default, takes the best provider that the bundle and this machine allow. Use
your own order if that does not suit: other work needs the GPU, or compiling must not begin on this machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from vexpress_rt import BackendError, ConfigError, GenerationConfig, Generator, VExpressError


def main(arguments: Sequence[str] | None = None) -> None:
    """Make a video with the first provider that runs here."""
    parser = argparse.ArgumentParser(description="Choose the provider that runs the engines, in an order of your own.")
    parser.add_argument("photo", help="photo of the face")
    parser.add_argument("speech", help="sound file, or a video with sound")
    parser.add_argument("output", help="video to write: .mp4, .mov or .mkv")
    parser.add_argument(
        "--providers", nargs="+", default=["tensorrt", "cuda", "cpu"], help="providers in the order to try"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: one per core)")
    parser.add_argument("--engines", metavar="DIR", help="bundle of engines (default: the small model)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: those that the bundle recommends)")
    args = parser.parse_args(arguments)

    with open_generator(args.engines, args.providers, args.threads) as generator:
        print(generator.describe())
        config = GenerationConfig(steps=args.steps)
        video = generator.generate(args.photo, args.speech, config=config, output=args.output)
    print(f"{video.path}: {video.length} frames, {video.timings['total']:.1f} s")


def open_generator(engines: str | None, providers: Sequence[str], threads: int | None) -> Generator:
    """Return a generator on the first of `providers` that the bundle and this machine allow."""
    reasons = []
    for provider in providers:
        try:
            # rebuild="never": plans of another GPU are an error here, not minutes of compiling
            return Generator(engines, provider=provider, threads=threads, rebuild="never")
        except (BackendError, ConfigError) as error:  # a library or a GPU is missing, or the bundle is of another kind
            print(f"not {provider}: {error}")
            reasons.append(f"{provider}: {error}")
    raise SystemExit("\n".join(["error: no provider works", *reasons]))


if __name__ == "__main__":
    try:
        main()
    except VExpressError as error:
        raise SystemExit(f"error: {error}") from None
