"""Animate two portraits with a recording, in three scenes each: `python -m demo --output out`."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from demo.inputs import SPEECH, TEXT, make_inputs
from demo.lips import agreement, moments, openings
from demo.scenes import face_finder, perform
from demo.sheet import COLUMNS, Row, Sound, contact_sheet
from vexpress_rt import GenerationConfig, Generator, VExpressError
from vexpress_rt.utils import command_entry

# Fewer steps and less overlap than the bundle recommends, so that all six videos take less than a minute on two cores.
CONFIG = GenerationConfig(steps=4, overlap=2)


def say(line: str) -> None:
    """Print a line and flush, so that it appears at once in a pipe too."""
    print(line, flush=True)


def make_videos(bundle: Path | None, folder: Path) -> list[Path]:
    """Write inputs, a video for each portrait and scene, and the contact sheet.

    Args:
        bundle: Engines to run; None for the bundle that ships.
        folder: Folder to write to.

    Returns:
        Videos and contact sheet.
    """
    with Generator(bundle, provider="cpu") as generator, face_finder(generator.bundle) as find_faces:
        say("Drawing two portraits and a driving video")
        rate = generator.bundle.manifest.settings(CONFIG).rate
        inputs = make_inputs(folder, SPEECH, generator.size, rate)
        heard = inputs.mouth[:, 0]
        groups: dict[str, list[Row]] = {}
        made, seconds = [], 0.0
        for take in perform(generator, inputs, CONFIG, folder):
            seen = take.sitter.openness(openings(take.frames, find_faces))
            sync = _sync(agreement(heard, seen))
            say(f"{take.path}: {len(take.frames)} frames in {take.seconds:.1f} s, {sync}")
            row = Row((take.scene.retarget, take.scene.title, sync), take.lead, take.frames, seen)
            groups.setdefault(f"Portrait {take.sitter.name.upper()}", []).append(row)
            made.append(take.path)
            seconds += take.seconds
    say(f"Generated in {seconds:.0f} s")
    note = f'Two drawn people, not in the training data, say "{TEXT}"'
    sound = Sound(inputs.speech, heard, float(rate), moments(heard, COLUMNS // 2))
    contact_sheet("The mouth follows the sound", note, sound, groups).save(folder / "sheet.png")
    return [*made, folder / "sheet.png"]


def _sync(correlation: float) -> str:
    return "no mouth to measure" if math.isnan(correlation) else f"correlation {correlation:.2f}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo", description="Make videos of three scenes.")
    parser.add_argument("--output", type=Path, default=Path("out"), help="folder to write to (out)")
    parser.add_argument("--bundle", type=Path, help="engines to run (those that ship)")
    given = parser.parse_args(arguments)
    try:
        given.output.mkdir(parents=True, exist_ok=True)
        made = make_videos(given.bundle, given.output)
    except (VExpressError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    say("\n".join(["", "Made:", *(f"  {path}" for path in made)]))
    return 0


if __name__ == "__main__":
    raise SystemExit(command_entry.run_command(main, "interrupted"))
