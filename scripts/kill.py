"""Kill `vexpress-rt generate` and `python -m export.build` at random moments, and check the files that remain.

    python scripts/kill.py --kills 200 --seed 0

Half of the kills are SIGKILL, the others SIGTERM and SIGINT. The checks after each one:
- The output is absent, or the unchanged old one, or the complete new one.
- After SIGTERM or SIGINT no other file remains, and the exit code is that of the signal.
- The files that SIGKILL leaves are removed when the next run writes, and all of them after a final complete run.
The files of each failed check are kept in a folder, which is printed. The exit code is 1 if a check failed.
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
EXIT_CODES = {  # by command and signal; negative ones occur before the program installs its handlers
    "generate": {signal.SIGKILL: {-9}, signal.SIGTERM: {-15, 143}, signal.SIGINT: {130}},
    "build": {signal.SIGKILL: {-9}, signal.SIGTERM: {-15, 143}, signal.SIGINT: {130}},
}


@dataclass
class Subject:
    """A command to kill.

    Attributes:
        name: The command.
        command: Its command line.
        output: The file or folder that it writes.
        marks: Parts of the names of its partial files.
        is_complete: Returns whether an output is complete.
        old: An older output; about half of the runs start with a copy of it.
        seconds: Duration of a complete run.
        counts: Number of runs by their end.
        faults: Failed checks.
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
        """Return the files beside the output."""
        return {path for path in self.output.parent.iterdir() if path != self.output}

    def prepare(self, *, over: bool) -> None:
        """Put an older output in place, or none."""
        remove(self.output)
        if over:
            (shutil.copytree if self.old.is_dir() else shutil.copyfile)(self.old, self.output)

    def finish(self) -> None:
        """Run the command to its end."""
        start = time.monotonic()
        done = subprocess.run(self.command, cwd=ROOT, capture_output=True, text=True, check=False)
        self.seconds = time.monotonic() - start
        if done.returncode or not self.is_complete(self.output):
            raise SystemExit(f"{self.name} fails without a signal: {done.returncode}\n{done.stderr}")

    def kill(self, number: signal.Signals, after: float) -> tuple[int, str]:
        """Send a signal after some seconds; return the exit code and stderr."""
        with subprocess.Popen(
            self.command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                process.wait(after)
            except subprocess.TimeoutExpired:
                process.send_signal(number)
            try:
                _, stderr = process.communicate(timeout=120)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                return 124, "it still runs two minutes after the signal"
            return process.returncode, stderr


def one_kill(subject: Subject, random_numbers: random.Random, keep: Path, index: int) -> None:
    """Kill a run and check the files that remain."""
    number, over = random_numbers.choice(SIGNALS), random_numbers.random() < 0.5
    after = random_numbers.uniform(0, 1.1 * subject.seconds)
    subject.prepare(over=over)
    before, old = subject.leftovers(), digest(subject.output)
    code, stderr = subject.kill(number, after)
    left, new = subject.leftovers(), digest(subject.output)
    wrong = []
    early = "Traceback" in stderr and "vexpress_rt/" not in stderr and "export/" not in stderr  # during Python's start
    if code != 0 and not early and code not in EXIT_CODES[subject.name][number]:
        wrong.append(f"exit code {code}")
    if "Traceback" in stderr and not early:
        wrong.append("a traceback")
    if new != old and not subject.is_complete(subject.output):
        wrong.append("the output is neither the old one nor a complete new one")
    if code == 0 and not subject.is_complete(subject.output):
        wrong.append("exit code 0 with an incomplete output")
    if code == 0 and left:
        wrong.append(f"a complete run left {names(left)}")
    if number is not signal.SIGKILL and left - before:
        wrong.append(f"{number.name} left {names(left - before)}")
    if left - before and left & before:
        wrong.append(f"a run with partial files did not remove {names(left & before)}")
    if strange := [path for path in left if not any(mark in path.name for mark in subject.marks)]:
        wrong.append(f"unexpected files: {names(set(strange))}")
    ending = "completed" if code == 0 else "in Python's start" if early else number.name
    subject.counts[ending] += 1
    subject.counts["leftovers of SIGKILL"] += bool(left - before)
    if wrong:
        place = keep / f"{subject.name}-{index}"
        shutil.copytree(subject.output.parent, place)
        fault = f"{subject.name}, {number.name} after {after:.2f} s: {'; '.join(wrong)}: {place}"
        (place / "stderr.txt").write_text(f"{fault}\n{stderr}")
        subject.faults.append(fault)


def digest(path: Path) -> str:
    """Return a digest of a file's or folder's content; empty if it does not exist."""
    if not path.exists():
        return ""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    parts = [f"{file.relative_to(path)} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    return "\n".join(parts)


def names(paths: set[Path]) -> str:
    """Return the names of files for a message."""
    return ", ".join(sorted(path.name for path in paths))


def remove(path: Path) -> None:
    """Remove a file or folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_video(path: Path) -> bool:
    """Return whether a video decodes completely: 8 frames with sound."""
    try:
        with av.open(str(path)) as container:
            frames = sum(1 for _ in container.decode(video=0))
        with av.open(str(path)) as container:
            samples = sum(frame.samples for frame in container.decode(audio=0))
    except (av.FFmpegError, IndexError, OSError):
        return False
    return frames == 8 and samples >= 4800


def is_bundle(path: Path) -> bool:
    """Return whether every file of a bundle has its hash in the manifest."""
    from vexpress_rt.bundle.bundle import Bundle
    from vexpress_rt.errors import BundleError

    try:
        bundle = Bundle.open(path)
        bundle.verify(*bundle.manifest.files)
    except BundleError:
        return False
    return True


def video_subject(work: Path) -> Subject:
    """Return `generate` with the shipped bundle and 0.3 s of a tone."""
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
    """Return `export.build` of the smallest test model."""
    from export.checkpoint.synthetic import write_synthetic_checkpoint
    from tests.support.micro import MICRO, MICRO_SHAPE

    write_synthetic_checkpoint(work / "weights", MICRO, seed=5)
    folder = work / "bundles"
    folder.mkdir()
    sizes = [f"--{side}={getattr(MICRO_SHAPE, side)}" for side in ("height", "width", "frames")]
    command = [
        sys.executable, "-m", "export.build", "--weights", str(work / "weights"), "--output", str(folder / "bundle"),
        *sizes, "--target", "onnxruntime",
    ]  # fmt: skip
    return Subject("build", command, folder / "bundle", (".building-",), is_bundle, work / "old")


def work_through(subject: Subject, kills: int, seed: int, keep: Path) -> None:
    """Kill one command many times, then check that a complete run removes all partial files."""
    subject.finish()  # the older output, which differs from the next ones
    subject.output.rename(subject.old)
    if subject.old.is_dir():
        (subject.old / "README.md").write_text("an older one")  # a build keeps a README
    subject.finish()
    random_numbers = random.Random(f"{seed} {subject.name}")
    for index in range(kills):
        one_kill(subject, random_numbers, keep, index)
        if (index + 1) % 20 == 0:
            print(f"{subject.name}: {index + 1} of {kills} kills, {len(subject.faults)} faults", flush=True)
    subject.prepare(over=False)
    subject.finish()
    if left := subject.leftovers():
        subject.faults.append(f"{subject.name}: {names(left)} remain after a complete run")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/kill.py", description="Kill commands and check the files that remain."
    )
    parser.add_argument("--kills", type=int, default=200, help="number of kills, shared by the commands (200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of moments and signals (0)")
    parser.add_argument("--only", choices=list(EXIT_CODES), help="kill this command alone")
    parser.add_argument(
        "--keep", type=Path, default=Path("kill-failures"), help="folder for the files of failed checks"
    )
    given = parser.parse_args(arguments)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job; children would inherit that
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
