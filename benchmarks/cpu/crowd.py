"""Measure videos on a crowded machine: the ways in which an engine's threads wait, beside busy loops and other streams.

    python -m benchmarks.cpu.crowd --json crowd.json             # the small model, 17 frames, preset fast
    python -m benchmarks.cpu.crowd --quick                       # one step and two rounds, to see that everything runs

Every way has processes of its own, whose engines are loaded once. The ways take turns in each situation. A situation is
a number of busy loops (processes that compute without end), of processes with a Generator each, and of streams that
each Generator makes at once. Wall-clock time runs until the last stream has its last frame; CPU time is that of the
processes with a Generator. All ways give the same frames, or the command fails. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.arguments import positive
from benchmarks.gpu.measure import summary

FRAMES = 17
_SPIN = "session.intra_op.allow_spinning"
_SPINNING = {_SPIN: "1", "session.force_spinning_stop": "1"}
_DURATION = "session.intra_op.spin_duration_us"  # of ONNX Runtime 1.27 and newer


@dataclass(frozen=True)
class Way:
    """A way to run the threads of engines.

    Attributes:
        name: Name in tables.
        words: Description.
        provider: Provider of the Generator.
        threads: CPU threads; None for the number of the command line.
        entries: Entries of ONNX Runtime's session configuration, in place of the runtime's own.
    """

    name: str
    words: str
    provider: str = "cpu"
    threads: int | None = None
    entries: Mapping[str, str] = field(default_factory=dict)


WAYS = {
    way.name: way
    for way in (
        Way(
            "spinning",
            "threads spin while they wait for the next operator, and sleep between runs",
            entries=_SPINNING,
        ),
        Way("200 us", "threads spin for at most 200 us, then sleep", entries={**_SPINNING, _DURATION: "200"}),
        Way("50 us", "threads spin for at most 50 us, then sleep", entries={**_SPINNING, _DURATION: "50"}),
        Way("no spinning", "threads sleep whenever they wait", entries={_SPIN: "0"}),
        Way("one thread", "each engine computes in the calling thread", threads=1),
        Way("openvino", "OpenVINO in fp32", provider="openvino"),
    )
}


@dataclass(frozen=True)
class Situation:
    """What runs at once.

    Attributes:
        load: Busy loops.
        processes: Processes with a Generator.
        streams: Streams of each Generator at once.
    """

    load: int
    processes: int = 1
    streams: int = 1

    def __str__(self) -> str:
        return f"load {self.load}, {self.processes} x {self.streams}"


SITUATIONS = (
    Situation(0), Situation(2), Situation(8), Situation(0, processes=2), Situation(0, processes=4),
    Situation(0, streams=2), Situation(0, streams=4),
)  # fmt: skip
QUICK = (Situation(0), Situation(1), Situation(0, processes=2, streams=2))


class Worker:
    """A process with a Generator; its first answer says that engines are loaded and warm."""

    def __init__(self, way: Way, options: Mapping[str, Any]) -> None:
        line = [sys.executable, "-m", "benchmarks.cpu.crowd", "--worker", json.dumps({**asdict(way), **options})]
        self._process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def send(self, streams: int) -> None:
        """Start streams."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{streams}\n")
        self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Wait for the streams: return their CPU seconds and the digest of their frames.

        Raises:
            ChildProcessError: The process has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ChildProcessError(f"a process with a Generator ended with exit code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def work(options: Mapping[str, Any]) -> None:
    """Load a Generator and make streams for every number that stdin has, until it ends."""
    import numpy as np

    from vexpress_rt import GenerationConfig, Generator
    from vexpress_rt.backends.onnxruntime import engine
    from vexpress_rt.bundle.default_bundle import shipped_bundle

    plain = engine.session_options

    def session_options(library: Any, threads: int | None) -> Any:
        changed = plain(library, threads)
        for name, value in options["entries"].items():
            changed.add_session_config_entry(name, value)
        return changed

    engine.import_library().set_default_logger_severity(3)  # no warning of each entry that is replaced
    engine.session_options = session_options
    bundle, config = options["bundle"] or shipped_bundle(), GenerationConfig(**options["config"])
    with Generator(bundle, provider=options["provider"], threads=options["threads"]) as generator:
        height, width = generator.size
        random = np.random.default_rng(0)
        photo = random.integers(0, 255, (height, width, 3), np.uint8)
        face = np.array([[0.4, 0.4], [0.6, 0.4], [0.5, 0.55]]) * (width, height)
        portrait, rate = generator.prepare(photo, keypoints=face), generator.bundle.manifest.model.sample_rate
        fps = float(generator.bundle.manifest.settings(config).rate)
        speech = random.normal(0, 0.1, int(options["frames"] / fps * rate)).astype(np.float32)

        def stream(index: int) -> str:
            frames = generator.generate(portrait, (speech, rate), config=config).frames
            return hashlib.sha256(frames.tobytes()).hexdigest()

        with ThreadPoolExecutor(options["most_streams"]) as pool:
            answer: dict[str, Any] = {"digests": [stream(0)]}
            print(json.dumps(answer), flush=True)
            for line in sys.stdin:
                before = time.process_time()
                digests = list(pool.map(stream, range(int(line))))
                answer = {"digests": digests, "processor": time.process_time() - before}
                print(json.dumps(answer), flush=True)


@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Run processes that compute without end.

    Args:
        count: Their number.
    """
    loops: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            loops.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(
    ways: Sequence[Way],
    situations: Sequence[Situation],
    rounds: int,
    options: Mapping[str, Any],
    seconds: float = math.inf,
) -> dict[str, Any]:
    """Measure every way in every situation, in turn.

    Args:
        ways: The ways.
        situations: The situations.
        rounds: Number of times that each is measured.
        options: {bundle; threads; frames; config: options of a GenerationConfig}.
        seconds: Time for all rounds; a round that would probably end later does not begin.

    Returns:
        Rows of {load, processes, streams, way, words, wall, processor, slowdown}: summaries of seconds, and of the
        ratios to the fastest way of the round.

    Raises:
        ArithmeticError: Two ways of one provider gave different frames.
    """
    most = max(situation.processes for situation in situations)
    given = {"most_streams": max(situation.streams for situation in situations)}
    times: dict[tuple[Situation, str], list[tuple[float, float]]] = defaultdict(list)
    digests: dict[str, set[str]] = defaultdict(set)
    with contextlib.ExitStack() as stack:
        workers: dict[str, list[Worker]] = {}
        for way in ways:
            own = {**options, **given, "threads": way.threads or options["threads"]}
            workers[way.name] = [stack.enter_context(contextlib.closing(Worker(way, own))) for _ in range(most)]
        for worker in (worker for crew in workers.values() for worker in crew):
            worker.receive()
        ready = time.perf_counter()
        for turn in range(rounds):
            if turn and (time.perf_counter() - ready) * (turn + 1) / turn > seconds:
                break
            for situation in situations:
                with busy_loops(situation.load):
                    for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
                        crew = workers[way.name][: situation.processes]
                        started = time.perf_counter()
                        for worker in crew:
                            worker.send(situation.streams)
                        answers = [worker.receive() for worker in crew]
                        wall = time.perf_counter() - started
                        times[situation, way.name].append((wall, sum(answer["processor"] for answer in answers)))
                        digests[way.provider].update(digest for answer in answers for digest in answer["digests"])
    if several := [provider for provider, found in digests.items() if len(found) > 1]:
        raise ArithmeticError(
            f"the frames of {', '.join(several)} depend on the way its threads wait; expected equal ones"
        )
    rows = [_row(situation, way, ways, times) for situation in situations for way in ways]
    return {"rows": rows, "cpus": len(os.sched_getaffinity(0)), **{key: options[key] for key in ("frames", "config")}}


def _row(
    situation: Situation,
    way: Way,
    ways: Sequence[Way],
    times: Mapping[tuple[Situation, str], list[tuple[float, float]]],
) -> dict[str, Any]:
    pairs = times[situation, way.name]
    walls = [[wall for wall, _ in times[situation, other.name]] for other in ways]
    best = [min(turn) for turn in zip(*walls, strict=True)]
    return {
        **asdict(situation), "way": way.name, "words": way.words,
        "wall": summary([wall for wall, _ in pairs]), "processor": summary([processor for _, processor in pairs]),
        "slowdown": summary([wall / least for (wall, _), least in zip(pairs, best, strict=True)]),
    }  # fmt: skip


def worst(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return each way's largest median slowdown over all situations: how much it loses in the worst case."""
    found: dict[str, float] = {}
    for row in rows:
        found[row["way"]] = max(found.get(row["way"], 0.0), row["slowdown"]["median"])
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table: wall and CPU seconds of each way (columns) in each situation (rows)."""
    names = list(dict.fromkeys(row["way"] for row in rows))
    cells: dict[Situation, dict[str, str]] = defaultdict(dict)
    for row in rows:
        situation = Situation(row["load"], row["processes"], row["streams"])
        spread = f" ±{row['wall']['spread']:.0%}" if row["wall"]["count"] > 1 else ""
        cells[situation][row["way"]] = f"{row['wall']['median']:.2f}{spread} / {row['processor']['median']:.2f}"
    lines = [
        f"| busy loops | processes x streams | {' | '.join(names)} |",
        f"|{' --- |' * (2 + len(names))}",
        *(
            f"| {situation.load} | {situation.processes} x {situation.streams} | "
            f"{' | '.join(found[name] for name in names)} |"
            for situation, found in cells.items()
        ),
    ]
    losses = worst(rows)
    return [*lines, f"| slowest, to the fastest way | | {' | '.join(f'{losses[name]:.2f}x' for name in names)} |"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description="Measure videos on a crowded machine.")
    parser.add_argument("--bundle", help="folder of the engines (default: the small model)")
    parser.add_argument("--threads", type=int, help="CPU threads of each Generator (default: one per core)")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=[name for name in WAYS if name != "openvino"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=positive, default=math.inf, metavar="X", help="begin no round that ends later"
    )
    parser.add_argument("--quick", action="store_true", help="few frames, one step, two rounds, three situations")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        work(json.loads(given.worker))
        return 0
    if not hasattr(os, "sched_getaffinity"):
        print("this system has no affinity of processes; expected Linux", file=sys.stderr)
        return 2
    options: dict[str, Any] = {
        "bundle": given.bundle, "threads": given.threads, "frames": FRAMES, "config": {"preset": "fast"},
    }  # fmt: skip
    situations, rounds = SITUATIONS, given.rounds
    if given.quick:
        options |= {"frames": 2, "config": {"steps": 1, "guidance_scale": 1.0}}
        situations, rounds = QUICK, 2
    figures = measure([WAYS[name] for name in given.ways], situations, rounds, options, given.seconds)
    print("\n".join(table(figures["rows"])))
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
