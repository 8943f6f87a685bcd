"""Kill `vexpress-rt generate` and `python -m export.build` at random moments, and look at what is left.

    python scripts/kill.py --kills 200 --seed 0

Half of the kills are SIGKILL, the others SIGTERM and SIGINT. After each one:
- under the name of the output lies nothing, the old one unchanged, or the complete new one;
- a process that was told to end, and could, has left nothing beside it, and its exit code is that of the signal;
- what a killed process has left beside it is gone as soon as the next run writes there, and all of it after a last run
  that nobody kills.
What failed is kept in a folder of its own, which is named. Exit code 1 if anything did.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import wave
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for a run as a script

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
MADE_OF = {  # by the command: a signal's exit codes; negative: before the program's own handlers, by the system
    "generate": {signal.SIGKILL: {-9}, signal.SIGTERM: {-15, 143}, signal.SIGINT: {130}},
    "build": {signal.SIGKILL: {-9}, signal.SIGTERM: {-15, 130}, signal.SIGINT: {130}},
}


@dataclass
class Subject:
    """A command that writes `output`, over and over.

    marks: what the names of its leftovers hold.  is_complete: whether the output is whole.
    old: an older output, of which every other run finds a copy.  seconds: of a run that nobody kills.
    """

    name: str
    command: list[str]
    output: Path
    marks: tuple[str, ...]
    is_complete: Callable[[Path], bool]
    old: Path
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def leftovers(self) -> set[Path]:
        """What lies beside the output."""
        return {path for path in self.output.parent.iterdir() if path != self.output}

    def prepare(self, *, over: bool) -> None:
        """Put an older output, or none, in place."""
        remove(self.output)
        if over:
            (shutil.copytree if self.old.is_dir() else shutil.copyfile)(self.old, self.output)

    def finish(self) -> None:
        """Run to the end."""
        start = time.monotonic()
        done = subprocess.run(self.command, cwd=ROOT, capture_output=True, text=True, check=False)
        self.seconds = time.monotonic() - start
        if done.returncode or not self.is_complete(self.output):
            raise SystemExit(f"{self.name} fails without being killed: {done.returncode}\n{done.stderr}")

    def kill(self, number: signal.Signals, after: float) -> tuple[int, str]:
        """Exit code and stderr of a run that gets a signal after some seconds."""
        with subprocess.Popen(
            self.command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                process.wait(after)
            except subprocess.TimeoutExpired:
                process.send_signal(number)
            try:
                _, told = process.communicate(timeout=120)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                return 124, "it goes on for two minutes after the signal"
            return process.returncode, told


def one_kill(subject: Subject, random_numbers: random.Random, keep: Path, index: int) -> None:
    """Kill a run and check what is left."""
    number, over = random_numbers.choice(SIGNALS), random_numbers.random() < 0.5
    after = random_numbers.uniform(0, 1.1 * subject.seconds)
    subject.prepare(over=over)
    before, old = subject.leftovers(), digest(subject.output)
    code, told = subject.kill(number, after)
    left, new = subject.leftovers(), digest(subject.output)
    wrong = []
    early = "Traceback" in told and "vexpress_rt/" not in told and "export/" not in told  # in Python's own start
    if code != 0 and not early and code not in MADE_OF[subject.name][number]:
        wrong.append(f"exit code {code}")
    if "Traceback" in told and not early:
        wrong.append("a traceback")
    if new != old and not subject.is_complete(subject.output):
        wrong.append("the output is neither the old one nor a complete new one")
    if code == 0 and not subject.is_complete(subject.output):
        wrong.append("it says that it is done, and its output is not complete")
    if code == 0 and left:
        wrong.append(f"a run that was completed left {names(left)}")
    if number is not signal.SIGKILL and left - before:
        wrong.append(f"{number.name} left {names(left - before)}")
    if left - before and left & before:
        wrong.append(f"a run that wrote did not remove {names(left & before)}")
    if strange := [path for path in left if not any(mark in path.name for mark in subject.marks)]:
        wrong.append(f"there is {names(set(strange))}")
    ending = "completed" if code == 0 else "in Python's start" if early else number.name
    subject.counts[ending] += 1
    subject.counts["leftovers of SIGKILL"] += bool(left - before)
    if wrong:
        place = keep / f"{subject.name}-{index}"
        shutil.copytree(subject.output.parent, place)
        fault = f"{subject.name}, {number.name} after {after:.2f} s: {'; '.join(wrong)}: {place}"
        (place / "told.txt").write_text(f"{fault}\n{told}")
        subject.faults.append(fault)


def digest(path: Path) -> str:
    """Of a file's or folder's content; nothing for none."""
    if not path.exists():
        return ""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    parts = [f"{file.relative_to(path)} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    return "\n".join(parts)


def names(paths: set[Path]) -> str:
    return ", ".join(sorted(path.name for path in paths))


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_video(path: Path) -> bool:
    """Whether it decodes to its end, 8 frames with sound."""
    try:
        with av.open(str(path)) as container:
            frames = sum(1 for _ in container.decode(video=0))
        with av.open(str(path)) as container:
            samples = sum(frame.samples for frame in container.decode(audio=0))
    except (av.FFmpegError, IndexError, OSError):
        return False
    return frames == 8 and samples >= 4800


def is_bundle(path: Path) -> bool:
    """Whether every file has the hash that the manifest says."""
    from vexpress_rt.bundle import Bundle
    from vexpress_rt.errors import BundleError

    try:
        bundle = Bundle.open(path)
        bundle.verify(*bundle.manifest.files)
    except BundleError:
        return False
    return True


def video_subject(work: Path) -> Subject:
    """`generate` with the bundle that ships: 0.3 s of a hum."""
    time_axis = np.arange(4800) / 16000
    with wave.open(str(work / "speech.wav"), "wb") as sound:
        sound.setparams((1, 2, 16000, 0, "NONE", ""))
        sound.writeframes((9000 * np.sin(2 * np.pi * 180 * time_axis)).astype("<i2").tobytes())
    Image.fromarray(np.full((128, 128, 3), 120, np.uint8)).save(work / "photo.png")
    folder = work / "videos"
    folder.mkdir()
    points = ["--image-keypoints", "46,54", "82,54", "64,78"]
    command = [
        sys.executable, "-m", "vexpress_rt", "generate", "--image", str(work / "photo.png"), *points, "--steps", "2",
        "--audio", str(work / "speech.wav"), "--output", str(folder / "video.mp4"), "--quiet",
    ]  # fmt: skip
    return Subject("generate", command, folder / "video.mp4", (".vexpress-",), is_video, work / "old.mp4")


def build_subject(work: Path) -> Subject:
    """`export.build` of the smallest model that there is."""
    from export.presets import write_checkpoint
    from tests.micro import MICRO, MICRO_SHAPE

    write_checkpoint(work / "weights", MICRO, seed=5)
    folder = work / "bundles"
    folder.mkdir()
    sizes = [f"--{side}={getattr(MICRO_SHAPE, side)}" for side in ("height", "width", "frames")]
    command = [
        sys.executable, "-m", "export.build", "--weights", str(work / "weights"), "--output", str(folder / "bundle"),
        *sizes, "--target", "onnxruntime",
    ]  # fmt: skip
    return Subject("build", command, folder / "bundle", (".building-",), is_bundle, work / "old")


def work_through(subject: Subject, kills: int, seed: int, keep: Path) -> None:
    """All kills of one command, and a last run that sweeps."""
    subject.finish()  # the older output: not quite what the next runs make
    subject.output.rename(subject.old)
    if subject.old.is_dir():
        (subject.old / "README.md").write_text("an older one")  # people's notes: a build keeps them
    subject.finish()
    random_numbers = random.Random(f"{seed} {subject.name}")
    for index in range(kills):
        one_kill(subject, random_numbers, keep, index)
        if (index + 1) % 20 == 0:
            print(f"{subject.name}: {index + 1} of {kills} kills, {len(subject.faults)} faults", flush=True)
    subject.prepare(over=False)
    subject.finish()
    if left := subject.leftovers():
        subject.faults.append(f"{subject.name}: {names(left)} stay after a run that nobody killed")


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/kill.py", description="Kill commands; look at what is left.")
    parser.add_argument("--kills", type=int, default=200, help="in all, shared by the commands (200)")
    parser.add_argument("--seed", type=int, default=0, help="of moments and signals (0)")
    parser.add_argument("--only", choices=list(MADE_OF), help="kill this command alone")
    parser.add_argument("--keep", type=Path, default=Path("kill-failures"), help="folder for what failed")
    given = parser.parse_args(arguments)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background; children would, too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    makers = {"generate": video_subject, "build": build_subject}
    chosen = [given.only] if given.only else list(makers)
    faults = []
    with tempfile.TemporaryDirectory(prefix="vexpress-kill-") as folder:
        for position, name in enumerate(chosen):
            subject = makers[name](Path(folder))
            kills = (given.kills + position) // len(chosen)
            work_through(subject, kills, given.seed, given.keep)
            ends = ", ".join(f"{count} {end}" for end, count in sorted(subject.counts.items()))
            print(f"{name}: {kills} kills in runs of {subject.seconds:.1f} s: {ends}", flush=True)
            faults += subject.faults
    print("\n".join([*faults, f"{len(faults)} faults"]))
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
