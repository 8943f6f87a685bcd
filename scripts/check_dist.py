"""Install a wheel into a fresh environment, make a video there with the small model, and check the video.

    python scripts/check_dist.py dist

From the checkout come only the drawn photo and demo/speech.flac. The exit code is 1 if a check fails.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for a run as a script

SPEECH = ROOT / "demo" / "speech.flac"
PERSON = 1_000_028  # seed of a drawn person who is not in the small model's training data
STEPS, FPS, SIZE = 4, 25, 128  # denoising steps; rate, and height and width in pixels, of the small model's videos

# Run by the environment's Python, so that it imports the installed package.
INSPECT = """
import json, sys, av, numpy as np, vexpress_rt
from vexpress_rt import native

def sound(path):
    resampler = av.AudioResampler("flt", "mono", 16000)
    with av.open(path) as container:
        blocks = [block for frame in container.decode(audio=0) for block in resampler.resample(frame)]
        blocks += resampler.resample(None)
    return np.concatenate([block.to_ndarray()[0] for block in blocks])

video, speech = sys.argv[1:]
with av.open(video) as container:
    frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    fps = float(container.streams.video[0].average_rate)
said, heard = sound(speech), sound(video)
count = min(len(said), len(heard))
print(json.dumps({
    "package": vexpress_rt.__file__, "version": vexpress_rt.__version__, "native": native.backend,
    "frames": len(frames), "fps": fps, "shape": frames[0].shape, "contrast": float(np.std(frames)),
    "motion": float(np.abs(np.diff(np.stack(frames).astype(float), axis=0)).mean()),
    "seconds of speech": len(said) / 16000, "seconds of sound": len(heard) / 16000,
    "correlation of the sound": float(np.corrcoef(said[:count], heard[:count])[0, 1]),
}))
"""


def run(*command: str | Path, folder: Path) -> str:
    """Run a command in `folder` without the checkout on its path, and return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(map(str, command))} exited with {done.returncode}:\n{done.stderr}")
    return done.stdout


def check(wheel: Path, folder: Path) -> list[str]:
    """Return descriptions of failed checks of a wheel; `folder` is an empty folder to work in."""
    from PIL import Image

    from export.pocket.faces import draw_face, random_person

    venv.create(folder / "venv", with_pip=True)
    bin_folder = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python, command = bin_folder / "python", bin_folder / "vexpress-rt"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel.resolve(), folder=folder)
    Image.fromarray(draw_face(random_person(PERSON)).image).save(folder / "photo.png")
    options = ("--image", "photo.png", "--audio", SPEECH, "--steps", str(STEPS), "--output", "talking.mp4", "--quiet")
    run(command, "generate", *options, folder=folder)
    run(command, "inspect", "--verify", folder=folder)
    found = json.loads(run(python, "-c", INSPECT, "talking.mp4", SPEECH, folder=folder))
    print(json.dumps(found, indent=1))
    length = math.ceil(found["seconds of speech"] * FPS)
    checks = {
        "the package is imported from the environment": Path(found["package"]).is_relative_to(folder / "venv"),
        "the package has the wheel's version": wheel.name.startswith(f"vexpress_rt-{found['version']}-"),
        "the C++ module was built": found["native"] == "native",
        f"the video has {length} frames": found["frames"] == length,
        f"the video has {FPS} frames per second": found["fps"] == FPS,
        f"frames have {SIZE} x {SIZE} pixels": found["shape"] == [SIZE, SIZE, 3],
        "frames show something": found["contrast"] > 20,
        "something moves": found["motion"] > 0.5,
        "the sound is as long as the speech": 0 <= found["seconds of sound"] - found["seconds of speech"] < 0.1,
        "the sound is the speech": found["correlation of the sound"] > 0.9,
    }
    return [text for text, right in checks.items() if not right]


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description="Install a wheel into a fresh environment and make a video there.")
    parser.add_argument("folder", type=Path, help="folder that holds one wheel")
    args = parser.parse_args()
    wheels = sorted(args.folder.glob("*.whl"))
    if len(wheels) != 1:
        print(f"error: {args.folder} holds {len(wheels)} wheels; expected one", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="vexpress-dist-") as folder:
        wrong = check(wheels[0], Path(folder).resolve())
    for text in wrong:
        print(f"error: check failed: {text}", file=sys.stderr)
    print(f"{wheels[0].name}: {'refused' if wrong else 'good'}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
