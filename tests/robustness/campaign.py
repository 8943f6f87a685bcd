"""A campaign of the fuzzer: runs child processes, kills them above the limits, counts outcomes, keeps failed inputs."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.robustness.cases import kept_name, reader_of
from tests.robustness.child import FAILED
from tests.robustness.limits import lay_canaries
from tests.support.paths import ROOT

START = 120  # time limit in seconds for a child's first input
KEPT = 3  # largest number of files kept for each kind of failure


@dataclass(frozen=True)
class Limits:
    """Limits per input.

    Attributes:
        seconds: CPU time; the wall-clock limit is ten times as long.
        memory: MB.
    """

    seconds: float = 10
    memory: int = 600


@dataclass
class Tally:
    """Outcomes of a reader's inputs.

    Attributes:
        reader: Name of the reader.
        outcomes: Number of inputs by outcome.
        kinds: Number of failures by kind.
        examples: Description of the first failure of each kind.
    """

    reader: str
    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def failures(self) -> int:
        return self.outcomes[FAILED]


@dataclass(frozen=True)
class Campaign:
    """A run of the fuzzer.

    Attributes:
        seed: Seed of the sequence of inputs of each reader.
        keep: Folder for inputs that fail.
        limits: Limits per input.
        tree: Checkout whose package is fuzzed, with its own `.venv`; None for this Python.
        broken: Readers whose child processes do not start.
        ended: Set to end the campaign.
    """

    seed: int
    keep: Path
    limits: Limits = Limits()
    tree: Path | None = None
    broken: set[str] = field(default_factory=set)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self, readers: Iterable[str], seconds: float, jobs: int, most: int | None = None) -> list[Tally]:
        """Fuzz readers with `jobs` parallel children; each gets its share of `seconds` of wall-clock time.

        A reader also ends after `most` inputs.
        """
        names = list(readers)
        share = seconds * min(jobs, len(names)) / len(names)
        with ThreadPoolExecutor(min(jobs, len(names))) as pool:
            try:
                return list(pool.map(lambda name: self.fuzz(name, share, most), names))
            except BaseException:  # Ctrl-C, or a child that does not start
                self.ended.set()
                raise

    def fuzz(self, reader: str, seconds: float, most: int | None = None) -> Tally:
        """Fuzz one reader until its time is over or `most` inputs were read."""
        tally, number, stop = Tally(reader), 0, time.monotonic() + seconds
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            while time.monotonic() < stop and (most is None or number < most) and reader not in self.broken:
                if self.ended.is_set():
                    break
                with _Child(self, reader, Path(folder), number) as child:
                    number = child.follow(tally, stop, most)
        return tally

    def replay(self, file: Path) -> Tally:
        """Read one kept input again."""
        tally = Tally(reader_of(file))
        with (
            tempfile.TemporaryDirectory(prefix="fuzz-") as folder,
            _Child(self, tally.reader, Path(folder), 0, file) as child,
        ):
            child.follow(tally, time.monotonic() + START + 20 * self.limits.seconds, 1)
        return tally


class _Child:
    """A child process that reads inputs, beginning with number `first`."""

    def __init__(self, campaign: Campaign, reader: str, folder: Path, first: int, file: Path | None = None) -> None:
        self._campaign, self._reader, self._folder, self._number = campaign, reader, folder, first
        self._file = file
        self._last: str | None = None  # suffix of the input that ended last
        for name in ("work", "tmp", "inputs", "failed"):
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).mkdir()
        lay_canaries(folder / "canary")
        python, path = sys.executable, str(ROOT)
        if campaign.tree is not None:
            python, path = str(campaign.tree / ".venv" / "bin" / "python"), str(_tests_alone(folder))
        numbers = map(str, (campaign.seed, first, campaign.limits.memory))
        command = [python, "-P", "-m", "tests.robustness.child", reader, str(folder), *numbers]
        environment = os.environ | {"PYTHONPATH": path, "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command + ([] if file is None else [str(file.resolve())]),
            cwd=folder / "inputs",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if os.environ.get("FUZZ_DEBUG") is None else None,
        )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()
        self._rest = b""

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def follow(self, tally: Tally, stop: float, most: int | None) -> int:
        """Count outcomes until the time is over or the child ends; return the number of the next input."""
        suffix: str | None = None  # of the input in work
        began, used = time.monotonic(), 0.0
        while True:
            lines = self._lines()
            if lines is None:
                return self._ended(tally, suffix)
            for line in lines:
                if "begin" in line:
                    self._number, suffix = line["begin"], line["suffix"]
                    began, used = time.monotonic(), self._cpu()
                elif "end" in line:
                    self._count(tally, line, suffix or "")
                    suffix, self._last, self._number = None, suffix, self._number + 1
                    if most is not None and self._number >= most:
                        return self._number
                elif "ready" in line:
                    began = time.monotonic()
            if self._campaign.ended.is_set() or (suffix is None and time.monotonic() > stop):
                return self._number
            taken, passed = self._cpu() - used, time.monotonic() - began
            limit = self._campaign.limits.seconds
            if suffix is not None and (taken > limit or passed > 10 * limit):
                words = f"time: {taken:.1f} s of CPU, {passed:.1f} s in all; expected at most {limit:g} s"
                self._keep(tally, "time", words, suffix)
                return self._number + 1
            if suffix is None and passed > START:
                return self._broken(tally, f"no input is read: {self._stderr()}")

    def _ended(self, tally: Tally, suffix: str | None) -> int:
        code, between = self._process.wait(), suffix is None
        if between and self._file is not None and code == 0:
            return self._number
        name = signal.Signals(-code).name if code < 0 else f"exit {code}"
        words = self._stderr()
        if between and self._last is None:
            return self._broken(tally, f"{name}: {words}")
        if between:  # a delayed effect of the previous input
            suffix, self._number = self._last, self._number - 1
        where = re.findall(r'File ".*?([^/"]+\.py)", line (\d+) in (\S+)', words)
        top = " ".join(where[0]) if where else ""
        assert suffix is not None
        self._keep(
            tally, f"crash: {name} {top}" + " between inputs" * between, f"crash: {name}: {words[-600:]}", suffix
        )
        return self._number + 1

    def _broken(self, tally: Tally, words: str) -> int:
        """Record a child that reads no input, so that its reader is not started again."""
        tally.outcomes[FAILED] += 1
        tally.kinds["start: no input was read"] += 1
        tally.examples["start: no input was read"] = words
        self._campaign.broken.add(self._reader)
        return self._number

    def _count(self, tally: Tally, line: dict[str, object], suffix: str) -> None:
        findings = line["findings"]
        assert isinstance(findings, list)
        if findings:
            kind = _kind(findings[0])
            self._keep(tally, kind, "; ".join(findings) + f"\n{line['detail']}", suffix)
        else:
            tally.outcomes[str(line["outcome"])] += 1

    def _keep(self, tally: Tally, kind: str, words: str, suffix: str) -> None:
        tally.outcomes[FAILED] += 1
        tally.kinds[kind] += 1
        if self._file is not None:
            tally.examples.setdefault(kind, words)
            return
        if tally.kinds[kind] > KEPT:
            return
        moved = self._folder / "failed" / f"{self._number}{suffix}"
        source = moved if moved.exists() else self._folder / "inputs" / f"input{suffix}"
        name = kept_name(self._reader, self._campaign.seed, self._number, suffix)
        self._campaign.keep.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, self._campaign.keep / name)
        (self._campaign.keep / f"{name}.txt").write_text(f"{kind}\n{words}\n")
        tally.examples.setdefault(kind, f"{words[:300]}\n    {self._command(self._campaign.keep / name)}")

    def _command(self, path: Path) -> str:
        tree = f" --tree {self._campaign.tree}" if self._campaign.tree is not None else ""
        return f"python scripts/fuzz.py{tree} --replay {path}"

    def _lines(self) -> list[dict[str, object]] | None:
        """Return the child's messages, after 0.2 s at the latest; None after it ended."""
        ready, _, _ = select.select([self._pipe], [], [], 0.2)
        if not ready:
            return []
        data = os.read(self._pipe, 1 << 16)
        if not data:
            return None
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in whole]

    def _cpu(self) -> float:
        """Return the CPU time of the child in seconds."""
        try:
            text = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return 0.0
        ticks = text.rpartition(")")[2].split()[11:13]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    def _stderr(self) -> str:
        own = self._folder / "stderr"
        text = own.read_text(errors="replace") if own.exists() else ""
        if self._process.poll() is not None and self._process.stderr is not None:
            text = self._process.stderr.read().decode(errors="replace") + text
        return text[-4000:]


def _kind(finding: str) -> str:
    """Return the fault of a finding: place and type of an exception, or else the finding without its numbers."""
    if finding.startswith("exception: "):
        return ": ".join(finding.split(": ")[:3])
    if finding.startswith(("memory: ", "descriptors: ")):
        return finding.partition(":")[0]
    finding = re.sub(r"fuzz-\w+", "", finding)
    return re.sub(r"0x[0-9a-f]+|\d+", "N", finding)[:120]


def _tests_alone(folder: Path) -> Path:
    """Return a folder from which only the tests of this checkout can be imported."""
    path = folder / "path"
    path.mkdir(exist_ok=True)
    link = path / "tests"
    if not link.exists():
        link.symlink_to(ROOT / "tests")
    return path


def summary(tallies: Iterable[Tally]) -> str:
    """Return a table of readers and outcomes, and each kind of failure with its first input."""
    rows = [f"{'reader':<12}{'inputs':>9}{'accepted':>10}{'refused':>9}{'FAILED':>8}"]
    tallies = list(tallies)
    for tally in tallies:
        seen = tally.outcomes
        rows.append(f"{tally.reader:<12}{seen.total():>9}{seen['accepted']:>10}{seen['refused']:>9}{seen[FAILED]:>8}")
    for tally in tallies:
        for kind, number in tally.kinds.most_common():
            rows += ["", f"{tally.reader}: {number} times {kind}", f"    {tally.examples.get(kind, '')}"]
    return "\n".join(rows)
