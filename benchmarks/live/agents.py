"""Measure live mode as a voice agent uses it: utterances over a bad network, interruptions, and overload.

    python -m benchmarks.live.agents --minutes 10 --json agents.json

Utterances of 0.5 to 6 seconds follow each other with pauses. Half of them arrive in packets of 20 ms, each 0 to 200 ms
late and in order; half arrive at once, as speech synthesis sends them. A player queues frames, plays them at their
rate, and asks for idle frames when its queue is empty. The user interrupts now and then. Every sample is checked.

The session runs at the frame rate of the bundle with overload="drop", then at twice the sustained frame rate under each
policy. Each run takes `--minutes` in real time. With `--simulated`, waiting takes no time.
"""

from __future__ import annotations

import argparse
import json
import math
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import groupby
from typing import Any, Protocol

import numpy as np

from benchmarks.arguments import positive
from benchmarks.live.clock import CheckedSession, Recording, Samples, sustained
from benchmarks.live.figures import growth, machine, percentiles, resident
from benchmarks.live.options import add_options, chosen_options
from benchmarks.live.quality import RATE
from export import command
from export.pocket.evaluate.subjects import FIRST, make_subject
from vexpress_rt import AudioError, GenerationConfig, Generator, LiveFrame, LiveSession, Portrait
from vexpress_rt.live.audio_buffer import first_sample
from vexpress_rt.live.session_config import OVERLOADS
from vexpress_rt.media.recording import open_recording

PACKET = RATE // 50  # samples: 20 ms
LATEST = 0.2  # seconds by which a packet may be late
UTTERANCES = (0.5, 6.0)  # seconds
PAUSES = (0.2, 2.0)  # seconds
QUEUE = 2.0  # seconds of frames in the player's queue; less than the context, so that they can be taken back
FASTEST = 240.0  # frames per second that can be configured
TWICE = 2.0  # the overload
LOOK_AHEAD = 0.1  # seconds
CALL = 0.1  # seconds allowed for an engine call and for waking up, beyond `max_lag`


class Clock(Protocol):
    """A clock on which the program waits."""

    def now(self) -> float:
        """Return the time in seconds."""

    def wait(self, seconds: float) -> None:
        """Wait for at least 0 seconds."""


class RealClock:
    """The clock of the machine."""

    def now(self) -> float:
        """Return the time in seconds."""
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)


@dataclass
class SimulatedClock:
    """A clock on which work takes its time, and waiting none.

    Attributes:
        timer: Measures the work.
    """

    timer: Callable[[], float] = time.perf_counter
    _skipped: float = 0.0

    def now(self) -> float:
        """Return the time in seconds."""
        return self.timer() + self._skipped

    def wait(self, seconds: float) -> None:
        """Skip the time."""
        self._skipped += seconds


@dataclass
class Packet:
    """Sound of an utterance, or its end.

    Attributes:
        at: Seconds, from the beginning of the run, at which it arrives.
        utterance: Number of the utterance in the plan, from 0.
        samples: (n,) float32 at RATE; None for the end.
    """

    at: float
    utterance: int
    samples: Samples | None


def plan_packets(recording: Recording, seconds: float, random: np.random.Generator) -> list[Packet]:
    """Return the packets of a run in the order of their arrival.

    Args:
        recording: The speech.
        seconds: Duration of the run.
        random: Random numbers.
    """
    packets: list[Packet] = []
    begin, position, number, arrived = 0.5, 0, 0, 0.0
    while True:
        count = int(random.uniform(*UTTERANCES) * RATE)
        end = begin + count / RATE
        if end > seconds:
            return packets
        samples = recording.piece(position, position + count)
        if number % 2:
            arrived = max(arrived, begin)
            packets.append(Packet(arrived, number, samples))
        else:
            for start in range(0, count, PACKET):
                piece = samples[start : start + PACKET]
                spoken = begin + (start + len(piece)) / RATE
                arrived = max(arrived, spoken + random.uniform(0, LATEST))
                packets.append(Packet(arrived, number, piece))
        packets.append(Packet(arrived, number, None))
        begin, position, number = end + random.uniform(*PAUSES), position + count, number + 1


class Network:
    """Delivers packets to a session when they arrive, and remembers them by the session's number of their utterance.

    Attributes:
        lock: Held while a packet is pushed or an interruption is made.
        pushed: For each utterance of the session, its packets in order.
        ended: Utterances that were flushed.
        interrupted: Utterances that were cut short.
        refused: Packets that the session refused.
        pulled: The utterance of the last frame that was pulled.
    """

    def __init__(self, session: LiveSession, packets: Sequence[Packet]) -> None:
        self.lock = threading.Lock()
        self.pushed: dict[int, list[Packet]] = {}
        self.ended: set[int] = set()
        self.interrupted: set[int] = set()
        self.refused = self.pulled = 0
        self._session, self._coming = session, deque(packets)
        self._number, self._open = 0, False

    def deliver(self, now: float) -> None:
        """Push the packets that have arrived.

        Args:
            now: Seconds from the beginning of the run.
        """
        with self.lock:
            while self._coming and self._coming[0].at <= now:
                self._push(self._coming.popleft())

    def next_arrival(self) -> float:
        """Return when the next packet arrives; infinity if there is none."""
        with self.lock:
            return self._coming[0].at if self._coming else float("inf")

    def _push(self, packet: Packet) -> None:
        if packet.samples is None:
            self._session.flush()
            self.ended.add(self._number)
            self._open = False
            return
        try:
            self._session.push(packet.samples)
        except AudioError:
            self.refused += 1
            self._session.interrupt()
            self._give_up(packet.utterance, self.pulled)
            return
        if not self._open:
            self._number, self._open = self._number + 1, True
        self.pushed.setdefault(self._number, []).append(packet)

    def interrupt(self, shown: int, utterance: int) -> None:
        """Interrupt the session, and the utterance that is arriving. The caller holds `lock`.

        Args:
            shown: Number of frames of the session that were played.
            utterance: That of the last of them.
        """
        self._session.interrupt(shown)
        self._give_up(self._coming[0].utterance if self._coming and self._open else None, utterance)

    def _give_up(self, arriving: int | None, utterance: int) -> None:
        """Drop the packets of the utterance that is arriving; note that `utterance` and later ones are cut short."""
        while self._coming and self._coming[0].utterance == arriving:
            self._coming.popleft()
        self.interrupted |= {number for number in self.pushed if number >= utterance}
        self._open = False


@dataclass(slots=True)
class Played:
    """A frame that was played. Image and samples are not kept, so that the memory of the session can be seen.

    Attributes:
        at: Seconds from the beginning of the run.
        index: As of the frame, like the next four.
        idle: See `index`.
        utterance: See `index`.
        first: See `index`.
        held: See `index`.
        count: Number of its samples.
        checksum: Of its samples.
    """

    at: float
    index: int
    idle: bool
    utterance: int
    first: bool
    held: bool
    count: int
    checksum: int


def checksum(samples: Samples) -> int:
    """Return the checksum of samples (n,) float32."""
    return zlib.crc32(np.ascontiguousarray(samples, np.float32).tobytes())


@dataclass
class Run:
    """What a run gave.

    Attributes:
        played: The frames that were played, in order.
        network: What was pushed.
        memory: Seconds and MiB.
        interruptions: How many were made.
        realtime_factor: The session's, in the end.
        longest_pull: Seconds; on a simulated clock packets wait for it.
    """

    played: list[Played]
    network: Network
    memory: list[tuple[float, float]] = field(default_factory=list)
    interruptions: int = 0
    realtime_factor: float | None = None
    longest_pull: float = 0.0


def converse(
    session: LiveSession, packets: Sequence[Packet], interruptions: Sequence[float], seconds: float, clock: Clock
) -> Run:
    """Run a conversation.

    Args:
        session: The session.
        packets: What arrives.
        interruptions: When the user interrupts, seconds from the beginning, in order.
        seconds: Duration.
        clock: The clock. On a real one, packets are pushed by a thread of their own.
    """
    begin, network = clock.now(), Network(session, packets)
    run, player = Run([], network), _Player(float(1 / session.fps))
    session.clock = clock.now
    stopped, failures, waiting = threading.Event(), [], deque(interruptions)

    def deliver() -> None:
        try:
            while not stopped.wait(0.002):
                network.deliver(clock.now() - begin)
        except BaseException as error:  # raised again in the main thread
            failures.append(error)

    with ExitStack() as stack:
        if isinstance(clock, RealClock):
            thread = threading.Thread(target=deliver)
            thread.start()
            stack.callback(thread.join)
            stack.callback(stopped.set)
        while (now := clock.now() - begin) < seconds and not failures:
            if not isinstance(clock, RealClock):
                network.deliver(now)
            if waiting and waiting[0] <= now:
                waiting.popleft()
                with network.lock:
                    network.interrupt(*player.interrupt(now))
                run.interruptions += 1
            queued = player.queued(now)
            frame = session.pull(idle=queued <= 1) if queued * player.duration < QUEUE else None
            run.longest_pull = max(run.longest_pull, clock.now() - begin - now)
            if frame is not None:
                network.pulled = frame.utterance
                player.add(frame, clock.now() - begin)
                if not run.memory or now >= run.memory[-1][0] + 1:
                    run.memory.append((now, resident()))
            else:
                until = min(network.next_arrival(), *waiting, player.next_end(now), seconds)
                clock.wait(min(max(until - now, 0.001), 0.005))
    if failures:
        raise failures[0]
    run.played, run.realtime_factor = player.finish(seconds), session.realtime_factor
    return run


class _Player:
    """Plays frames one after the other, each when it has come and the frame before has ended."""

    def __init__(self, duration: float) -> None:
        self.duration = duration
        self._frames: list[Played] = []

    def add(self, frame: LiveFrame, now: float) -> None:
        at = max(now, self._frames[-1].at + self.duration) if self._frames else now
        self._frames.append(
            Played(
                at,
                frame.index,
                frame.idle,
                frame.utterance,
                frame.first,
                frame.held,
                len(frame.samples),
                checksum(frame.samples),
            )
        )

    def queued(self, now: float) -> int:
        """Return how many frames wait to be played, or are being played."""
        return sum(1 for _ in self._from_the_end(now - self.duration))

    def next_end(self, now: float) -> float:
        """Return when the frame that is being played ends."""
        return min((played.at + self.duration for played in self._from_the_end(now - self.duration)), default=now)

    def interrupt(self, now: float) -> tuple[int, int]:
        """Drop the frames that were not begun; return how many were shown, and the utterance of the last one."""
        while self._frames and self._frames[-1].at > now:
            self._frames.pop()
        return (self._frames[-1].index + 1, self._frames[-1].utterance) if self._frames else (0, 0)

    def finish(self, now: float) -> list[Played]:
        self.interrupt(now)
        return self._frames

    def _from_the_end(self, time: float) -> list[Played]:
        found = []
        for played in reversed(self._frames):
            if played.at <= time:
                break
            found.append(played)
        return found


@dataclass
class Check:
    """What is wrong with a run, and how late its sound was.

    Attributes:
        frames: Frames of speech.
        utterances: Utterances that were played, in part or whole.
        wrong_sound: Frames whose samples are not those pushed for them; idle frames with sound.
        broken: Utterances with silence inside, with a frame missing, or without their end, unless an interruption, the
            end of the run or a policy explains it.
        idle_before_speech: Most idle frames that were played after the first sound of an utterance had arrived.
        held: Frames that were held.
        skipped: Frames that were skipped.
        late: Seconds by which each frame of speech was played later than its sound alone could have been.
    """

    frames: int = 0
    utterances: int = 0
    wrong_sound: int = 0
    broken: int = 0
    idle_before_speech: int = 0
    held: int = 0
    skipped: int = 0
    late: list[float] = field(default_factory=list)


def check(run: Run, fps: Fraction, *, skips: bool) -> Check:
    """Check the frames that were played.

    Args:
        run: The run.
        fps: Frames per second of the session.
        skips: Whether speech may be skipped.
    """
    found, duration = Check(), float(1 / fps)
    spoken = {number: list(frames) for number, frames in groupby(_speech(run), lambda played: played.utterance)}
    begins = {number: _check_utterance(found, run, fps, frames, skips=skips) for number, frames in spoken.items()}
    ideal, previous, idle = -math.inf, -1, list[float]()
    for played in run.played:
        if played.idle:
            ideal, previous = played.at, played.index
            idle.append(played.at)
            found.wrong_sound += played.checksum != checksum(np.zeros(played.count, np.float32))
            continue
        packets = run.network.pushed[played.utterance]
        waited = sum(at > packets[0].at for at in idle)
        if played.first:
            found.idle_before_speech = max(found.idle_before_speech, waited)
        else:
            found.broken += bool(idle)
        idle.clear()
        stop = first_sample(played.index, RATE, fps) + played.count - begins[played.utterance]
        ideal = max(ideal + max(1, played.index - previous) * duration, _arrival(packets, stop))
        previous = played.index
        found.late.append(played.at - ideal)
        found.held += played.held
    found.frames, found.utterances = len(found.late), len(spoken)
    return found


def _speech(run: Run) -> list[Played]:
    return [played for played in run.played if not played.idle]


def _arrival(packets: Sequence[Packet], count: int) -> float:
    """Return when the first `count` samples of an utterance had arrived; of a longer one, when all had."""
    total = 0
    for packet in packets:
        total += 0 if packet.samples is None else len(packet.samples)
        if total >= count:
            return packet.at
    return packets[-1].at


def _check_utterance(found: Check, run: Run, fps: Fraction, frames: list[Played], *, skips: bool) -> int:
    """Compare the frames of an utterance with its sound; return the sample of the session at which it begins."""
    number, indices = frames[0].utterance, [played.index for played in frames]
    sound = np.concatenate([packet.samples for packet in run.network.pushed[number] if packet.samples is not None])
    missing = indices[-1] - indices[0] + 1 - len(indices)
    found.skipped += missing
    wrong, earlier = _wrong_sound(frames, sound, fps, 0), 0
    longest = math.ceil(len(sound) / RATE * fps) if skips else 0  # with the first frames skipped, it begins earlier
    while wrong and earlier < longest:
        earlier += 1
        if not _wrong_sound(frames, sound, fps, earlier):
            wrong = 0
            found.skipped += earlier
    found.wrong_sound += wrong
    begin = first_sample(indices[0] - earlier * (not wrong), RATE, fps)
    complete = first_sample(indices[-1] + 1, RATE, fps) >= begin + len(sound)
    excused = number in run.network.interrupted or number == run.played[-1].utterance or skips
    found.broken += bool((missing and not skips) or not (complete or excused) or not frames[0].first)
    return begin


def _wrong_sound(frames: list[Played], sound: Samples, fps: Fraction, earlier: int) -> int:
    """Return how many frames have other samples than their utterance, if it began `earlier` frames before them."""
    begin, wrong = first_sample(frames[0].index - earlier, RATE, fps), 0
    for played in frames:
        start = first_sample(played.index, RATE, fps) - begin
        expected = sound[start : start + played.count]
        wrong += played.checksum != checksum(np.pad(expected, (0, played.count - len(expected))))
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live.agents", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--minutes", type=positive, default=10.0, help="duration of each run (10)")
    add("--interruptions", type=int, default=20, help="interruptions in each run (20)")
    add("--policies", nargs="+", choices=OVERLOADS, default=OVERLOADS, help="policies to overload (all)")
    add("--max-lag", type=positive, default=1.0, help='seconds, with "drop" and "skip" (1)')
    add("--seed", type=int, default=0, help="of the network and the interruptions (0)")
    add("--simulated", action="store_true", help="wait on a simulated clock, so that waiting takes no time")
    add_options(parser)
    given = parser.parse_args(arguments)
    wrong: list[str] = []
    return command.run(lambda: _measure(given, wrong)) or int(bool(wrong))


def _measure(given: argparse.Namespace, wrong: list[str]) -> None:
    recording = Recording(open_recording(given.audio, RATE).read(), RATE)
    with Generator(given.bundle, provider=given.provider, threads=given.threads) as generator:
        photo = make_subject(FIRST).photo()
        conversations = Conversations(
            generator, generator.prepare(photo.image, keypoints=photo.keypoints), recording, given
        )
        config = GenerationConfig(**chosen_options(given))
        with generator.live(conversations.portrait, config=config) as session:
            fps, rate = float(session.fps), sustained(CheckedSession(session, recording), 4.0)
        report: dict[str, Any] = {
            "machine": machine(),
            "generator": generator.describe().splitlines(),
            "minutes": given.minutes,
            "simulated": given.simulated,
            "sustained_fps": rate,
            "at_the_bundles_rate": conversations.run("drop", replace(config, fps=fps)),
            "overloaded": {
                policy: conversations.run(policy, replace(config, fps=min(FASTEST, round(TWICE * rate, 2))))
                for policy in given.policies
            },
        }
    wrong += [f"{name}: {fault}" for name, run in _runs(report).items() for fault in run["faults"]]
    text = json.dumps(report, indent=1)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n")


def _runs(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"at_the_bundles_rate": report["at_the_bundles_rate"], **report["overloaded"]}


@dataclass
class Conversations:
    """Runs conversations with one generator.

    Attributes:
        generator: The generator.
        portrait: The portrait.
        recording: The speech.
        given: The command's arguments.
    """

    generator: Generator
    portrait: Portrait
    recording: Recording
    given: argparse.Namespace

    def run(self, policy: str, config: GenerationConfig) -> dict[str, Any]:
        """Return the figures of a run.

        Args:
            policy: The session's `overload`.
            config: The session's options.
        """
        given, seconds = self.given, 60 * self.given.minutes
        random = np.random.default_rng(given.seed)
        packets = plan_packets(self.recording, seconds, random)
        interruptions = np.sort(random.uniform(1, seconds, given.interruptions))
        # With "raise", max_lag bounds the speech that waits, also if it arrived ahead of its time.
        max_lag = given.max_lag + (UTTERANCES[1] if policy == "raise" else 0)
        clock = SimulatedClock() if given.simulated else RealClock()
        with self.generator.live(
            self.portrait, config=config, sample_rate=RATE, look_ahead=LOOK_AHEAD, overload=policy, max_lag=max_lag
        ) as session:
            run = converse(session, packets, interruptions.tolist(), seconds, clock)
            fps = session.fps
        found = check(run, fps, skips=policy == "skip")
        shape, settings = (
            self.generator.bundle.manifest.shape,
            self.generator.bundle.manifest.settings(config, live=True),
        )
        new = shape.frames - settings.overlap
        wait = float((new + math.ceil(LOOK_AHEAD * fps) + 1) / fps)
        slack = run.longest_pull if given.simulated else CALL
        bound = None if policy == "raise" else wait + max_lag + slack
        late = percentiles(found.late)
        return {
            "fps": float(fps),
            "overload": policy,
            "max_lag_s": max_lag,
            "late_s": late,
            "late_bound_s": bound,
            "longest_pull_s": run.longest_pull,
            "realtime_factor": run.realtime_factor,
            "interruptions": run.interruptions,
            "refused_pushes": run.network.refused,
            **{name: value for name, value in vars(found).items() if name != "late"},
            "memory_mib": growth(run.memory),
            "faults": _faults(found, late["max"], bound, new),
        }


def _faults(found: Check, latest: float, bound: float | None, new: int) -> list[str]:
    faults = {
        f"{found.wrong_sound} frames have wrong sound": found.wrong_sound,
        f"{found.broken} utterances are broken": found.broken,
        f"{found.idle_before_speech} idle frames before speech; at most {new}": found.idle_before_speech > new,
        f"sound is {latest:.2f} seconds late; at most {bound}": bound is not None and not latest <= bound,
    }
    return [text for text, wrong in faults.items() if wrong]


if __name__ == "__main__":
    raise SystemExit(main())
