"""README.md's animation, made from videos of the small model: `python -m demo.animation docs/talking.webp`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from demo.charts import INK, PAPER, SEEN, Chart
from demo.inputs import SPEECH, TEXT, Inputs, make_inputs
from demo.scenes import Take, perform
from vexpress_rt import GenerationConfig, Generator, VExpressError
from vexpress_rt.media.video_reader import read_frames
from vexpress_rt.types import UInt8

CONFIG = GenerationConfig()  # the bundle's recommended settings
COLUMNS = ("one photo", "+ speech", "+ own motion", "+ another's motion")
CELL, INSET = 200, 64  # pixels: height and width of a picture, and of the driving face in its corner
GAP, HEAD, WAVE, FOOT = 8, 30, 44, 26  # pixels: between pictures, and heights of titles, waveform and text
WIDTH = len(COLUMNS) * (CELL + GAP) + GAP


def make_animation(bundle: Path | None, path: Path, quality: int) -> int:
    """Make the videos and write them as one animated WebP.

    Args:
        bundle: Folder of a bundle; None for the shipped one.
        path: File to write.
        quality: Quality of the WebP encoder, 0 to 100.

    Returns:
        Number of pictures.
    """
    with tempfile.TemporaryDirectory() as folder, Generator(bundle, provider="cpu") as generator:
        rate = generator.bundle.manifest.settings(CONFIG).rate
        inputs = make_inputs(Path(folder), SPEECH, generator.size, rate)
        takes = list(perform(generator, inputs, CONFIG, Path(folder)))
        driving = list(read_frames(inputs.driving).frames())
        pictures = list(draw_pictures(inputs, takes, driving, float(rate)))
    first, *others = pictures
    first.save(
        path, save_all=True, append_images=others, duration=round(1000 / rate), loop=0, quality=quality, method=6
    )
    return len(pictures)


def draw_pictures(inputs: Inputs, takes: Sequence[Take], driving: Sequence[UInt8], fps: float) -> Iterator[Image.Image]:
    """Yield a picture for each frame: a row for each sitter, the waveform with a cursor, and the spoken text.

    Args:
        inputs: The demo's inputs.
        takes: Videos of all scenes and sitters.
        driving: Frames of the driving video, (h, w, 3) uint8 RGB.
        fps: Frames a second.
    """
    length = min(len(take.frames) for take in takes)
    chart = Chart(WIDTH - 2 * GAP, WAVE, length, PAPER)
    chart.waveform(inputs.speech.read(), inputs.speech.rate / fps)
    wave, font = chart.image(), ImageFont.load_default(15)
    rows = [[take for take in takes if take.sitter is sitter] for sitter in inputs.sitters]
    photos = [_resized(Image.open(sitter.photo).convert("RGB"), CELL) for sitter in inputs.sitters]
    below = HEAD + len(rows) * (CELL + GAP)
    for index in range(length):
        page = Image.new("RGB", (WIDTH, below + WAVE + FOOT + GAP), PAPER)
        draw = ImageDraw.Draw(page)
        for column, title in enumerate(COLUMNS):
            draw.text((column_left(column) + CELL / 2, HEAD / 2), title, INK, font, anchor="mm")
        for row, (photo, scenes) in enumerate(zip(photos, rows, strict=True)):
            top = HEAD + row * (CELL + GAP)
            page.paste(photo, (column_left(0), top))
            for column, take in enumerate(scenes, 1):
                page.paste(_resized(Image.fromarray(take.frames[index]), CELL), (column_left(column), top))
            face = _resized(Image.fromarray(driving[min(index, len(driving) - 1)]), INSET)
            page.paste(face, (column_left(len(scenes)) + CELL - INSET, top + CELL - INSET))
        page.paste(wave, (GAP, below))
        x = GAP + chart.across(index)
        draw.line((x, below, x, below + WAVE), SEEN, 2)
        draw.text((WIDTH / 2, below + WAVE + FOOT / 2), TEXT, INK, font, anchor="mm")
        yield page


def column_left(column: int) -> int:
    """Return the left edge of a column, in pixels."""
    return GAP + column * (CELL + GAP)


def _resized(picture: Image.Image, side: int) -> Image.Image:
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo.animation", description="Make README.md's animation.")
    parser.add_argument(
        "output", type=Path, nargs="?", default=Path("docs/talking.webp"), help="animated WebP to write"
    )
    parser.add_argument("--bundle", type=Path, help="bundle to run (the small model)")
    parser.add_argument("--quality", type=int, default=70, help="quality of the WebP encoder, 0 to 100 (70)")
    args = parser.parse_args(arguments)
    try:
        count = make_animation(args.bundle, args.output, args.quality)
    except (VExpressError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: {count} pictures, {args.output.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
