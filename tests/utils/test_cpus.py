"""The number of CPUs that a process may use, from synthetic /proc and /sys trees; no more threads are started."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from vexpress_rt import ConfigError, Generator
from vexpress_rt.backends.onnxruntime import engine as onnxruntime
from vexpress_rt.utils import cpus
from vexpress_rt.utils.cpus import available_cores, cpu_quota, limit_threads, usable_cores, usable_cpus

V2 = "31 23 0:28 {root} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"


def tree(root: Path, groups: str, mounts: str, **files: str) -> Path:
    """Write the files of a system whose process is in `groups`; "__" in a name stands for "/"."""
    contents = {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts}
    contents |= {f"sys/fs/cgroup/{name.replace('__', '/')}": text for name, text in files.items()}
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("150000 100000\n", 1.5), ("50000 100000\n", 0.5), ("max 100000\n", None), ("1600000 100000", 16),
        ("", None), ("100000", None), ("a b", None), ("0 100000", None), ("100000 0", None), ("-1 100000", None),
        ("9" * 400 + " 1", None),
    ],
)  # fmt: skip
def test_the_quota_of_a_group_of_version_2(tmp_path: Path, text: str, quota: float | None) -> None:
    root = tree(tmp_path, "0::/app\n", V2.format(root="/"), **{"app__cpu.max": text})
    assert cpu_quota(root) == quota


def test_of_nested_groups_the_smallest_quota_counts(tmp_path: Path) -> None:
    files = {
        "cpu.max": "max 100000", "a.slice__cpu.max": "300000 100000", "a.slice__b__cpu.max": "25000 10000",
        "a.slice__b__c__cpu.max": "max 100000", "other__cpu.max": "1000 100000",
    }  # fmt: skip
    assert cpu_quota(tree(tmp_path, "0::/a.slice/b/c\n", V2.format(root="/"), **files)) == 2.5


def test_a_container_sees_its_group_as_the_root_of_the_mount(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/\n", V2.format(root="/"), **{"cpu.max": "200000 100000"})
    assert cpu_quota(root) == 2


@pytest.mark.parametrize("group", ["/docker/12ab", "/docker/12ab/below", "/", "/../elsewhere"])
def test_the_quota_of_a_group_of_version_1_through_a_mount_of_it_alone(tmp_path: Path, group: str) -> None:
    """Docker without namespaces of groups: the whole hierarchy's path, and a mount that shows the container's part."""
    quota = {"cpu,cpuacct__cpu.cfs_quota_us": "150000\n", "cpu,cpuacct__cpu.cfs_period_us": "100000\n"}
    groups = f"4:memory:/docker/x\n3:cpu,cpuacct:{group}\n1:name=systemd:/a\n0::/system.slice\n"
    assert cpu_quota(tree(tmp_path, groups, V1.format(root="/docker/12ab"), **quota)) == 1.5


def test_no_limit_in_version_1_is_minus_one(tmp_path: Path) -> None:
    quota = {"cpu,cpuacct__cpu.cfs_quota_us": "-1\n", "cpu,cpuacct__cpu.cfs_period_us": "100000\n"}
    assert cpu_quota(tree(tmp_path, "3:cpu,cpuacct:/\n", V1.format(root="/"), **quota)) is None


def test_both_versions_at_once(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct__cpu.cfs_quota_us": "400000", "cpu,cpuacct__cpu.cfs_period_us": "100000",
        "unified__u__cpu.max": "300000 100000",
    }  # fmt: skip
    mounts = V1.format(root="/") + V2.format(root="/").replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ")
    assert cpu_quota(tree(tmp_path, "3:cpu,cpuacct:/\n0::/u\n", mounts, **files)) == 3


def test_a_mount_with_a_space_in_its_name(tmp_path: Path) -> None:
    mounts = V2.format(root="/").replace("/sys/fs/cgroup", r"/sys/fs/cgroup/a\040b")
    assert cpu_quota(tree(tmp_path, "0::/\n", mounts, **{"a b__cpu.max": "70000 100000"})) == 0.7


def test_a_system_without_control_groups_limits_nothing(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert cpu_quota(tree(tmp_path, "nonsense\n::\n", "nonsense - \n1 2 3 - cgroup2\n")) is None


@pytest.mark.parametrize(
    ("affinity", "quota", "usable"), [(8, None, 8), (8, 2.0, 2), (8, 1.2, 2), (8, 0.1, 1), (2, 16.0, 2), (1, 0.5, 1)]
)
def test_usable_cpus_are_those_of_affinity_and_quota_rounded_up(
    monkeypatch: pytest.MonkeyPatch, affinity: int, quota: float | None, usable: int
) -> None:
    monkeypatch.setattr(cpus, "available_cpus", lambda: affinity)
    monkeypatch.setattr(cpus, "_own_quota", lambda: quota)
    assert usable_cpus() == usable


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity to set")
def test_affinity_is_that_of_the_process() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("requested", "threads", "lowered"),
    [(None, 4, False), (1, 1, False), (4, 4, False), (5, 4, True), (1024, 4, True)],
)
def test_threads_are_never_more_than_usable_cpus(
    monkeypatch: pytest.MonkeyPatch, requested: int | None, threads: int, lowered: bool
) -> None:
    monkeypatch.setattr(cpus, "usable_cpus", lambda: 4)
    monkeypatch.setattr(cpus, "usable_cores", lambda: 4)
    limit = limit_threads(requested)
    assert (limit.threads, limit.lowered) == (threads, lowered)


@pytest.mark.parametrize("threads", [0, -1, 1025, True, "4", 1e9])
def test_an_impossible_number_stays_an_error(threads: Any) -> None:
    with pytest.raises(ConfigError, match="threads is"):
        limit_threads(threads)


@pytest.fixture
def two_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container with a quota of 1.5 CPUs on a machine with 64."""
    monkeypatch.setattr(cpus, "available_cpus", lambda: 64)
    monkeypatch.setattr(cpus, "available_cores", lambda: 32)
    monkeypatch.setattr(cpus, "_own_quota", lambda: 1.5)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)


@pytest.mark.usefixtures("two_of_many")
def test_a_lowered_number_is_logged_once_and_described(
    fake_bundle: Path, backend: object, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "vexpress_rt"), Generator(fake_bundle, threads=16) as generator:
        assert "CPU with 64 cores, 16 threads requested, 2 used: this process may use 2 CPUs" in generator.describe()
    assert [record.getMessage() for record in caplog.records] == [
        "threads is 16, but this process may use 2 CPUs: using 2, because more threads would only wait"
    ]


@pytest.mark.usefixtures("two_of_many")
def test_by_default_a_quota_is_kept_without_a_warning(
    fake_bundle: Path, backend: object, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "vexpress_rt"), Generator(fake_bundle) as generator:
        assert "CPU with 64 cores, 2 threads\n" in generator.describe()
    assert caplog.records == []


@pytest.mark.usefixtures("two_of_many")
@pytest.mark.parametrize(("requested", "threads"), [(None, 2), (1, 1), (2, 2), (16, 2), (1024, 2)])
def test_sessions_have_no_more_threads(requested: int | None, threads: int) -> None:
    import onnxruntime as library

    assert onnxruntime.cpu_options(library, requested).intra_op_num_threads == threads


def test_sessions_take_one_thread_per_core_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's own default binds threads to cores, where they wait while other processes run there."""
    import onnxruntime as library

    monkeypatch.setattr(cpus, "usable_cpus", lambda: 8)
    monkeypatch.setattr(cpus, "usable_cores", lambda: 4)
    assert onnxruntime.cpu_options(library, None).intra_op_num_threads == 4
    assert onnxruntime.cpu_options(library, 3).intra_op_num_threads == 3
    assert onnxruntime.cpu_options(library, 7).intra_op_num_threads == 7
    assert onnxruntime.cpu_options(library, 1024).intra_op_num_threads == 8


def topology(root: Path, name: str, values: Mapping[int, str]) -> Path:
    """Write a file of each logical CPU's topology."""
    for cpu, value in values.items():
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{value}\n")
    return root


PAIRS = {0: "0,4", 1: "1,5", 2: "2,6", 3: "3,7", 4: "0,4", 5: "1,5", 6: "2,6", 7: "3,7"}


@pytest.mark.parametrize("name", ["core_cpus_list", "thread_siblings_list"])
@pytest.mark.parametrize(("affinity", "cores"), [(range(8), 4), ({0, 4}, 1), ({0, 1, 2}, 3), ({1, 5, 6}, 2), ({7}, 1)])
def test_a_core_counts_once_and_only_within_the_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, affinity: Collection[int], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(affinity), raising=False)
    assert available_cores(topology(tmp_path, name, PAIRS)) == cores


def test_cores_are_named_by_package_and_number_where_siblings_are_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    topology(tmp_path, "core_id", {cpu: str(cpu % 2) for cpu in range(8)})
    assert available_cores(topology(tmp_path, "physical_package_id", {cpu: str(cpu // 4) for cpu in range(8)})) == 4


@pytest.mark.parametrize("siblings", ["", "nonsense", "0-", "-1"])
def test_cpus_of_unknown_cores_count_as_one_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, siblings: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    root = topology(tmp_path, "core_cpus_list", dict.fromkeys(range(3), siblings))
    assert available_cores(topology(root, "core_id", {1: "-1"})) == 3


def test_a_system_without_affinity_counts_its_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_cores(tmp_path) == 6


@pytest.mark.parametrize(
    ("cores", "quota", "usable"), [(4, None, 4), (4, 2.0, 2), (4, 1.2, 2), (4, 0.1, 1), (4, 6.0, 4)]
)
def test_usable_cores_are_those_of_affinity_within_the_quota(
    monkeypatch: pytest.MonkeyPatch, cores: int, quota: float | None, usable: int
) -> None:
    monkeypatch.setattr(cpus, "available_cores", lambda: cores)
    monkeypatch.setattr(cpus, "available_cpus", lambda: 2 * cores)
    monkeypatch.setattr(cpus, "_own_quota", lambda: quota)
    assert usable_cores() == usable
    assert limit_threads(None).threads == usable
    assert not limit_threads(None).lowered


VIDEO = """
import gc, json, os, sys, time
import numpy as np
from vexpress_rt import GenerationConfig, Generator

cpus, threads, output = json.loads(sys.argv[1])
if cpus is not None:
    os.sched_setaffinity(0, set(cpus))
import cv2  # counts CPUs when it is imported, as NumPy does
from vexpress_rt.backends.onnxruntime import engine

sessions, plain = [], engine.make_session
engine.make_session = lambda *given: sessions.append(plain(*given)) or sessions[-1]
before = len(os.listdir("/proc/self/task"))
with Generator(threads=threads) as generator:
    photo = np.random.default_rng(0).integers(0, 255, (1500, 2000, 3), np.uint8)
    portrait = generator.prepare(photo, keypoints=np.array([[800, 600], [1200, 600], [1000, 900]]))
    config = GenerationConfig(steps=1, guidance_scale=1, fps=10)
    generator.generate(portrait, (np.zeros(4800, np.float32), 16000), config=config, output=output)
    gc.collect()  # PyAV's objects refer to each other, and keep the encoder's threads
    time.sleep(0.2)  # the system lists a thread for a moment after its end
    print(len(os.listdir("/proc/self/task")) - before, len(sessions))
"""


def started_threads(tmp_path: Path, cpus: set[int] | None, threads: int | None) -> tuple[int, int]:
    """Return the threads that a process with a Generator has started, and the engines that it has loaded."""
    arguments = json.dumps([cpus and sorted(cpus), threads, str(tmp_path / "video.mp4")])
    line = [sys.executable, "-W", "ignore", "-c", VIDEO, arguments]
    output = subprocess.run(line, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout
    found, engines = map(int, output.split())
    return found, engines


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system does not list a process's threads")
def test_a_process_on_one_cpu_starts_no_threads(tmp_path: Path) -> None:
    one = {min(os.sched_getaffinity(0))}
    for threads in (None, 1, 1024):
        assert started_threads(tmp_path, one, threads)[0] == 0, threads


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system does not list a process's threads")
def test_a_thousand_threads_start_no_more_than_the_cpus(tmp_path: Path) -> None:
    """Each engine has its own threads, one less than the number, because the calling thread computes as well."""
    found, engines = started_threads(tmp_path, None, 1024)
    assert engines >= 6
    assert found == engines * (usable_cpus() - 1)
