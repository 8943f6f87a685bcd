"""The weights of a checkpoint can be recovered from a bundle's graphs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from export.errors import CheckpointError
from export.networks.registry import NETWORKS
from export.onnx.engine_modules import ENGINE_NETWORKS, make_engine
from export.onnx.graph import WeightsFile
from export.onnx.to_onnx import to_onnx
from export.pocket.pretraining import mean_weights
from export.pocket.recover import STAGES, bundle_weights, recover
from tests.support.micro import MICRO, MICRO_SHAPE
from tests.support.paths import POCKET
from vexpress_rt.bundle.engine_spec import engine_specs

# In ReferenceNet's graph; or of latents that are the same for all inputs, so that graphs hold what comes of them.
ELSEWHERE = r"attn1_5\.to_[kv]\.weight$|^audio_projection\.(latents|layers\.0\.0\.(to_q|norm2)\..*)$"
ENGINES = ("audio_projection", "pose_guider", "denoiser", "vae_decoder")


@pytest.mark.parametrize("compact", [True, False])
def test_weights_come_back_under_their_names(compact: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    specs = engine_specs(MICRO.model_config(), MICRO_SHAPE)
    expected: dict[str, torch.Tensor] = {}
    shared = WeightsFile(tmp_path / "shared.weights")
    for name in ENGINES:
        (network,) = ENGINE_NETWORKS[name]
        module = NETWORKS[network](MICRO).half().float()  # as compact bundles have them
        engine = make_engine(specs[name], {network: module}, torch.float32)
        to_onnx(engine, tmp_path / f"{name}.onnx", shared, compact=compact)
        expected |= {key: value for key, value in engine.state_dict().items() if not key.endswith(".pe")}
    found = bundle_weights(tmp_path)
    lacking = {key for key in expected if key not in found}
    assert all(re.search(ELSEWHERE, key) for key in lacking), lacking
    for key in expected.keys() - lacking:
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=0, msg=key)


def test_the_bundle_that_ships_becomes_states_that_count_as_finished(tmp_path: Path) -> None:
    recover(POCKET, tmp_path / "run")
    for name, network in STAGES.items():
        network().load_state_dict(mean_weights(tmp_path / "run" / f"{name}.pt"))
    with pytest.raises(CheckpointError, match="exists: recover into another folder"):
        recover(POCKET, tmp_path / "run")


def test_a_damaged_bundle_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    shutil.copytree(POCKET, tmp_path / "bundle")
    (tmp_path / "bundle" / "vae_decoder.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"not a complete bundle .* tensors are missing"):
        recover(tmp_path / "bundle", tmp_path / "run")
    (tmp_path / "bundle" / "pose_guider.onnx").write_bytes(b"\x08")
    with pytest.raises(CheckpointError, match=r"pose_guider.onnx cannot be read"):
        recover(tmp_path / "bundle", tmp_path / "run")
    assert not (tmp_path / "run").exists()
