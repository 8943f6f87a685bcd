"""The conversations of `benchmarks.live.agents`: what arrives, what is played, and the faults that are found."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from benchmarks.live import agents
from benchmarks.live.agents import LATEST, Check, Packet, Run, SimulatedClock, check, converse, main, plan_packets
from benchmarks.live.clock import Recording
from tests.doubles.fakes import FakeBackend
from tests.support.scenes import photo, speech
from vexpress_rt import GenerationConfig, Generator

CONFIG = GenerationConfig(steps=1, overlap=2, fps=25, guidance_scale=1, median_filter=False)
RECORDING = Recording(*speech(2.3))
FPS = Fraction(25)


@pytest.fixture
def run(generator: Generator) -> Run:
    """A conversation of 12 seconds with an interruption, on a machine whose work takes no time."""
    packets = plan_packets(RECORDING, 12.0, np.random.default_rng(3))
    with generator.live(photo(), config=CONFIG, look_ahead=0.08, overload="drop", max_lag=1) as session:
        return converse(session, packets, [4.0], 12.0, SimulatedClock(lambda: 0.0))


def test_packets_arrive_late_and_in_order_or_all_at_once() -> None:
    packets = plan_packets(RECORDING, 60.0, np.random.default_rng(0))
    assert [packet.at for packet in packets] == sorted(packet.at for packet in packets)
    counts = [sum(packet.utterance == number for packet in packets) for number in range(packets[-1].utterance + 1)]
    assert set(counts[1::2]) == {2}  # the sound and the end
    assert min(counts[::2]) > 20
    sound = np.concatenate([packet.samples for packet in packets if packet.samples is not None])
    np.testing.assert_array_equal(sound, RECORDING.piece(0, len(sound)))
    spoken, of_the_first = 0.5, [packet for packet in packets if packet.utterance == 0 and packet.samples is not None]
    late = []
    for packet in of_the_first:
        assert packet.samples is not None
        spoken += len(packet.samples) / 16000
        late.append(packet.at - spoken)
    assert 0 <= min(late) < max(late) <= LATEST + 1e-9


def test_a_good_conversation_has_no_fault(run: Run) -> None:
    found = check(run, FPS, skips=False)
    assert (found.wrong_sound, found.broken, found.held, found.skipped) == (0, 0, 0, 0)
    assert found.utterances >= 3
    assert run.interruptions == 1
    assert max(found.late) <= (6 + 2 + 1) / 25 + 0.02  # the wait for a window, and for the player
    assert found.idle_before_speech <= 6
    assert np.diff([played.at for played in run.played]).min() > 0.0399


def test_faults_are_found(run: Run) -> None:
    def found(index: int, **changes: object) -> Check:
        played = list(run.played)
        played[index : index + 1] = [replace(played[index], **changes)] if changes else []  # type: ignore[arg-type]
        return check(replace(run, played=played), FPS, skips=False)

    middle = next(index for index, played in enumerate(run.played) if played.first) + 5
    assert found(middle, checksum=1).wrong_sound == 1
    assert found(middle).broken == 1  # a frame is missing
    assert found(middle, idle=True).broken >= 1
    assert max(found(middle, at=run.played[middle].at + 3).late) > 2.5
    idle = next(index for index, played in enumerate(run.played) if played.idle)
    assert found(idle, checksum=1).wrong_sound == 1
    last = max(index for index, played in enumerate(run.played) if played.utterance == 1 and not played.idle)
    assert found(last).broken == 1  # the end is missing


def test_the_command_reports_each_policy(
    fake_bundle: Path, backend: FakeBackend, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(agents, "sustained", lambda checked, seconds: 30.0)
    output = tmp_path / "agents.json"
    options = [
        "--minutes",
        "0.1",
        "--interruptions",
        "1",
        "--steps",
        "1",
        "--overlap",
        "2",
        "--fps",
        "25",
        "--simulated",
    ]
    assert main(["--bundle", str(fake_bundle), "--provider", "cpu", *options, "--json", str(output)]) == 0
    found = json.loads(output.read_text())
    assert json.loads(capsys.readouterr().out) == found
    assert set(found["overloaded"]) == {"raise", "drop", "skip"}
    assert (found["at_the_bundles_rate"]["fps"], found["overloaded"]["drop"]["fps"]) == (25, 60)
    assert found["at_the_bundles_rate"]["faults"] == []
    assert found["overloaded"]["raise"]["late_bound_s"] is None


def test_a_fault_fails_the_command(
    fake_bundle: Path, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(agents, "sustained", lambda checked, seconds: 30.0)
    monkeypatch.setattr(agents, "checksum", lambda samples: id(samples))
    options = ["--minutes", "0.05", "--interruptions", "0", "--steps", "1", "--fps", "25", "--simulated"]
    assert main(["--bundle", str(fake_bundle), "--provider", "cpu", *options, "--policies", "drop"]) == 1
    assert "frames have wrong sound" in capsys.readouterr().out


def test_a_refused_push_gives_up_the_utterance(generator: Generator) -> None:
    sound = RECORDING.piece(0, 16000 * 3)
    packets = [
        Packet(0.5, 0, sound),
        Packet(0.6, 0, sound),
        Packet(0.7, 0, None),
        Packet(1.0, 1, sound),
        Packet(1.0, 1, None),
    ]
    with generator.live(photo(), config=CONFIG, look_ahead=0.08, max_lag=4) as session:
        run = converse(session, packets, [], 6.0, SimulatedClock(lambda: 0.0))
    found = check(run, FPS, skips=False)
    assert run.network.refused == 1
    assert (found.wrong_sound, found.broken, found.utterances) == (0, 0, 2)
