"""`vexpress-rt inspect`: the description of a bundle as text and JSON."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bundles import DENOISER_PLAN, edit, make_compiled, make_folder
from tests.support.factories import model_config
from tests.support.onnx_graphs import one_node_model
from tests.support.paths import ROOT
from vexpress_rt.__main__ import main
from vexpress_rt.bundle.engine_spec import VideoShape, engine_specs
from vexpress_rt.bundle.manifest import EngineEntry, FileEntry, Manifest, write_manifest

SHAPE = VideoShape(64, 128, 8)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle with all engines except `denoiser_cond`, each with a trivial graph."""
    specs = engine_specs(model_config(), SHAPE)
    del specs["denoiser_cond"]
    content = one_node_model().SerializeToString()
    files, engines = {}, {}
    for name, spec in specs.items():
        (tmp_path / f"{name}.onnx").write_bytes(content)
        files[f"{name}.onnx"] = FileEntry(len(content), hashlib.sha256(content).hexdigest())
        engines[name] = EngineEntry(
            file=f"{name}.onnx", weights_sha256="0" * 64, fingerprint="0", inputs=spec.inputs, outputs=spec.outputs
        )
    manifest = Manifest(
        package="0.1.0", versions={"torch": "2.13.0", "evil": "\x1b[2J"}, target="onnxruntime", precision="fp32",
        shape=SHAPE, model=model_config(), engines=engines, files=files,
        parity={"vae_encoder": 1.5e-6, "denoiser": {"conditional": 2e-6}},
    )  # fmt: skip
    write_manifest(tmp_path, manifest)
    return tmp_path


@pytest.fixture
def inspected(bundle: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["inspect", str(bundle)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        r"target: +onnxruntime, fp32",
        r"video: +64 x 128 pixels \(height x width\), windows of 8 frames",
        r"built by: +vexpress_rt 0\.1\.0; .*torch 2\.13\.0.*",
        r" +block_out_channels: +32, 64, 96, 128",
        r"7 engines, 0\.0 MB",
        r" +vae_encoder: vae_encoder\.onnx \(0\.0 MB\), differs from PyTorch by 1\.5e-06",
        r" +in +image: uint8 \(H=64, W=128, 3\)",
        r" +out +latent: float32 \(1, c=4, h=8, w=16\)",
        r" +denoiser: .*, differs from PyTorch by conditional 2e-06",
        r" +in +samples: float32 \(1, N\)",
        r"not in this bundle: denoiser_cond, face_detector",
    ],
)
def test_inspect_tells_what_the_bundle_is(line: str, inspected: str) -> None:
    assert re.search(f"^{line}$", inspected, re.MULTILINE)


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    """A bundle with plans for two machines, and no graph except the detector's."""
    return make_folder(tmp_path / "compiled", make_compiled(onnx=False))


def test_inspect_tells_for_whom_plans_were_compiled_and_which_graphs_are_not_there(
    compiled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(compiled)]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    made = [line for line in lines if line.startswith(("compiled:", "options"))]
    assert made == [
        "compiled:  for NVIDIA A100 (8.0), TensorRT 11.4.0: 0 plans, 0.0 MB",
        "options {}",
        "compiled:  for NVIDIA H100 (9.0), TensorRT 11.4.0: 2 plans, 0.0 MB",
        "options {}",
    ]
    words = f"denoiser: denoiser.onnx (not kept), denoiser.weights (not kept), {DENOISER_PLAN} (0.0 MB), differs from"
    assert any(line.startswith(words) for line in lines)


def test_inspect_verifies_the_plans_of_all_machines(compiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(compiled), "--verify"]) == 0
    assert capsys.readouterr().out.endswith("verified: all 3 files have their sha256\n")
    (compiled / DENOISER_PLAN).write_bytes(b"another plaN")
    assert main(["inspect", str(compiled), "--verify"]) == 1
    assert f"{DENOISER_PLAN} has the sha256" in capsys.readouterr().err


def test_inspect_puts_reference_tensors_on_one_line(inspected: str) -> None:
    lines = [line.split(None, 1)[1] for line in inspected.splitlines() if "reference_key" in line]
    assert lines == ["reference_key/*, reference_value/*: 32 x float32 (B=8, S=2 to 128, E=4 to 16)"] * 2


def test_inspect_lets_no_control_character_of_the_manifest_through(inspected: str) -> None:
    assert r"evil \x1b[2J" in inspected
    assert "\x1b" not in inspected


def test_inspect_prints_the_manifest_as_json(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((bundle / "manifest.json").read_text())


def test_inspect_reads_files_only_to_verify_them(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(bundle), "--verify"]) == 0
    assert capsys.readouterr().out.endswith("verified: all 7 files have their sha256\n")
    content = (bundle / "denoiser.onnx").read_bytes()
    (bundle / "denoiser.onnx").write_bytes(content.replace(b"Identity", b"identity"))
    assert main(["inspect", str(bundle)]) == 0
    assert main(["inspect", str(bundle), "--verify"]) == 1
    assert "denoiser.onnx has the sha256" in capsys.readouterr().err


def test_inspect_verifies_graphs(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = (bundle / "denoiser.onnx").read_bytes().replace(b"Identity", b"SomeLoop")
    (bundle / "denoiser.onnx").write_bytes(content)
    edit(bundle, lambda data: data["files"]["denoiser.onnx"].update(sha256=hashlib.sha256(content).hexdigest()))
    assert main(["inspect", str(bundle)]) == 0
    assert main(["inspect", str(bundle), "--verify"]) == 1
    assert "denoiser.onnx is not a graph of an engine: " in capsys.readouterr().err


def test_inspect_of_a_folder_without_bundle_says_how_to_build_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert "python -m export.build" in printed


def run_inspect(bundle: Path, output: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vexpress_rt", "inspect", str(bundle)]
    return subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.PIPE, text=True)


def test_reader_that_went_away_is_no_error(bundle: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        finished = run_inspect(bundle, writing)
    finally:
        os.close(writing)
    assert (finished.returncode, finished.stderr) == (128 + signal.SIGPIPE, "")


def test_output_that_cannot_be_written_is_an_error(bundle: Path) -> None:
    with open("/dev/full", "w") as full:
        finished = run_inspect(bundle, full.fileno())
    assert finished.returncode == 1
    assert re.fullmatch(r"error: cannot print: .*No space left.*\n", finished.stderr)
