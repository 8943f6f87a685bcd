"""The CPU's model, from recorded /proc/cpuinfo of several chips (shortened lists of flags), and from `platform`."""

from __future__ import annotations

import dataclasses
import platform
import re
from pathlib import Path

import pytest

from vexpress_rt.utils.cpu_model import CpuModel, cpu_model

ZEN_4 = """\
processor	: 0
vendor_id	: AuthenticAMD
cpu family	: 25
model		: 17
model name	: AMD EPYC
stepping	: 1
microcode	: 0x1000065
cpu MHz		: 2596.134
flags		: fpu avx2 avx512f avx512_bf16 avx512_vnni
bogomips	: 5192.26

processor	: 1
vendor_id	: AuthenticAMD
cpu family	: 99
model name	: another
"""
ZEN_5 = """\
processor	: 0
vendor_id	: AuthenticAMD
cpu family	: 26
model		: 2
model name	: AMD EPYC 9755 128-Core Processor
stepping	: 1
flags		: fpu avx2 avx512f avx512_bf16 avx_vnni
"""
SAPPHIRE_RAPIDS = """\
processor	: 0
vendor_id	: GenuineIntel
cpu family	: 6
model		: 143
model name	: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
stepping	: 8
flags		: fpu avx512f avx512_bf16 amx_bf16 avx512_fp16 amx_tile amx_int8
"""
NEOVERSE_V1 = """\
processor	: 0
BogoMIPS	: 2100.00
Features	: fp asimd bf16 i8mm sve
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x1
CPU part	: 0xd40
CPU revision	: 1

processor	: 1
"""


def machine(root: Path, cpuinfo: str) -> Path:
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(cpuinfo)
    return root


@pytest.mark.parametrize(
    ("cpuinfo", "described", "slug", "flag"),
    [
        (ZEN_4, "AMD EPYC, family 25 model 17", "amd-epyc-family-25-model-17", "avx512_bf16"),
        (ZEN_5, "AMD EPYC 9755, family 26 model 2", "amd-epyc-9755-family-26-model-2", "avx_vnni"),
        (
            SAPPHIRE_RAPIDS, "Intel Xeon Platinum 8481C, family 6 model 143",
            "intel-xeon-platinum-8481c-family-6-model-143", "amx_bf16",
        ),
        (NEOVERSE_V1, "Arm aarch64, family 8 model 3392", "arm-aarch64-family-8-model-3392", "bf16"),
    ],
    ids=["Zen 4", "Zen 5", "Sapphire Rapids", "Neoverse V1"],
)  # fmt: skip
def test_chips_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str, described: str, slug: str, flag: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    model = cpu_model(machine(tmp_path, cpuinfo))
    assert (model.describe(), model.slug) == (described, slug)
    assert flag in model.flags
    assert model.stepping is not None


def test_the_first_cpu_counts(tmp_path: Path) -> None:
    flags = frozenset(["fpu", "avx2", "avx512f", "avx512_bf16", "avx512_vnni"])
    assert cpu_model(machine(tmp_path, ZEN_4)) == CpuModel("AMD EPYC", "AuthenticAMD", 25, 17, 1, flags)


@pytest.mark.parametrize("length", [0, 9, 30, 60, 75, 100, 130, 200])
def test_a_truncated_file_leaves_out_what_it_lacks(tmp_path: Path, length: int) -> None:
    model = cpu_model(machine(tmp_path, ZEN_4[:length]))
    assert model.name
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", model.slug)
    assert "another" not in model.name


def test_a_container_can_hide_flags_and_numbers(tmp_path: Path) -> None:
    text = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: unknown\nstepping\t: unknown\n"
    assert cpu_model(machine(tmp_path, text)) == CpuModel("unknown", "GenuineIntel")
    assert cpu_model(tmp_path).describe() == "unknown"


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ("Intel64 Family 6 Model 143 Stepping 8, GenuineIntel", CpuModel("Intel64", "GenuineIntel", 6, 143, 8)),
        ("arm", CpuModel("arm64")),
        ("", CpuModel("arm64")),
    ],
)
def test_other_systems_answer_by_platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: str, expected: CpuModel
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(platform, "processor", lambda: processor)
    assert cpu_model(tmp_path) == expected


def test_the_key_differs_with_every_attribute(tmp_path: Path) -> None:
    model = cpu_model(machine(tmp_path, ZEN_4))
    others = [
        dataclasses.replace(model, **change)
        for change in (
            {"name": "AMD"}, {"vendor": "x"}, {"family": 26}, {"model": 2}, {"stepping": None},
            {"flags": model.flags - {"avx512_bf16"}},
        )
    ]  # fmt: skip
    keys = {model.key, *(other.key for other in others)}
    assert len(keys) == 7
    assert all(re.fullmatch("[0-9a-f]{16}", key) for key in keys)
    assert model.key == cpu_model(tmp_path).key


def test_this_machine_has_a_model() -> None:
    model = cpu_model()
    assert model.describe()
    assert model.slug
