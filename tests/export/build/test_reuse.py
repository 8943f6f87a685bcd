"""Builds that are refused before any work, and the reuse of an existing bundle's engines."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from export.build.__main__ import main
from export.build.assembly import Assembly
from export.build.builder import build
from export.build.options import BuildOptions
from export.checkpoint.layout import AUDIO_CONFIG, DETECTOR, OWN_CONFIG, UNET_CONFIG, VAE_CONFIG
from export.checkpoint.reader import Checkpoint
from export.errors import ExportError
from tests.support.builds import change, flip, options
from tests.support.folders import content
from tests.support.paths import ROOT
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import ENGINE_NAMES, FACE_DETECTOR, VideoShape
from vexpress_rt.bundle.manifest import read_manifest
from vexpress_rt.errors import ConfigError

ALL = {*ENGINE_NAMES, FACE_DETECTOR}
DENOISERS = {"denoiser", "denoiser_cond"}


@pytest.fixture
def weights(micro_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint directory to be changed at will."""
    return Path(shutil.copytree(micro_checkpoint, tmp_path / "weights"))


@pytest.fixture
def bundle(micro_bundle: Path, tmp_path: Path) -> Path:
    """A bundle of all engines of the micro model, to be changed at will."""
    return Path(shutil.copytree(micro_bundle, tmp_path / "bundle"))


def plan(weights: Path, bundle: Path, chosen: BuildOptions) -> tuple[list[str], set[str]]:
    """Return the engines of the result, and those that the build would export."""
    previous = Bundle(bundle, read_manifest(bundle))
    return Assembly(Checkpoint(weights), chosen, bundle, previous, print).plan()


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("v-express/reference_net.bin", {"reference_net"}),
        ("v-express/denoising_unet.bin", {"reference_net", *DENOISERS}),
        ("v-express/motion_module.bin", {"reference_net", *DENOISERS}),
        ("v-express/v_kps_guider.bin", {"pose_guider"}),
        ("v-express/audio_projection.bin", {"audio_projection"}),
        ("sd-vae-ft-mse/diffusion_pytorch_model.safetensors", {"vae_encoder", "vae_decoder"}),
        ("wav2vec2-base-960h/pytorch_model.bin", {"audio_encoder"}),
        (DETECTOR, {FACE_DETECTOR}),
        *((config, set(ENGINE_NAMES)) for config in (UNET_CONFIG, VAE_CONFIG, AUDIO_CONFIG, OWN_CONFIG)),
    ],
)
def test_other_weights_make_exactly_the_engines_anew_that_depend_on_them(
    file: str, stale: set[str], weights: Path, bundle: Path
) -> None:
    assert plan(weights, bundle, options()) == ([*ENGINE_NAMES, FACE_DETECTOR], set())
    change(weights / file)
    assert plan(weights, bundle, options()) == ([*ENGINE_NAMES, FACE_DETECTOR], stale)


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("pose_guider.onnx", {"pose_guider"}),
        ("face_detector.onnx", {FACE_DETECTOR}),
        ("denoiser.onnx", DENOISERS),
        ("denoiser_cond.onnx", DENOISERS),
        ("denoiser.weights", DENOISERS),
    ],
)
@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: os.truncate(path, 100)])
def test_a_damaged_file_makes_the_engines_anew_that_need_it(
    file: str, stale: set[str], damage: Callable[[Path], None], weights: Path, bundle: Path
) -> None:
    damage(bundle / file)
    assert plan(weights, bundle, options()) == ([*ENGINE_NAMES, FACE_DETECTOR], stale)


@pytest.mark.parametrize("chosen", [options(frames=2), options(precision="fp16"), BuildOptions(VideoShape(16, 16, 3))])
def test_other_options_make_all_engines_anew(chosen: BuildOptions, weights: Path, bundle: Path) -> None:
    assert plan(weights, bundle, chosen)[1] == set(ENGINE_NAMES)


def test_one_engine_alone_keeps_the_others(weights: Path, bundle: Path) -> None:
    change(weights / "v-express/v_kps_guider.bin")
    names, stale = plan(weights, bundle, options("pose_guider"))
    assert (set(names), stale) == (ALL, {"pose_guider"})


def test_one_engine_alone_comes_with_those_that_share_its_weights(weights: Path, bundle: Path) -> None:
    change(weights / "v-express/denoising_unet.bin")
    names, stale = plan(weights, bundle, options("denoiser_cond", "reference_net"))
    assert (set(names), stale) == (ALL, {"reference_net", *DENOISERS})
    nothing_yet = Assembly(Checkpoint(weights), options("denoiser"), bundle, None, print)
    assert nothing_yet.plan() == (["denoiser", "denoiser_cond"], DENOISERS)


def test_one_engine_alone_is_refused_where_the_others_would_not_fit(weights: Path, bundle: Path) -> None:
    before = content(bundle)
    with pytest.raises(ExportError, match=r"vae_encoder, reference_net, .* from other weights or options: build all"):
        build(weights, bundle, options("pose_guider", frames=2))
    change(weights / "v-express/audio_projection.bin")
    with pytest.raises(ExportError, match=r"^audio_projection of the existing bundle"):
        build(weights, bundle, options("pose_guider"))
    assert content(bundle) == before


def test_an_engine_is_not_added_to_a_bundle_that_cannot_be_read(weights: Path, bundle: Path) -> None:
    (bundle / "manifest.json").write_text("{}")
    before = content(bundle)
    with pytest.raises(
        ExportError, match=r"no engine can be added .* malformed.*: build all engines, without --engine"
    ):
        build(weights, bundle, options("pose_guider"))
    assert content(bundle) == before


def test_a_bundle_that_cannot_be_read_is_replaced_as_a_whole(weights: Path, bundle: Path) -> None:
    (bundle / "manifest.json").write_text("{}")
    lines: list[str] = []
    with pytest.raises(ExportError, match="seen"):
        build(weights, bundle, options(), lambda line: (lines.append(line), (_ for _ in ()).throw(ExportError("seen"))))
    assert lines == ["[1/9] vae_encoder: exporting"]


def put(name: str, text: str = "{}") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    return write


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder.write_text("a file"), "exists and is not a bundle of engines: choose another --output"),
        (put("thesis.tex"), "exists and is not a bundle of engines: choose another --output"),
        (
            lambda folder: [put("manifest.json")(folder), put("index.html")(folder)],
            "holds index.html, which is not part",
        ),
        (lambda folder: [put("manifest.json")(folder), put("old.onnx/x")(folder)], "holds old.onnx, which is not part"),
    ],
)
def test_a_folder_that_is_no_bundle_is_never_replaced(
    make: Callable[[Path], None], message: str, weights: Path, tmp_path: Path
) -> None:
    make(tmp_path / "output")
    before = content(tmp_path)
    with pytest.raises(ConfigError, match=message):
        build(weights, tmp_path / "output", options())
    assert content(tmp_path) == before


def test_a_bundle_with_a_file_of_somebody_else_is_never_replaced(weights: Path, bundle: Path) -> None:
    (bundle / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds notes\.txt, which is not part of a bundle"):
        build(weights, bundle, options(frames=2))
    assert (bundle / "notes.txt").read_text() == "mine"


def test_what_was_written_about_a_bundle_outlives_a_rebuild(weights: Path, bundle: Path) -> None:
    (bundle / "README.md").write_text("figures")
    build(weights, bundle, options(frames=2))
    assert (bundle / "README.md").read_text() == "figures"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            ["--height", "12"],
            r"height is 12; expected a multiple of 8 .*, at most 65536: try 16, or pass --allow-odd-sizes",
        ),
        (["--height", "0"], r"height is 0; expected a multiple of 8 .*: try 8"),
        (["--width", "-64"], r"width is -64; expected a multiple of 8 .*: try 8"),
        (["--width", "65544"], r"width is 65544; expected .* at most 65536: try 65536"),
        (["--width", "18", "--allow-odd-sizes"], r"width is 18; expected a multiple of 4 \(the VAE's cell\)"),
        (["--width", "9" * 400], r"width is 9+; expected .* try 65536"),
        (["--frames", "0"], "frames is 0; expected 1 to 6, the length of the motion modules' table of positions"),
        (["--frames", "7"], "frames is 7; expected 1 to 6"),
        (["--engine", "unet"], "engine is 'unet'; expected one of vae_encoder, .*, face_detector"),
        (["--weights", "nowhere"], "nowhere is not a folder: .*--weights"),
        (["--output", "weights/v-express/v_kps_guider.bin/x"], "cannot be written: .*: check folder, permissions"),
        (["--workspace", "nan"], "--workspace is nan; expected GiB"),
        (["--workspace", "inf"], "--workspace is inf; expected GiB"),
        (["--workspace", "1e300"], "--workspace is 1e[+]300; expected GiB|workspace_bytes is .* expected 1048576"),
        (["--workspace", "1e12"], "workspace_bytes is .*; expected 1048576 .* to 1125899906842624"),
        (["--target", "tensorrt-rtx", "--timing-cache", "out/bundle/x"], "inside .*: choose another --timing-cache"),
    ],
)
def test_the_command_refuses_with_the_reason_and_leaves_nothing(
    given: list[str], reason: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = content(tmp_path)
    sizes = ["--height", "16", "--width", "24", "--frames", "3"]
    right = ["--weights", "weights", *sizes, "--target", "onnxruntime", "--output", "out/bundle"]
    assert main([*right, *given]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert re.search(reason, captured.err)
    assert content(tmp_path) == before


def test_an_interrupt_while_torch_is_imported_ends_in_a_line(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    given = ["--weights", str(weights), "--output", str(tmp_path / "out"), "--target", "onnxruntime"]
    command = [sys.executable, "-m", "export.build", *given]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
    assert not (tmp_path / "out").exists()


def test_the_folder_is_named_after_the_options_unless_it_is_given() -> None:
    assert BuildOptions().default_output() == Path("engines/512x512x24-fp32-onnxruntime")
    assert BuildOptions(VideoShape(64, 96, 8), "fp16").default_output() == Path("engines/96x64x8-fp16-onnxruntime")


def test_graphs_are_not_left_out_for_onnx_runtime(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        ConfigError, match=r"--no-onnx is given with the target onnxruntime, .*: leave it out, or choos"
    ):
        BuildOptions(onnx=False)
    arguments = ["--weights", str(tmp_path), "--target", "onnxruntime", "--no-onnx"]
    assert main(arguments) == 1
    assert "error: --no-onnx is given with the target onnxruntime" in capsys.readouterr().err
