"""`python -m export.build`: a checkpoint directory becomes a complete bundle, or nothing is written."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from export.build import assembly
from export.build.__main__ import main
from export.build.builder import build
from export.build.parity import run_onnx
from export.checkpoint.layout import DETECTOR
from export.checkpoint.reader import Checkpoint
from export.errors import CheckpointError, ExportError
from export.onnx import lowering_framework, to_onnx
from export.onnx.graph import Graph
from tests.support.builds import Log, flip, options
from tests.support.folders import content
from tests.support.micro import MICRO_MODEL, MICRO_SHAPE
from tests.support.paths import ROOT
from vexpress_rt import __version__
from vexpress_rt.bundle.bundle import Bundle, sha256_file
from vexpress_rt.bundle.engine_spec import ENGINE_NAMES, FACE_DETECTOR
from vexpress_rt.config import GenerationConfig
from vexpress_rt.errors import OutputError
from vexpress_rt.pipeline.generator import Generator

SMALL = ("audio_projection", "pose_guider")  # engines that are made in no time


@pytest.fixture
def bundle(micro_bundle: Path, tmp_path: Path) -> Path:
    """A bundle of all engines of the micro model, to be changed at will."""
    return Path(shutil.copytree(micro_bundle, tmp_path / "out" / "bundle"))


@pytest.fixture
def small(micro_checkpoint: Path, tmp_path: Path) -> Path:
    """A bundle of the small engines alone."""
    build(micro_checkpoint, tmp_path / "out" / "small", options(*SMALL))
    return tmp_path / "out" / "small"


def test_commands_write_weights_and_build_engines_with_progress_and_a_parity_table(tmp_path: Path) -> None:
    def run(*arguments: str) -> list[str]:
        command = [sys.executable, "-W", "error", "-m", *arguments]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()

    weights, output = str(tmp_path / "weights"), str(tmp_path / "engines" / "tiny")
    written = run("export.checkpoint", "--preset", "tiny", "--seed", "3", "--output", weights)
    assert [line.split()[0] for line in written] == [
        "reference_net", "denoising_unet", "denoising_unet", "v_kps_guider", "audio_projection", "vae", "audio_encoder"
    ]  # fmt: skip
    sizes = ("--height", "64", "--width", "128", "--frames", "2", "--precision", "fp16", "--target", "onnxruntime")
    lines = run(
        "export.build", "--weights", weights, "--output", output, *sizes, "--engine", "vae_encoder", "pose_guider"
    )
    assert lines[0] == "[1/2] vae_encoder: exporting"
    assert lines[1].startswith("[1/2] vae_encoder: 1.2 MB in ")
    table = [line.split() for line in lines if line.endswith("64x128x3")]
    assert [(row[0], row[-1]) for row in table] == [("vae_encoder", "64x128x3"), ("pose_guider", "2x64x128x3")]
    assert all(0 < float(row[1]) < float(row[2]) == 2e-2 for row in table)
    assert lines[-1].startswith(f"{output} is complete: ")


def test_a_bundle_in_half_precision_has_all_engines_close_to_their_modules(tiny_half: Path) -> None:
    half = Bundle.open(tiny_half)
    assert half.manifest.precision == "fp16"
    assert list(half.manifest.engines) == [*ENGINE_NAMES, FACE_DETECTOR]
    assert half.specs["denoiser"].inputs[4].dtype == "float16"
    assert set(half.manifest.parity) == set(ENGINE_NAMES)
    assert all(0 <= error < 1e-2 for error in half.manifest.parity.values())  # type: ignore[operator]


def test_a_guider_of_depth_is_an_engine_of_its_own(depth_guider: Path, depth_checkpoint: Path) -> None:
    bundle = Bundle.open(depth_guider)
    assert bundle.manifest.model == replace(MICRO_MODEL, guiders=("keypoints", "depth"))
    assert 0 < bundle.manifest.parity["depth_guider"] < 5e-5  # type: ignore[operator]
    depth = np.random.default_rng(0).random((MICRO_SHAPE.frames, MICRO_SHAPE.height, MICRO_SHAPE.width), np.float32)
    network = Checkpoint(depth_checkpoint).network("depth_guider")
    expected = network(torch.from_numpy(depth)[:, None].repeat(1, 3, 1, 1)).detach().numpy()
    (found,) = run_onnx(depth_guider / "depth_guider.onnx", bundle.specs["depth_guider"], [depth])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_an_engine_of_a_guider_that_the_checkpoint_lacks_is_refused(micro_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"no network for depth_guider; it has guiders for keypoints: leave out --eng"
    ):
        build(micro_checkpoint, tmp_path / "bundle", options("depth_guider"))
    assert not (tmp_path / "bundle").exists()


def test_the_manifest_says_what_was_built_from_what(micro_bundle: Path, micro_checkpoint: Path) -> None:
    manifest = Bundle.open(micro_bundle).manifest
    assert manifest.model == MICRO_MODEL
    assert (manifest.shape, manifest.precision, manifest.target) == (MICRO_SHAPE, "fp32", "onnxruntime")
    assert list(manifest.engines) == [*ENGINE_NAMES, FACE_DETECTOR]
    assert {"python", "torch", "onnx", "onnxruntime", "transformers", "numpy"} == set(manifest.versions)
    files = {path.name for path in micro_bundle.iterdir()} - {"manifest.json"}
    assert {name: entry.sha256 for name, entry in manifest.files.items()} == {
        name: sha256_file(micro_bundle / name) for name in files
    }
    assert manifest.engines["denoiser"].data == manifest.engines["denoiser_cond"].data == ("denoiser.weights",)
    assert (micro_bundle / "face_detector.onnx").read_bytes() == (micro_checkpoint / DETECTOR).read_bytes()


def test_a_model_of_quite_other_sizes_makes_a_video(micro_bundle: Path) -> None:
    rng = np.random.default_rng(0)
    with Generator(micro_bundle, provider="cpu") as generator:
        video = generator.generate(
            rng.integers(0, 256, (16, 24, 3), dtype=np.uint8),
            (rng.standard_normal(1600).astype(np.float32) / 10, 8000),
            keypoints=np.full((5, 3, 2), 8, np.float32) + np.float32([[0, 0], [4, 0], [2, 3]]),
            config=GenerationConfig(fps=25, steps=2, overlap=1),
        )
    assert video.frames is not None
    assert video.frames.shape == (5, 16, 24, 3)
    assert video.frames.std() > 1


def test_a_second_run_finds_everything_up_to_date(micro_checkpoint: Path, small: Path) -> None:
    before = {path: path.stat() for path in small.iterdir()}
    build(micro_checkpoint, small, options(*SMALL), log := Log())
    assert log == [f"{small} is up to date: all 2 engines are unchanged"]
    assert {path: path.stat() for path in small.iterdir()} == before


def test_a_bundle_of_another_version_keeps_its_engines_and_gets_a_new_manifest(
    micro_checkpoint: Path, small: Path
) -> None:
    manifest = small / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"package": "{__version__}"', '"package": "0.0.0"'))
    assert Bundle.open(small).manifest.package == "0.0.0"
    build(micro_checkpoint, small, options(*SMALL), log := Log())
    assert (log.made, log.kept) == ([], list(SMALL))
    assert Bundle.open(small).manifest.package == __version__


@pytest.mark.parametrize("change", [{"frames": 2}, {"precision": "fp16"}])
def test_other_options_make_the_engines_anew(micro_checkpoint: Path, small: Path, change: dict[str, Any]) -> None:
    build(micro_checkpoint, small, options(*SMALL, **change), log := Log())
    assert log.made == list(SMALL)
    manifest = Bundle.open(small).manifest
    assert (manifest.shape.frames, manifest.precision) == (change.get("frames", 3), change.get("precision", "fp32"))


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: os.truncate(path, 100)])
def test_a_damaged_engine_is_made_anew_and_the_others_are_reused(
    micro_checkpoint: Path, bundle: Path, damage: Callable[[Path], None]
) -> None:
    good = content(bundle)
    damage(bundle / "pose_guider.onnx")
    places = {path.name: path.stat().st_ino for path in bundle.iterdir()}
    build(micro_checkpoint, bundle, options(), log := Log())
    assert (log.made, len(log.kept)) == (["pose_guider"], 8)
    assert content(bundle) == good | {"manifest.json": (bundle / "manifest.json").read_bytes()}
    assert (bundle / "denoiser.weights").stat().st_ino == places["denoiser.weights"]


def test_engines_that_share_weights_are_made_together_and_never_write_into_the_old_file(
    micro_checkpoint: Path, bundle: Path
) -> None:
    flip(bundle / "denoiser_cond.onnx")
    before = content(bundle)
    os.link(bundle / "denoiser.weights", bundle.parent / "another bundle's")

    def fail() -> None:
        raise RuntimeError("stop")

    log = Log(at="denoiser_cond: exporting", then=fail)
    with pytest.raises(RuntimeError, match="stop"):
        build(micro_checkpoint, bundle, options(), log)
    assert log.made == ["denoiser", "denoiser_cond"]
    assert content(bundle) == before
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["another bundle's", "bundle"]
    assert (bundle.parent / "another bundle's").read_bytes() == before["denoiser.weights"]


def test_costly_engines_are_checked_at_a_smaller_size_that_leaves_no_trace(
    micro_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_onnx, "EXTERNAL_ABOVE", 30_000)  # less than the decoder's weights, more than the others'
    engines = ("audio_encoder", "pose_guider", "vae_decoder")
    for name, budget in (("whole", 1e12), ("smaller", 0)):
        monkeypatch.setattr(assembly, "CHECK_BUDGET", budget)
        build(micro_checkpoint, tmp_path / name, options(*engines), log := Log())
    checked = [" ".join(line.split()[5:]) for line in log[-2].splitlines() if line.endswith("(smaller)")]
    assert checked == ["drawings 2x16x8x3 (smaller)", "latent 1x3x4x2 (smaller)"]
    whole, smaller = content(tmp_path / "whole"), content(tmp_path / "smaller")
    assert whole.pop("manifest.json") != smaller.pop("manifest.json")
    assert smaller == whole
    assert set(whole) == {"audio_encoder.onnx", "pose_guider.onnx", "vae_decoder.onnx", "vae_decoder.weights"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_a_build_leaves_the_old_bundle(
    micro_checkpoint: Path, small: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before = content(small.parent)
    write = Graph.write

    def write_and_interrupt(*arguments: Any, **options: Any) -> None:
        write(*arguments, **options)
        signal.raise_signal(number)

    monkeypatch.setattr(Graph, "write", write_and_interrupt)
    sizes = ["--height", "16", "--width", "24", "--frames", "2", "--target", "onnxruntime", "--engine", *SMALL]
    assert main(["--weights", str(micro_checkpoint), "--output", str(small), *sizes]) == 128 + number
    assert capsys.readouterr().err == "interrupted\n"
    assert content(small.parent) == before


def test_an_engine_that_differs_from_its_module_is_named_and_nothing_is_left(
    micro_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = lowering_framework.HANDLERS["layer_norm"]

    def wrong(lo: Any, call: Any) -> list[str]:
        names = handler(lo, call)
        lo.graph.nodes[-1].attribute[1].f = 0.1
        return names

    monkeypatch.setitem(lowering_framework.HANDLERS, "layer_norm", wrong)
    with pytest.raises(
        ExportError, match=r"engine audio_projection differs .* in audio_tokens; expected at most 5e-05"
    ):
        build(micro_checkpoint, tmp_path / "new" / "bundle", options(*SMALL))
    assert content(tmp_path) == {}


def test_a_note_in_a_bundle_stays_there(micro_checkpoint: Path, small: Path) -> None:
    (small / "README.md").write_text("what this is")
    build(micro_checkpoint, small, options(*SMALL, frames=2))
    assert (small / "README.md").read_text() == "what this is"
    assert Bundle.open(small).manifest.shape.frames == 2


def test_a_full_disk_is_reported_and_nothing_is_left(
    micro_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> None:
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"bundle cannot be written: .*No space left.*: check folder"):
        build(micro_checkpoint, tmp_path / "bundle", options(*SMALL))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_without_face_detector_gives_a_bundle_without(
    micro_checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    weights = Path(shutil.copytree(micro_checkpoint, tmp_path / "weights"))
    (weights / DETECTOR).unlink()
    build(weights, bundle, options(), log := Log())
    assert (log.made, log.kept) == ([], list(ENGINE_NAMES))
    assert not Bundle.open(bundle).has(FACE_DETECTOR)
    assert not (bundle / "face_detector.onnx").exists()
    with pytest.raises(ExportError, match=r"has no face detector: put insightface's det_10g\.onnx there"):
        build(weights, bundle, options(FACE_DETECTOR))
    (weights / DETECTOR).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"det_10g\.onnx has 0 inputs and 0 outputs: fetch it again"):
        build(weights, bundle, options(FACE_DETECTOR))
    shutil.copy(bundle / "pose_guider.onnx", weights / DETECTOR)
    with pytest.raises(ExportError, match=r"det_10g\.onnx has 1 inputs and 1 outputs; expected 1 and 9"):
        build(weights, bundle, options(FACE_DETECTOR))
    detector = onnx.load(micro_checkpoint / DETECTOR)
    detector.graph.node[0].op_type = "Loop"
    (weights / DETECTOR).write_bytes(detector.SerializeToString())
    with pytest.raises(ExportError, match=r"the runtime refuses the graph .*det_10g\.onnx: .* operator 'Loop'"):
        build(weights, bundle, options(FACE_DETECTOR))
