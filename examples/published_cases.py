"""Make the cases that the public V-Express repository publishes, with its settings: videos and one contact sheet.

You need a bundle of the released weights (`python -m export.build --weights model_ckpts`) and a checkout of the public
repository, whose `test_samples` holds the inputs:

    git clone https://github.com/tencent-ailab/V-Express
    python examples/published_cases.py V-Express --engines engines/512x512-fp16-tensorrt --output out/published

The sheet shows the photo and frames of our video and, below them, frames of the video that the keypoints were found in,
at the same times. `--list` prints the cases. If a case cannot be made, the sheet says why, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont

from vexpress_rt import GenerationConfig, Generator, KeypointTrack, VExpressError, Video
from vexpress_rt.face.keypoint_track import load_keypoints

SIZE = (512, 512)  # (height, width) in pixels of the pictures in which the published keypoints were found

# The defaults of the public inference.py. They are written out, so that no recommendation of a bundle replaces them.
DEFAULTS = GenerationConfig(
    sampler="ddim",
    steps=25,
    guidance_scale=3.5,
    reference_attention_weight=0.95,
    audio_attention_weight=3.0,
    fps=30,
    overlap=4,
    seed=42,
)
WEAKER_AUDIO = replace(DEFAULTS, reference_attention_weight=1.0, audio_attention_weight=1.0)


@dataclass(frozen=True)
class Case:
    """A published case: the files in its folder of `test_samples`, and its settings."""

    name: str
    folder: str
    retarget: str
    keypoints: str | None = "kps.pth"
    audio: str = "aud.mp3"
    config: GenerationConfig = DEFAULTS

    @property
    def settings(self) -> str:
        """The settings of the case, as one line for people."""
        config = self.config
        return (
            f"{self.retarget}, {config.steps} steps, reference attention {config.reference_attention_weight}, "
            f"audio attention {config.audio_attention_weight}"
        )


# The first six cases and their settings are the commands of the public README. For EMO and VASA-1 there are inputs and
# no command. Photo and video show the same person there, as in the first scene, so the keypoints are used as they are,
# with the defaults.
EMO = ("talk_emotion", "talk_hb", "talk_jocker", "talk_kara", "talk_mola", "talk_yomir")
VASA_1 = ("3", "5", "7", "9", "10", "11", "12", "13", "15", "17", "l2", "l3", "l4", "l5", "l7", "l8")
CASES = (
    Case("scene_1_own_video", "short_case/AOC", "no_retarget"),
    Case(
        "scene_1_long",
        "short_case/AOC",
        "no_retarget",
        keypoints="AOC_raw_kps.pth",
        audio="v_exprss_intro_chattts.mp3",
        config=WEAKER_AUDIO,
    ),
    Case("scene_2_any_speech", "short_case/tys", "fix_face", keypoints=None),
    Case("scene_3_slight_motion", "short_case/tys", "offset_retarget"),
    Case("scene_3_full_motion", "short_case/tys", "naive_retarget", config=WEAKER_AUDIO),
    Case("attention_weights", "short_case/10", "fix_face", keypoints=None),
    *(Case(f"emo_{name}", f"emo/{name}", "no_retarget") for name in EMO),
    *(Case(f"vasa_1_{name}", f"vasa-1/{name}", "no_retarget") for name in VASA_1),
)


@dataclass(frozen=True)
class Result:
    """The outcome of a case: its video, or the reason why there is none."""

    case: Case
    folder: Path
    video: Video | None = None
    failure: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the cases and a sheet of them; return the exit code."""
    parser = argparse.ArgumentParser(description="Make the cases that the public V-Express repository publishes.")
    parser.add_argument("checkout", type=Path, nargs="?", help="checkout of the public repository")
    parser.add_argument("--engines", metavar="DIR", help="bundle of the released weights (default: the small model)")
    parser.add_argument("--output", type=Path, default=Path("out/published"), help="folder (default: out/published)")
    parser.add_argument("--cases", nargs="+", metavar="NAME", choices=[case.name for case in CASES], help="only these")
    parser.add_argument("--list", action="store_true", help="print the cases and their settings")
    parser.add_argument("--steps", type=int, help="fewer denoising steps than published, to try the command quickly")
    parser.add_argument(
        "--upstream", action="store_true", help="repeat the public code's noise and anchor search, to compare frames"
    )
    args = parser.parse_args(arguments)
    cases = [case for case in CASES if args.cases is None or case.name in args.cases]
    if args.list:
        print("\n".join(f"{case.name:<24}{case.folder:<20}{case.settings}" for case in cases))
        return 0
    if args.checkout is None:
        parser.error(
            "a checkout of the public repository is needed: git clone https://github.com/tencent-ailab/V-Express"
        )

    args.output.mkdir(parents=True, exist_ok=True)
    results = []
    with Generator(args.engines) as generator:
        print(generator.describe())
        for number, case in enumerate(cases, 1):
            if args.steps is not None:
                case = replace(case, config=replace(case.config, steps=args.steps))
            print(f"\n{number} of {len(cases)}: {case.name}: {case.settings}", flush=True)
            results.append(result := make(generator, case, args.checkout, args.output, args.upstream))
            print(f"NOT MADE: {result.failure}" if result.video is None else f"{result.video.path}", flush=True)

    sheet = args.output / "sheet.png"
    draw_sheet(results).save(sheet)
    missing = [result.case.name for result in results if result.video is None]
    print(f"\n{sheet}: {len(results) - len(missing)} of {len(results)} cases made")
    if missing:
        print(f"error: not made: {', '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


def make(generator: Generator, case: Case, checkout: Path, output: Path, upstream: bool) -> Result:
    """Make the video of a case in the folder `output`."""
    folder = checkout / "test_samples" / case.folder
    names = ["ref.jpg", case.audio, *([case.keypoints] if case.keypoints else [])]
    if missing := [name for name in names if not (folder / name).is_file()]:
        return Result(case, folder, failure=f"{folder} lacks {', '.join(missing)}: is that a whole checkout?")
    try:
        portrait = generator.prepare(folder / "ref.jpg", crop="none")  # the public code uses the whole photo
        video = generator.generate(
            portrait,
            folder / case.audio,
            keypoints=read_keypoints(folder / case.keypoints) if case.keypoints else None,
            retarget=case.retarget,
            config=replace(case.config, upstream_anchor=upstream),
            noise="upstream" if upstream else None,
            output=output / f"{case.name}.mp4",
        )
    except VExpressError as error:
        return Result(case, folder, failure=str(error))
    return Result(case, folder, video)


def read_keypoints(path: Path) -> KeypointTrack:
    """Read published keypoints; bundles of another size scale them to their pixels."""
    return replace(load_keypoints(path), size=SIZE)


CELL, COLUMNS, GAP = 160, 7, 8  # pixels, pictures in a row, pixels


def draw_sheet(results: Sequence[Result]) -> Image.Image:
    """Draw a sheet: for each case its settings, the photo, and frames of our video and of the driving video."""
    rows = [(result, list(strips(result))) for result in results]
    heights = [48 + len(strips) * (CELL + GAP) for _, strips in rows]
    sheet = Image.new("RGB", ((CELL + GAP) * COLUMNS + GAP, sum(heights) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    title, text = ImageFont.load_default(18), ImageFont.load_default(13)
    top = GAP
    for (result, pictures), height in zip(rows, heights, strict=True):
        draw.text((GAP, top), result.case.name, "black", title)
        words = result.case.settings if result.video else f"NOT MADE: {result.failure}"
        draw.text((GAP, top + 24), words, "dimgray" if result.video else "crimson", text)
        for row, strip in enumerate(pictures):
            for column, picture in enumerate(strip):
                place = GAP + column * (CELL + GAP), top + 46 + row * (CELL + GAP)
                sheet.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), place)
        top += height
    return sheet


def strips(result: Result) -> Iterator[list[Image.Image]]:
    """Yield the rows of pictures of a case: the photo with frames of our video, then frames of the driving video."""
    if result.video is None:
        return
    assert result.video.path is not None
    length = result.video.length / result.video.fps
    times = [float(length * (number + 0.5) / (COLUMNS - 1)) for number in range(COLUMNS - 1)]
    photo = Image.open(result.folder / "ref.jpg").convert("RGB")
    yield [photo, *frames_at(result.video.path, times)]
    driving = result.folder / "gt.mp4"
    if result.case.keypoints == "kps.pth" and driving.is_file():
        yield [Image.new("RGB", photo.size, "white"), *frames_at(driving, times)]


def frames_at(path: Path, times: Sequence[float]) -> list[Image.Image]:
    """Read the frames of a video that are shown at rising `times`, in seconds; none after its end."""
    pictures: list[Image.Image] = []
    with av.open(str(path)) as container:
        step = 1 / (container.streams.video[0].average_rate or 25)
        for frame in container.decode(video=0):
            end = (frame.time or 0) + step
            while len(pictures) < len(times) and times[len(pictures)] < end:
                pictures.append(Image.fromarray(frame.to_ndarray(format="rgb24")))
    return pictures


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except VExpressError as error:
        raise SystemExit(f"error: {error}") from None
