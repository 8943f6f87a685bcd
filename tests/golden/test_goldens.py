"""Every stage and both whole pipelines with exported engines, compared with values of the public implementation.

Engines run in ONNX Runtime and in OpenVINO, on the CPU in float32.

Tolerances are those of docs/model/goldens.md: 5e-5 of the largest value for stages and 1e-4 for latents; at least
99.9 % of the frames' bytes are equal, and the others differ by 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import GoldenSet
from vexpress_rt.backends.base import Engine
from vexpress_rt.backends.onnxruntime import engine as onnxruntime
from vexpress_rt.backends.openvino import engine as openvino
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import EngineSpec
from vexpress_rt.config import GenerationConfig
from vexpress_rt.diffusion.context_windows import plan_windows
from vexpress_rt.diffusion.denoiser import Denoiser
from vexpress_rt.diffusion.guidance import Guidance
from vexpress_rt.diffusion.noise_schedule import alphas_cumprod
from vexpress_rt.diffusion.samplers import ddim
from vexpress_rt.face.keypoint_map import draw_keypoint_map
from vexpress_rt.pipeline.generator import Generator
from vexpress_rt.stages.audio_features import feature_windows, normalize

STAGE, LATENT = 5e-5, 1e-4
LOADERS: dict[str, Callable[[Path, EngineSpec], Engine]] = {"cpu": onnxruntime.load, "openvino": openvino.load}


class Engines:
    """Engines of a golden set's bundle, loaded by a provider's library at their first use."""

    def __init__(self, golden: GoldenSet, provider: str) -> None:
        self.bundle = Bundle.open(golden.bundle)
        self.loaded: dict[str, Engine] = {}
        self._load = LOADERS[provider]

    def get(self, name: str) -> Engine:
        if name not in self.loaded:
            self.loaded[name] = self._load(self.bundle.engine_path(name), self.bundle.specs[name])
        return self.loaded[name]

    def run(self, name: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        return self.get(name).run(inputs)


@pytest.fixture(params=LOADERS)
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engines_of() -> Iterator[dict[tuple[str, str], Engines]]:
    loaded: dict[tuple[str, str], Engines] = {}
    yield loaded
    for engines in loaded.values():
        for engine in engines.loaded.values():
            engine.close()


@pytest.fixture
def engines(golden: GoldenSet, provider: str, engines_of: dict[tuple[str, str], Engines]) -> Engines:
    return engines_of.setdefault((golden.name, provider), Engines(golden, provider))


def error(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def sites(engines: Engines) -> list[str]:
    return [site.name for site in engines.bundle.manifest.model.attention_sites()]


def test_the_photo_becomes_the_latent(golden: GoldenSet, engines: Engines) -> None:
    latent = engines.run("vae_encoder", image=golden["image"])["latent"]
    assert error(latent, golden["reference_latent"]) < STAGE


def test_reference_keys_and_values_are_projections_of_the_golden_features(golden: GoldenSet, engines: Engines) -> None:
    """The golden has features; the engine returns them projected by the denoiser's weights and split into heads."""
    from export.checkpoint.reader import Checkpoint

    tensors = Checkpoint(golden.checkpoint).tensors("denoising_unet")
    heads = engines.bundle.manifest.model.attention_heads
    outputs = engines.run("reference_net", latent=golden["reference_latent"])
    assert len(sites(engines)) == 16
    for site in sites(engines):
        feature = golden[f"reference_feature/{site}.transformer_blocks.0"][0]  # (S, C)
        for kind, matrix in (("key", "to_k"), ("value", "to_v")):
            weight = tensors[f"{site}.transformer_blocks.0.attn1_5.{matrix}.weight"].numpy()
            expected = (feature @ weight.T).reshape(len(feature), heads, -1).transpose(1, 0, 2)
            assert error(outputs[f"reference_{kind}/{site}"], expected) < STAGE, (kind, site)


def test_speech_becomes_tokens(golden: GoldenSet, engines: Engines) -> None:
    samples = normalize(golden["waveform"])
    assert error(samples[None], golden["audio_input_values"]) < STAGE
    features = engines.run("audio_encoder", samples=samples[None])["features"]
    assert error(features, golden["audio_last_hidden_state"]) < STAGE
    model, window = engines.bundle.manifest.model, golden.settings["context_frames"]
    frames = golden.settings["frames"]
    rows = feature_windows(features[0], frames, model.audio_rows, 0, frames)
    tokens = engines.run("audio_projection", feature_rows=rows[:window])["audio_tokens"]
    assert error(tokens, golden["audio_tokens"][:window]) < STAGE


def test_keypoints_become_features(golden: GoldenSet, engines: Engines) -> None:
    shape = engines.bundle.manifest.shape
    drawings = np.stack([draw_keypoint_map(points, shape.height, shape.width) for points in golden["keypoints"]])
    np.testing.assert_array_equal(drawings, golden["kps_images"])
    feature = engines.run("pose_guider", drawings=drawings[: shape.frames])["pose_feature"]  # (F, K, h, w)
    assert error(feature, golden["kps_feature"][0].swapaxes(0, 1)[: shape.frames]) < STAGE


def conditions(golden: GoldenSet, engines: Engines) -> dict[str, np.ndarray]:
    """Return the denoiser's inputs for the first window, from the golden's intermediate values."""
    frames = engines.bundle.manifest.shape.frames
    return {
        **engines.run("reference_net", latent=golden["reference_latent"]),
        "audio_tokens": golden["audio_tokens"][:frames],
        "pose_feature": np.ascontiguousarray(golden["kps_feature"][0].swapaxes(0, 1)[:frames]),
        "reference_attention_weight": np.array([golden.settings["reference_attention_weight"]], np.float32),
        "audio_attention_weight": np.array([golden.settings["audio_attention_weight"]], np.float32),
        "latents": np.ascontiguousarray(golden["denoiser/latent"][0].swapaxes(0, 1)),
        "timestep": golden["denoiser/timestep"].astype(np.float32).reshape(1),
    }


def test_one_call_of_the_denoiser_gives_both_predictions(golden: GoldenSet, engines: Engines) -> None:
    outputs = engines.run("denoiser", **conditions(golden, engines))
    assert error(outputs["unconditional"].swapaxes(0, 1)[None], golden["denoiser/uncond"]) < STAGE
    assert error(outputs["conditional"].swapaxes(0, 1)[None], golden["denoiser/cond"]) < STAGE


def test_the_conditional_half_alone_is_the_same_as_in_both(golden: GoldenSet, engines: Engines) -> None:
    outputs = engines.run("denoiser_cond", **conditions(golden, engines))
    assert error(outputs["conditional"].swapaxes(0, 1)[None], golden["denoiser/cond"]) < STAGE


@pytest.mark.parametrize("window_order", ["wavefront", "step_major"])
def test_the_loop_ends_on_the_golden_latents(golden: GoldenSet, engines: Engines, window_order: str) -> None:
    settings, model = golden.settings, engines.bundle.manifest.model
    config = GenerationConfig(**golden.options()).resolve({}, settings["context_frames"])
    static = {k: v for k, v in conditions(golden, engines).items() if k.startswith("reference_key") or "value/" in k}
    windows = plan_windows(settings["frames"], settings["context_frames"], settings["context_overlap"])
    pose = golden["kps_feature"][0].swapaxes(0, 1)
    denoiser = Denoiser(
        engines={"denoiser": engines.get("denoiser")},
        static=static,
        guidance=Guidance.from_settings(config),
        sampler=ddim(settings["steps"], alphas_cumprod(model.train_timesteps, model.beta_start, model.beta_end)),
        windows=windows,
        length=settings["frames"],
        noise=lambda frame: golden["noise"][0, :, frame],
        conditions=lambda w: {
            "audio_tokens": golden["audio_tokens"][w.start : w.stop],
            "pose_feature": np.ascontiguousarray(pose[w.start : w.stop]),
        },
    )
    assert list(denoiser.sampler.timesteps) == golden["timesteps"].tolist()
    latents = np.concatenate([latent for _, latent in denoiser.run(window_order)])
    assert error(latents.swapaxes(0, 1)[None], golden["latents_after_step"][-1]) < LATENT


def test_latents_become_frames(golden: GoldenSet, engines: Engines) -> None:
    latents = golden["latents_after_step"][-1][0].swapaxes(0, 1)
    frames = np.stack([engines.run("vae_decoder", latent=latent[None])["frame"] for latent in latents])
    difference = np.abs(frames.astype(int) - np.trunc(golden["frames_float"] * 255).astype(int))
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.999


@pytest.mark.parametrize("given_noise", [True, False], ids=["golden noise", "upstream noise"])
def test_photo_and_speech_become_the_golden_video(golden: GoldenSet, provider: str, given_noise: bool) -> None:
    with Generator(golden.bundle, provider=provider) as generator:
        video = generator.generate(
            generator.prepare(golden["image"]),
            (golden["waveform"], 16000),
            keypoints=golden["keypoints"],
            retarget="no_retarget",
            config=GenerationConfig(**golden.options()),
            noise=golden["noise"] if given_noise else "upstream",
        )
    assert video.frames is not None
    assert video.frames.shape == golden["frames_median_uint8"].shape
    difference = np.abs(video.frames.astype(int) - golden["frames_median_uint8"].astype(int))
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.999


def test_the_median_filter_can_be_left_out(tiny_wide: GoldenSet) -> None:
    config = replace(GenerationConfig(**tiny_wide.options()), median_filter=False)
    with Generator(tiny_wide.bundle) as generator:
        video = generator.generate(
            tiny_wide["image"],
            (tiny_wide["waveform"], 16000),
            keypoints=tiny_wide["keypoints"],
            config=config,
            noise="upstream",
        )
    assert video.frames is not None
    difference = np.abs(video.frames.astype(int) - np.trunc(tiny_wide["frames_float"] * 255).astype(int))
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.999
