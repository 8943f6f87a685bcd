"""The three scenes of V-Express on inputs made on the spot: `python -m demo --output out`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from demo.inputs import make_inputs
from demo.scenes import CONFIG, SCENES, SIZE, WINDOW, input_strip, moments, play, scene_strip
from demo.sheet import contact_sheet
from export.build import build
from export.options import BuildOptions
from export.presets import TINY, write_checkpoint
from vexpress_rt import Generator, VExpressError
from vexpress_rt.specs import VideoShape

NOTICE = """\
The weights are synthetic: random numbers of the right shapes. The generated pictures are therefore coloured noise.
They show that everything runs, from a checkpoint to video files; they do not show what the model can do."""


def say(line: str) -> None:
    """Print at once, also into a pipe."""
    print(line, flush=True)


def make_bundle(folder: Path) -> Path:
    """Synthetic weights and engines built from them; what is there from an earlier run and unchanged is kept."""
    weights, bundle = folder / "checkpoint", folder / "engines" / f"tiny-{SIZE}x{SIZE}x{WINDOW}"
    if not weights.exists():
        say(f"Writing synthetic weights in the official layout: {weights}")
        write_checkpoint(weights, TINY, seed=0)
    say(f"Building engines from them: {bundle}")
    bundle.parent.mkdir(exist_ok=True)
    build(weights, bundle, BuildOptions(VideoShape(SIZE, SIZE, WINDOW)), say)
    return bundle


def make_videos(folder: Path, bundle: Path) -> list[Path]:
    """Inputs, scenes and contact sheet, as files in `folder`."""
    say("Drawing a portrait and a driving video, synthesising speech")
    inputs = make_inputs(folder, SIZE, int(CONFIG.rate))
    made = [inputs.portrait, inputs.speech, inputs.keypoints, inputs.driving]
    strips = []
    with Generator(bundle, provider="cpu") as generator:
        portrait = generator.prepare(inputs.portrait)
        for scene in SCENES:
            video = play(generator, portrait, inputs, scene, folder)
            assert video.path is not None
            say(f"{scene.title}: {video.length} frames in {video.timings['total']:.1f} s")
            made.append(video.path)
            strips.append(scene_strip(scene, video))
        strips.insert(0, input_strip(portrait, inputs, moments(video.length)))
    sheet = contact_sheet("vexpress_rt demo", "synthetic weights: generated frames are noise", strips)
    sheet.save(folder / "sheet.png")
    return [*made, folder / "sheet.png"]


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m demo", description="Make videos of the three scenes.")
    parser.add_argument("--output", type=Path, default=Path("out"), help="folder to write to (out)")
    folder: Path = parser.parse_args(arguments).output
    start = time.monotonic()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = make_videos(folder, make_bundle(folder))
    except (VExpressError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    say(f"\nMade in {time.monotonic() - start:.0f} s:")
    say("\n".join(f"  {path}" for path in made))
    say(f"\n{NOTICE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
