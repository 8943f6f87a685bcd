"""Settings and fixtures that all tests share.

Bundles of synthetic weights are built once and kept in build/test, or in the folder of TEST_CACHE. The builder's
fingerprints decide whether a later run builds them again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings

from tests.support.paths import GOLDEN, ROOT

pytest_plugins = ["tests.support.hardware"]

# No deadline: how long one example takes says more about the machine than about the code. In CI the same examples
# every time.
settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("house")

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.doubles.fakes import FakeBackend
    from vexpress_rt import LiveSession, Portrait
    from vexpress_rt.pipeline.generator import Generator

CACHE = ROOT / os.environ.get("TEST_CACHE", "build/test")


@dataclass(frozen=True)
class GoldenSet:
    """A set of values computed by the public implementation.

    Attributes:
        settings: Sizes and options (the .json).
        arrays: Values by name (the .npz).
        checkpoint: Synthetic checkpoint directory.
        bundle: Bundle of the same weights.
    """

    name: str
    settings: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    checkpoint: Path
    bundle: Path

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def options(self) -> dict[str, Any]:
        """Return the set's options under the names of GenerationConfig."""
        s = self.settings
        weights = {k: s[k] for k in ("guidance_scale", "reference_attention_weight", "audio_attention_weight")}
        return {
            **weights,
            "steps": s["steps"],
            "fps": s["fps"],
            "overlap": s["context_overlap"],
            "seed": s["generator_seed"],
        }


def architecture(settings_: Mapping[str, Any]) -> Any:
    """Return the architecture in a golden set's settings."""
    from export.networks.architecture import Architecture
    from export.networks.config import AudioProjectionConfig, GuiderConfig, UNetConfig, VaeConfig

    widths = tuple(settings_["block_out_channels"])
    return Architecture(
        unet=UNetConfig(block_out_channels=widths),
        vae=VaeConfig(block_out_channels=tuple(settings_["vae_block_out_channels"])),
        audio_projection=AudioProjectionConfig(
            embedding_dim=settings_["wav2vec2"]["hidden_size"], **settings_["audio_projection"]
        ),
        guiders={"keypoints": GuiderConfig(output=widths[0])},
        wav2vec2=dict(settings_["wav2vec2"]),
    )


def write_cached(folder: Path, settings_: Mapping[str, Any]) -> None:
    """Return the synthetic checkpoint of a golden set's settings; write it again if the code has changed."""
    from export.build import fingerprint
    from export.checkpoint import config_files, presets, synthetic, synthetic_detector, writer

    modules = (config_files, presets, synthetic, synthetic_detector, writer)
    sources = [Path(module.__file__ or "").read_bytes() for module in modules]
    stamp, current = folder.with_suffix(".stamp"), fingerprint.combine(*sources, settings_, fingerprint.of_code())
    if folder.exists() and stamp.exists() and stamp.read_text() == current:
        return
    shutil.rmtree(folder, ignore_errors=True)
    synthetic.write_synthetic_checkpoint(folder, architecture(settings_), settings_["seed"])
    stamp.write_text(current)


def load_golden(name: str) -> GoldenSet:
    """Return a golden set with its synthetic checkpoint and float32 bundle, which are made if they are missing."""
    from export.build.builder import build
    from export.build.options import BuildOptions
    from vexpress_rt.bundle.engine_spec import VideoShape

    values = json.loads((GOLDEN / f"{name}.json").read_text())
    checkpoint, bundle = CACHE / f"{name}-weights", CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    write_cached(checkpoint, values)
    shape = VideoShape(values["height"], values["width"], values["context_frames"])
    build(checkpoint, bundle, BuildOptions(shape, allow_odd_sizes=bool(values["width"] % 64)))
    with np.load(GOLDEN / f"{name}.npz") as file:
        return GoldenSet(name, values, dict(file), checkpoint, bundle)


@pytest.fixture(scope="session", autouse=True)
def shared_user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's cache during the tests, also for the processes that they start: never that of the real user."""
    from vexpress_rt.utils.user_cache import FOLDER_VARIABLE, LIMIT_VARIABLE

    folder = tmp_path_factory.mktemp("user_cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(folder))
        patch.delenv(LIMIT_VARIABLE, raising=False)
        yield folder


@pytest.fixture
def user_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an empty user's cache for one test, which does not exist yet."""
    from vexpress_rt.utils.user_cache import FOLDER_VARIABLE

    folder = tmp_path_factory.mktemp("own_cache") / "cache"
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_square() -> GoldenSet:
    """64 x 64, 14 frames in two windows, 4 steps; the preset `tiny` with seed 0."""
    return load_golden("tiny_square")


@pytest.fixture(scope="session")
def tiny_wide() -> GoldenSet:
    """64 high x 96 wide, one window, 2 steps; latents that do not halve evenly."""
    return load_golden("tiny_wide")


@pytest.fixture(params=["tiny_square", "tiny_wide"])
def golden(request: pytest.FixtureRequest) -> GoldenSet:
    """Each golden set in turn."""
    value: GoldenSet = request.getfixturevalue(request.param)
    return value


@pytest.fixture(scope="session")
def tiny_bundle(tiny_square: GoldenSet) -> Path:
    """A bundle of 64 x 64 pixels and windows of 8 frames, with synthetic weights and a stand-in face detector."""
    return tiny_square.bundle


def build_cached(golden: GoldenSet, suffix: str, *options: Any) -> Path:
    """Return a bundle of a golden set's weights and sizes, with further `BuildOptions`; build it if necessary."""
    from export.build.builder import build
    from export.build.options import BuildOptions
    from vexpress_rt.bundle.engine_spec import VideoShape

    bundle = CACHE / f"{golden.name}-{suffix}"
    shape = VideoShape(golden.settings["height"], golden.settings["width"], golden.settings["context_frames"])
    build(golden.checkpoint, bundle, BuildOptions(shape, *options, allow_odd_sizes=bool(shape.width % 64)))
    return bundle


def half_bundle(golden: GoldenSet) -> Path:
    """The bundle of a golden set in float16."""
    return build_cached(golden, "fp16", "fp16")


def half_bundle_as_for_tensorrt(golden: GoldenSet) -> Path:
    """The same, of the graphs that TensorRT compiles: attention is one operator in them.

    Of one set those of `tests/export/build/test_tensorrt.py`; compiling the other's as well would take a minute.
    """
    from export.onnx.graph import OPSETS

    if golden.name == "tiny_square":
        return build_cached(golden, "fp16-tensorrt-rtx", "fp16", "tensorrt-rtx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OPSETS, "onnxruntime", OPSETS["tensorrt"])
        return build_cached(golden, "fp16-as-for-tensorrt", "fp16")


@pytest.fixture(scope="session")
def tiny_half(tiny_square: GoldenSet) -> Path:
    """The bundle of `tiny_square` in float16."""
    return half_bundle(tiny_square)


@pytest.fixture(scope="session")
def micro_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory of half a megabyte whose sizes all differ from the released ones. Read-only for tests."""
    from export.checkpoint.synthetic import write_synthetic_checkpoint
    from tests.support.micro import MICRO

    folder = tmp_path_factory.mktemp("micro") / "weights"
    write_synthetic_checkpoint(folder, MICRO, seed=5)
    return folder


@pytest.fixture(scope="session")
def micro_bundle(micro_checkpoint: Path) -> Path:
    """A bundle of all engines of `micro_checkpoint`, 16 high x 24 wide, windows of 3 frames. Read-only for tests."""
    from export.build.builder import build
    from export.build.options import BuildOptions
    from tests.support.micro import MICRO_SHAPE

    bundle = CACHE / "micro"
    build(micro_checkpoint, bundle, BuildOptions(MICRO_SHAPE))
    return bundle


@pytest.fixture(scope="session")
def depth_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint directory of `micro_checkpoint` with a guider of depth. Read-only for tests."""
    from export.checkpoint.synthetic import write_synthetic_checkpoint
    from tests.support.guided import MICRO_DEPTH

    folder = tmp_path_factory.mktemp("guided") / "weights"
    write_synthetic_checkpoint(folder, MICRO_DEPTH, seed=5)
    return folder


@pytest.fixture(scope="session")
def depth_guider(depth_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the engine `depth_guider` of `depth_checkpoint` alone. Read-only for tests."""
    from export.build.builder import build
    from export.build.options import BuildOptions
    from tests.support.micro import MICRO_SHAPE

    bundle = tmp_path_factory.mktemp("guided") / "bundle"
    build(depth_checkpoint, bundle, BuildOptions(MICRO_SHAPE, engines=("depth_guider",)))
    return bundle


@pytest.fixture(scope="session")
def fake_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of all engines, 64 x 64 pixels, windows of 8 frames, with trivial graphs. Read-only for tests."""
    from tests.doubles.fakes import write_bundle

    return write_bundle(tmp_path_factory.mktemp("fake") / "bundle")


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    """A backend of fake engines, from which generators load during this test."""
    from tests.doubles.fakes import FakeBackend

    fake = FakeBackend()
    fake.install(monkeypatch)
    return fake


@pytest.fixture
def generator(fake_bundle: Path, backend: FakeBackend) -> Iterator[Generator]:
    """A generator with fake engines; everything else of it is real."""
    from vexpress_rt.pipeline.generator import Generator

    with Generator(fake_bundle) as made:
        yield made


@pytest.fixture
def portrait(generator: Generator) -> Portrait:
    """The prepared portrait of `tests.support.scenes.photo`."""
    from tests.support.scenes import photo

    return generator.prepare(photo())


@pytest.fixture
def session(generator: Generator, portrait: Portrait) -> LiveSession:
    """A live session of `tests.support.live_sessions`."""
    from tests.support.live_sessions import open_session

    return open_session(generator, portrait)


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """Limit PyTorch to one thread: the models are too small for more, and ONNX Runtime needs the other cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def read_bytes(tmp_path: Path) -> Callable[[bytes], Any]:
    """A function that reads bytes as an array file."""

    from vexpress_rt.media.safe_arrays import read_arrays

    def read_data(data: bytes) -> Any:
        path = tmp_path / "keypoints.pth"
        path.write_bytes(data)
        return read_arrays(path)

    return read_data
