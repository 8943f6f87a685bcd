"""`python -m export.build --target openvino`: graphs of ONNX's own operators, for OpenVINO and ONNX Runtime alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.build.__main__ import main
from export.build.parity import random_inputs
from export.networks.layers import timestep_sinusoid
from tests.conftest import GoldenSet, build_cached
from tests.support.micro import MICRO_SHAPE
from vexpress_rt.backends.onnxruntime.engine import load
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import ENGINE_NAMES, TIMESTEP, TIMESTEP_SINES
from vexpress_rt.bundle.timestep_sines import timestep_sines
from vexpress_rt.config import GenerationConfig
from vexpress_rt.pipeline.generator import Generator

DENOISERS = ("denoiser", "denoiser_cond")


@pytest.fixture(scope="module")
def plain(tiny_square: GoldenSet) -> Bundle:
    """The preset `tiny` for OpenVINO, reused from an earlier run if nothing changed."""
    return Bundle.open(build_cached(tiny_square, "openvino", "fp32", "openvino"))


def test_every_engine_consists_of_operators_of_the_onnx_domain(plain: Bundle) -> None:
    for name in ENGINE_NAMES:
        model = onnx.load(plain.engine_path(name), load_external_data=False)
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
        assert {node.domain for node in model.graph.node} == {""}
    assert plain.manifest.target == "openvino"


def test_the_denoisers_take_sines_and_compute_none(plain: Bundle) -> None:
    for name in ENGINE_NAMES:
        graph = onnx.load(plain.engine_path(name), load_external_data=False).graph
        assert (TIMESTEP_SINES in {value.name for value in graph.input}) == (name in DENOISERS)
        assert TIMESTEP not in {value.name for value in graph.input}
        assert not {"Sin", "Cos"} & {node.op_type for node in graph.node}


def test_every_weight_is_stored_once_as_the_checkpoint_has_it(plain: Bundle, tiny_square: GoldenSet) -> None:
    """The forms for ONNX Runtime store 16 transformed kernels for 9, where they pay off."""
    from export.checkpoint.reader import Checkpoint

    tensors = Checkpoint(tiny_square.checkpoint).tensors("denoising_unet")
    stored = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    found = sum((plain.folder / file).stat().st_size for file in ("denoiser.weights",))
    assert 0.9 * stored < found < 1.1 * stored


@pytest.mark.parametrize("timestep", [0, 1, 499, 998, 999])
def test_the_runtime_computes_the_sines_that_the_network_does(timestep: int) -> None:
    expected = timestep_sinusoid(torch.tensor([timestep], dtype=torch.float32), 320).numpy()
    np.testing.assert_allclose(timestep_sines(timestep, 320), expected, atol=1e-4)  # angles of 24 bits, up to 999


def test_one_call_gives_the_predictions_of_the_graph_with_the_timestep(plain: Bundle, tiny_square: GoldenSet) -> None:
    usual = Bundle.open(tiny_square.bundle)
    spec = usual.specs["denoiser"]
    inputs = {tensor.name: value for tensor, value in zip(spec.inputs, random_inputs(spec), strict=True)}
    (width,) = (tensor.shape[-1] for tensor in plain.specs["denoiser"].inputs if tensor.name == TIMESTEP_SINES)
    assert width is not None
    cut = {name: value for name, value in inputs.items() if name != TIMESTEP}
    cut[TIMESTEP_SINES] = timestep_sines(float(inputs[TIMESTEP][0]), width)
    with load(usual.engine_path("denoiser"), spec) as engine:
        expected = engine.run(inputs)
    with load(plain.engine_path("denoiser"), plain.specs["denoiser"]) as engine:
        found = engine.run(cut)
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() < 5e-5 * np.abs(value).max()


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_both_libraries_make_the_golden_video_of_one_bundle(
    plain: Bundle, tiny_square: GoldenSet, provider: str
) -> None:
    golden = tiny_square
    with Generator(plain.folder, provider=provider) as generator:
        video = generator.generate(
            golden["image"],
            (golden["waveform"], 16000),
            keypoints=golden["keypoints"],
            retarget="no_retarget",
            config=GenerationConfig(**golden.options()),
            noise=golden["noise"],
        )
    assert video.frames is not None
    difference = np.abs(video.frames.astype(int) - golden["frames_median_uint8"].astype(int))
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.999


def test_the_command_builds_for_openvino_without_importing_it(micro_checkpoint: Path, tmp_path: Path) -> None:
    """So that nothing of its telemetry can run."""
    sizes = ("--height", MICRO_SHAPE.height, "--width", MICRO_SHAPE.width, "--frames", MICRO_SHAPE.frames)
    given = ["--weights", str(micro_checkpoint), "--output", str(tmp_path / "bundle"), *map(str, sizes)]
    code = (
        "import sys; from export.build.__main__ import main; code = main(sys.argv[1:]); "
        "sys.exit(code or 'openvino' in sys.modules)"
    )
    command = [sys.executable, "-c", code, *given, "--target", "openvino", "--engine", "audio_projection"]
    subprocess.run(command, check=True, capture_output=True)
    assert Bundle.open(tmp_path / "bundle").manifest.target == "openvino"


def test_no_onnx_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--weights", str(tmp_path), "--target", "openvino", "--no-onnx"]) == 1
    assert "--no-onnx is given with the target openvino, which runs ONNX files as they are" in capsys.readouterr().err
