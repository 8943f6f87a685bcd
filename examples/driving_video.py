"""Let a portrait move its head like the person in a video, while it says another recording.

With the inputs that `make demo` draws:

    python examples/driving_video.py out/portrait_a.png demo/speech.flac out/driving.mp4 out/driven.mp4
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from vexpress_rt import GenerationConfig, Generator, VExpressError

RETARGET = {
    "same": "no_retarget",  # the portrait's own video: its keypoints as they are
    "slight": "offset_retarget",  # another person: slight motion around the portrait's own pose
    "full": "naive_retarget",  # another person: the whole motion, scaled to the portrait's face
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Make a video whose head moves like the one in another video."""
    parser = argparse.ArgumentParser(description="Let a portrait move its head like the person in a video.")
    parser.add_argument("photo", help="photo of the face")
    parser.add_argument("speech", help="sound file, or a video with sound; pass the driving video to keep its speech")
    parser.add_argument("driving", help="video whose face is followed")
    parser.add_argument("output", help="video to write: .mp4, .mov or .mkv")
    parser.add_argument("--motion", choices=RETARGET, default="full", help="how to fit the motion (default: full)")
    parser.add_argument("--engines", metavar="DIR", help="bundle of engines (default: the small model)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: those that the bundle recommends)")
    args = parser.parse_args(arguments)

    with Generator(args.engines) as generator:
        video = generator.generate(
            args.photo,
            args.speech,
            keypoints=args.driving,
            retarget=RETARGET[args.motion],
            config=GenerationConfig(steps=args.steps),
            output=args.output,
        )

    nose = video.keypoints[:, 2]  # (length, 2), pixels of the video
    print(f"{video.path}: {video.length} frames; the nose moves over {nose.max(0) - nose.min(0)} pixels (x, y)")
    for note in video.notes:  # such as frames in which no face was found
        print("note:", note)


if __name__ == "__main__":
    try:
        main()
    except VExpressError as error:
        raise SystemExit(f"error: {error}") from None
