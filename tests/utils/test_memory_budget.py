"""Free memory, and the check that a video fits into it before anything is allocated."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.doubles.fakes import FakeBackend
from tests.support.live_sessions import CONFIG, open_session
from tests.support.scenes import photo, speech
from vexpress_rt import GenerationConfig, Generator, Portrait
from vexpress_rt.errors import AudioError, ConfigError, InputError
from vexpress_rt.live import session as live_module
from vexpress_rt.media import audio_input
from vexpress_rt.pipeline import generator as generator_module
from vexpress_rt.utils.memory_budget import Need, check_memory, free_memory, whole_memory

MB = 1 << 20
Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Makes a root with some files of /proc and /sys, by path."""

    def make(**files: str) -> Path:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def unlimited(name: str) -> None:
    return None


def test_unknown_memory_refuses_nothing(tmp_path: Path) -> None:
    assert free_memory(tmp_path, unlimited) is None
    check_memory("a video", [Need(10**15, "frames", "cut it")], None)


def test_this_system_has_free_memory() -> None:
    found = free_memory()
    assert found is None or 0 <= found < 1 << 50


def test_the_system_has_what_it_can_give_without_swapping(tree: Tree) -> None:
    root = tree(proc__meminfo="MemTotal:  32000000 kB\nMemFree:  100 kB\nMemAvailable:  2048 kB\nSwapFree: 99 kB\n")
    assert free_memory(root, unlimited) == 2 * MB


VERSION_2 = {
    "proc__meminfo": "MemAvailable: 1000000 kB\n",
    "proc__self__cgroup": "0::/docker/abc\n",
    "sys__fs__cgroup__docker__abc__memory.max": f"{100 * MB}\n",
    "sys__fs__cgroup__docker__abc__memory.current": f"{90 * MB}\n",
    "sys__fs__cgroup__docker__abc__memory.stat": f"anon 5\nactive_file {2 * MB}\ninactive_file {3 * MB}\n",
}  # fmt: skip


def test_a_container_has_its_limit_less_its_use_and_file_cache_counts_as_free(tree: Tree) -> None:
    assert free_memory(tree(**VERSION_2), unlimited) == 15 * MB
    assert whole_memory(tree(**VERSION_2), unlimited) == 100 * MB


def test_a_group_above_can_leave_less(tree: Tree) -> None:
    above = {
        "sys__fs__cgroup__docker__memory.max": f"{200 * MB}",
        "sys__fs__cgroup__docker__memory.current": f"{196 * MB}",
    }
    assert free_memory(tree(**VERSION_2, **above), unlimited) == 4 * MB


@pytest.mark.parametrize("path", ["/", "/../..", "/not/mounted/here"])
def test_a_container_that_sees_its_own_group_at_the_top_has_that_limit(tree: Tree, path: str) -> None:
    root = tree(**{
        "proc__meminfo": "MemAvailable: 1000000 kB\n", "proc__self__cgroup": f"0::{path}\n",
        "sys__fs__cgroup__memory.max": f"{50 * MB}", "sys__fs__cgroup__memory.current": f"{20 * MB}",
    })  # fmt: skip
    assert free_memory(root, unlimited) == 30 * MB


def test_a_group_without_a_limit_sets_none(tree: Tree) -> None:
    files = VERSION_2 | {"sys__fs__cgroup__docker__abc__memory.max": "max\n"}
    assert free_memory(tree(**files), unlimited) == 1_000_000 * 1024


def test_groups_of_version_1_have_limits_too(tree: Tree) -> None:
    mount = "sys__fs__cgroup__memory"
    root = tree(**{
        "proc__meminfo": "MemAvailable: 1000000 kB\n",
        "proc__self__cgroup": "9:name=systemd:/\n4:cpu,memory:/docker/abc\n3:cpuset:/\n0::/\n",
        f"{mount}__docker__abc__memory.limit_in_bytes": f"{100 * MB}\n",
        f"{mount}__docker__abc__memory.usage_in_bytes": f"{70 * MB}\n",
        f"{mount}__docker__abc__memory.stat": f"inactive_file 7\ntotal_inactive_file {MB}\ntotal_active_file {MB}\n",
        f"{mount}__memory.limit_in_bytes": "9223372036854771712\n", f"{mount}__memory.usage_in_bytes": "5\n",
    })  # fmt: skip
    assert free_memory(root, unlimited) == 32 * MB


@pytest.mark.parametrize(("name", "field"), [("RLIMIT_AS", "VmSize"), ("RLIMIT_DATA", "VmData")])
def test_a_limit_of_the_process_counts_its_present_memory(tree: Tree, name: str, field: str) -> None:
    root = tree(proc__meminfo="MemAvailable: 1000000 kB\n", proc__self__status=f"Name:\tpython\n{field}:\t  1024 kB\n")
    assert free_memory(root, {name: 5 * MB}.get) == 4 * MB
    assert free_memory(root, {name: 1000}.get) == 0, "never less than nothing"


@pytest.mark.parametrize("text", ["", "\n", "MemAvailable:\n", "MemAvailable: many kB\n", "\x00\xff", "0:::::\n"])
def test_malformed_files_are_unknown_memory(tree: Tree, text: str) -> None:
    root = tree(proc__meminfo=text, proc__self__cgroup=text, proc__self__status=text)
    assert free_memory(root, {"RLIMIT_AS": 5}.get) is None


def test_the_message_names_the_needs_the_free_memory_and_the_remedy_of_the_largest() -> None:
    needs = [
        Need(10**9, "the noise", "leave it out"),
        Need(158 * 10**9, "the frames", "use output="),
        Need(5, "x", "y"),
    ]
    words = "a video needs 159 GB of memory (158 GB for the frames), and 2.00 GB are free: use output="
    with pytest.raises(ConfigError, match=f"^{re.escape(words)}$"):
        check_memory("a video", needs, 2 * 10**9)
    check_memory("a video", needs, 160 * 10**9)


# Before the work


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which 1 MB is free."""
    for module in (generator_module, live_module, audio_input):
        monkeypatch.setattr(module, "free_memory", lambda: 10**6)


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({}, "write them to a file with output="),
        ({"output": "video.mp4", "keep_frames": True}, "write them to a file with output="),
        ({"output": "video.mp4", "noise": "upstream"}, "leave out noise='upstream'"),
        ({"output": "video.mp4", "window_order": "step_major"}, "use window_order='wavefront'"),
    ],
    ids=["frames", "frames beside a file", "noise", "step_major"],
)
def test_a_long_video_is_refused_before_its_photo_is_read(
    generator: Generator, tmp_path: Path, options: dict[str, object], remedy: str
) -> None:
    if "output" in options:
        options = options | {"output": tmp_path / "video.mp4"}
    hours = np.broadcast_to(np.float32(0), 16000 * 3600)
    config = GenerationConfig(steps=2, overlap=2, fps=240, guidance_scale=1)
    with pytest.raises(ConfigError, match=rf"a video of 864000 frames needs .* 0.00 GB are free: {re.escape(remedy)}"):
        generator.generate("no such photo.png", (hours, 16000), config=config, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("little")
def test_a_recording_in_a_file_is_refused_once_its_length_is_known(
    generator: Generator, backend: FakeBackend, tmp_path: Path
) -> None:
    import wave

    path = tmp_path / "long.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", "NONE"))
        file.writeframes(bytes(2 * 16000 * 10))
    with pytest.raises(ConfigError, match="a video of 2400 frames needs"):
        generator.generate(photo(), path, config=GenerationConfig(steps=1, overlap=2, fps=240))
    assert backend.loads == ["face_detector"]


@pytest.mark.usefixtures("little")
def test_a_video_that_streams_into_a_file_needs_little_at_any_length(
    generator: Generator, portrait: Portrait, tmp_path: Path
) -> None:
    video = generator.generate(portrait, speech(0.2), config=CONFIG, output=tmp_path / "video.mp4")
    assert (video.frames, video.path) == (None, tmp_path / "video.mp4")


@pytest.mark.usefixtures("little")
def test_a_stream_counts_no_frames_that_its_caller_may_drop(generator: Generator, portrait: Portrait) -> None:
    with generator.stream(portrait, speech(1.0), config=CONFIG) as stream:
        assert next(stream).shape == (*generator.size, 3)


@pytest.mark.usefixtures("little")
def test_samples_that_need_a_copy_are_refused_before_it_is_made() -> None:
    with pytest.raises(AudioError, match=r"converting 20000000 audio samples of dtype float64 needs .*pass float32"):
        audio_input.to_float32(np.broadcast_to(np.float64(0), 20_000_000))
    assert audio_input.to_float32(np.broadcast_to(np.float32(0), 20_000_000)).shape == (20_000_000,)


@pytest.mark.usefixtures("little")
def test_hours_that_are_pushed_at_once_are_refused(generator: Generator, portrait: Portrait) -> None:
    with open_session(generator, portrait, max_lag=3600) as session:
        with pytest.raises(AudioError, match=r"pushing 1800.0 seconds of speech needs .*push less at once"):
            session.push(np.broadcast_to(np.float32(0), 1800 * 16000))
        assert session.lag == 0
        session.push(np.zeros(16000, np.float32))


def test_noise_for_hours_is_checked_without_a_copy(generator: Generator, portrait: Portrait) -> None:
    with pytest.raises(InputError, match="noise has shape"):
        generator.generate(
            portrait, speech(0.1), config=CONFIG, noise=np.broadcast_to(np.float32(0), (1, 4, 10**9, 2, 2))
        )
