"""The denoiser in upstream's order gives the predictions of the denoiser engine."""

from __future__ import annotations

import torch

from benchmarks.cpu.upstream import UpstreamDenoiser
from export.build.parity import random_inputs
from export.networks.denoising_unet import reference_keys_values
from export.networks.registry import NETWORKS
from export.onnx.engine_modules import make_engine
from tests.support.micro import MICRO, MICRO_SHAPE
from vexpress_rt.bundle.engine_spec import engine_specs


def test_upstreams_way_gives_what_the_engine_gives() -> None:
    torch.manual_seed(0)
    unet = NETWORKS["denoising_unet"](MICRO).eval()
    spec = engine_specs(MICRO.model_config(), MICRO_SHAPE)["denoiser"]
    given = {t.name: torch.from_numpy(x) for t, x in zip(spec.inputs, random_inputs(spec), strict=True)}
    keys = {name.partition("/")[2]: x for name, x in given.items() if name.startswith("reference_key/")}
    features = {name: torch.randn(1, k.shape[1], k.shape[0] * k.shape[2]) for name, k in keys.items()}
    common = list(given.values())[:6]
    with torch.inference_mode():
        pairs = reference_keys_values(unet, features)
        expected = make_engine(spec, {"denoising_unet": unet}, torch.float32)(
            *common, *(k for k, _ in pairs.values()), *(v for _, v in pairs.values())
        )
        found = UpstreamDenoiser(unet)(*common, features)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * float(other.abs().max()))
