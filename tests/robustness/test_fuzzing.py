"""The fuzzer finds planted faults of each kind, and reports none for a reader without faults."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.robustness.campaign import KEPT, Campaign, Limits, summary
from tests.robustness.cases import Case, chance_of
from tests.robustness.mutations import mutate
from tests.robustness.readers import READERS
from tests.robustness.readers.sounds import written
from tests.robustness.structures import blocks
from tests.robustness.wire import damage
from tests.support.paths import ROOT

LIMITS = Limits(seconds=1, memory=100)
PLANTED = ("FAILED", "refused", "accepted")  # by the first byte of an input


def planned(fault: str, count: int) -> Counter[str]:
    """Return the expected outcomes of the first `count` inputs of a reader with a planted fault."""
    return Counter(PLANTED[chance_of(3, f"planted_{fault}", number).randrange(3)] for number in range(count))


def until_it_fails(fault: str) -> int:
    return next(count for count in range(1, 20) if planned(fault, count)["FAILED"])


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("crash", "crash: SIGSEGV"),
        ("exit", "crash: exit 0"),
        ("busy", "time"),
        ("hog", "memory"),
        ("foreign", "exception: .*KeyError"),
        ("opens", "opened: .*secret.txt"),
        ("opens_in_c", "opened: secret.txt through a library"),
        ("leaves", "left behind: inputs/left.part"),
        ("prints", "stderr: .*libplanted"),
        ("leaks", "descriptors"),
        ("talks", "message: "),
    ],
)
def test_a_planted_fault_is_found_and_kept(tmp_path: Path, fault: str, kind: str) -> None:
    tally = Campaign(3, tmp_path, LIMITS).fuzz(f"planted_{fault}", 600, 6)
    assert [re.search(kind, found) is not None for found in tally.kinds] == [True], tally.kinds
    assert tally.outcomes == planned(fault, 6)
    kept = sorted(tmp_path.glob("*.bin"))
    assert len(kept) == min(tally.failures, KEPT)
    assert all(path.read_bytes()[0] == 0 for path in kept), "another input was kept than the one that failed"
    assert f"--replay {kept[0]}" in summary([tally])


def test_an_input_that_sleeps_is_ended(tmp_path: Path) -> None:
    tally = Campaign(3, tmp_path, Limits(seconds=0.2)).fuzz("planted_asleep", 60, until_it_fails("asleep"))
    assert list(tally.kinds) == ["time"]


def test_no_fault_is_found_where_none_is(tmp_path: Path) -> None:
    tally = Campaign(3, tmp_path, LIMITS).fuzz("planted_none", 600, 30)
    assert (tally.failures, tally.outcomes.total()) == (0, 30), summary([tally])
    assert list(tmp_path.iterdir()) == []


def test_a_kept_input_fails_again_in_a_replay_by_the_command(tmp_path: Path) -> None:
    Campaign(3, tmp_path, LIMITS).fuzz("planted_foreign", 60, until_it_fails("foreign"))
    (kept,) = tmp_path.glob("*.bin")
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "fuzz.py"), "--replay", str(kept)], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "KeyError: 'planted'" in done.stdout


def test_a_child_that_does_not_start_is_a_failure_and_not_the_end_of_the_others(tmp_path: Path) -> None:
    broken, sound = Campaign(3, tmp_path, LIMITS).run(["no_such_reader", "planted_none"], 600, 2, most=5)
    assert list(broken.kinds) == ["start: no input was read"]
    assert "KeyError: 'no_such_reader'" in summary([broken])
    assert (sound.failures, sound.outcomes.total()) == (0, 5)


def test_a_seed_decides_the_sequence_of_inputs(tmp_path: Path) -> None:
    seeds = [Case(".wav", written("wav", ".wav", "pcm_s16le", 16000, "mono"))]
    first, again, other = (
        [READERS["sounds"](tmp_path).make(chance_of(seed, "sounds", number), seeds) for number in range(20)]
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_every_sound_that_is_changed_begins_as_one_that_is_read(tmp_path: Path) -> None:
    reader, path = READERS["sounds"](tmp_path), tmp_path / "speech.ogg"
    path.write_bytes(written("ogg", ".ogg", "vorbis", 44100, "stereo"))
    reader.read(path)


@pytest.mark.parametrize(
    "plan",
    [("wav", ".wav", "pcm_s16le", 16000, "mono"), ("mp4", ".m4a", "aac", 44100, "mono"), ("ogg", ".ogg", "vorbis",
    44100, "stereo"),
     ("webm", ".webm", "libopus", 48000, "mono"), ("flac", ".flac", "flac", 16000, "mono"), ("flv", ".flv", "aac",
     44100, "stereo")],
    ids=lambda plan: plan[0],
)  # fmt: skip
def test_blocks_of_a_format_lie_within_the_file_and_sizes_are_written_as_it_writes_them(plan: tuple) -> None:
    data = written(*plan)
    found = blocks(data)
    assert len(found) > 2
    for block in found:
        assert 0 <= block.start <= block.body <= block.stop <= len(data)
        if plan[0] in ("wav", "mp4") and block.stop - block.body + block.extra < 2**31 and block.width:
            size = data[block.field : block.field + block.width]
            assert block.encode(block.declared(block.stop - block.body)) == size


def test_a_checksum_is_made_right_after_a_change() -> None:
    data = bytearray(written("ogg", ".ogg", "vorbis", 44100, "stereo"))
    before = bytes(data)
    for block in blocks(before):
        block.repair(data)
    assert bytes(data) == before, "the checksums of a sound file are those that it has"


def test_a_damaged_message_can_be_parsed_so_that_readers_come_far() -> None:
    import onnx

    graph = (ROOT / "engines" / "pocket" / "pose_guider.onnx").read_bytes()
    parsed = 0
    for number in range(20):
        try:
            onnx.ModelProto.FromString(damage(chance_of(0, "wire", number), graph))
            parsed += 1
        except Exception:  # the class is of a library beneath
            continue
    assert parsed >= 10


def test_mutations_change_most_inputs_and_keep_them_small() -> None:
    data = written("wav", ".wav", "pcm_s16le", 16000, "mono")
    changed = [mutate(chance_of(0, "x", number), data, [data]) for number in range(50)]
    assert sum(one != data for one in changed) > 45
    assert max(map(len, changed)) <= 4 << 20
