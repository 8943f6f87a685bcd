"""The generator's handling of engines: loading, missing engines, freeing, sharing; and some runs of real engines."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import GoldenSet
from tests.doubles.fakes import FakeBackend, write_bundle
from tests.support.portraits import drawn_portrait
from tests.support.scenes import FAST, frames_of, photo, read_back, speech, track
from vexpress_rt.backends.loaded_engines import Engines
from vexpress_rt.backends.registry import choose
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import ENGINE_NAMES, FACE_DETECTOR
from vexpress_rt.config import RETARGET_MODES, GenerationConfig
from vexpress_rt.errors import BackendError, BundleDamagedError, BundleNotFoundError, NoFaceError
from vexpress_rt.pipeline.generator import Generator
from vexpress_rt.stages import frame_decoder

ALL = (*ENGINE_NAMES, FACE_DETECTOR)


# Loading and freeing


def test_engines_are_loaded_once_and_freed_at_the_end(fake_bundle: Path, backend: FakeBackend) -> None:
    with Generator(fake_bundle) as generator:
        assert backend.loads == []
        for _ in range(2):
            generator.generate(photo(), speech(0.1), config=FAST)
        assert sorted(backend.loads) == sorted(set(ALL) - {"denoiser_cond"})
        assert not any(engine.closed for engine in backend.engines.values())
    assert all(engine.closed for engine in backend.engines.values())


def test_an_engine_that_failed_to_load_is_tried_again(generator: Generator, backend: FakeBackend) -> None:
    backend.broken["vae_decoder"] = BackendError("memory ran out")
    with pytest.raises(BackendError, match="memory ran out"):
        generator.generate(photo(), speech(0.1), config=FAST)
    backend.broken.clear()
    assert generator.generate(photo(), speech(0.1), config=FAST).length == 3


@pytest.mark.parametrize(("scale", "loaded"), [(3.5, "denoiser"), (1.0, "denoiser_cond")])
def test_only_the_denoiser_that_is_needed_is_loaded(
    generator: Generator, backend: FakeBackend, scale: float, loaded: str
) -> None:
    generator.generate(photo(), speech(), config=GenerationConfig(steps=1, overlap=2, guidance_scale=scale))
    assert {name for name in backend.loads if name.startswith("denoiser")} == {loaded}


def test_a_closed_generator_says_so(fake_bundle: Path, backend: FakeBackend) -> None:
    generator = Generator(fake_bundle)
    generator.close()
    generator.close()
    for call in (lambda: generator.generate(photo(), speech()), lambda: generator.prepare(photo())):
        with pytest.raises(BackendError, match="this Generator was closed: make a new one"):
            call()


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_the_number_of_threads_reaches_engines_and_median(
    fake_bundle: Path, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, threads: int | None
) -> None:
    asked = []

    def median(previous: np.ndarray, current: np.ndarray, following: np.ndarray, *, threads: int | None) -> np.ndarray:
        asked.append(threads)
        return current

    monkeypatch.setattr(frame_decoder, "median_3x3x3", median)
    with Generator(fake_bundle, threads=threads) as generator:
        generator.generate(photo(), speech(0.1), config=FAST)
    assert backend.threads == threads
    assert set(asked) == {threads}


@pytest.mark.parametrize(("share", "sharing"), [(False, set()), (True, {"denoiser", "denoiser_cond"})])
def test_engines_share_weights_that_lie_in_one_file(
    micro_bundle: Path, backend: FakeBackend, share: bool, sharing: set[str]
) -> None:
    bundle = Bundle.open(micro_bundle)
    engines = Engines(bundle, choose("cpu", bundle), None, share_weights=share)
    for name in ENGINE_NAMES:
        engines.get(name)
    assert backend.sharing == sharing


def test_weights_that_are_written_to_while_they_are_in_use_are_refused(micro_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(micro_bundle, tmp_path / "bundle"))
    bundle, weights = Bundle.open(folder), folder / "denoiser.weights"
    engines = Engines(bundle, choose("cpu", bundle), None)
    engine = engines.get("denoiser")
    shutil.copyfile(weights, tmp_path / "aside")
    os.replace(tmp_path / "aside", weights)
    assert engines.get("denoiser") is engine  # replaced: whoever has the old one mapped keeps it
    engines.close()
    engines = Engines(bundle, choose("cpu", bundle), None)
    engines.get("denoiser")
    with weights.open("r+b") as file:
        file.write(bytes(16))
    os.utime(weights, ns=(1, 1))
    with pytest.raises(BundleDamagedError, match=r"denoiser\.weights was written to while it was in use"):
        engines.get("denoiser")
    engines.close()


# Bundles that lack something


def test_a_bundle_without_a_detector_works_when_keypoints_are_given(
    tmp_path: Path, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    with Generator(write_bundle(tmp_path / "blind", ENGINE_NAMES)) as generator:
        portrait = generator.prepare(photo(), keypoints=track(1)[0])
        for mode in RETARGET_MODES:
            video = generator.generate(portrait, speech(0.1), keypoints=track(3), retarget=mode, config=FAST)
            assert video.length == 3
        video = generator.generate(photo(), speech(0.1), keypoints=track(3), config=FAST)
        assert video.length == 3
        assert video.notes[0] == "photo: the bundle has no face detector, so it is cut around its centre"
        assert not caplog.records


def test_a_bundle_without_a_detector_cannot_hold_an_unknown_face_still(tmp_path: Path, backend: FakeBackend) -> None:
    generator = Generator(write_bundle(tmp_path / "blind", ENGINE_NAMES))
    with pytest.raises(NoFaceError, match=r"unknown: the bundle has no face detector\. Give the photo's keypoints"):
        generator.generate(photo(), speech(), config=FAST)


def test_a_bundle_without_a_detector_cannot_search_a_driving_video(tmp_path: Path, backend: FakeBackend) -> None:
    generator = Generator(write_bundle(tmp_path / "blind", ENGINE_NAMES))
    driving = tmp_path / "driving.mp4"
    generator.generate(photo(), speech(), keypoints=track(9), output=driving, config=FAST)
    remedy = (
        r"give keypoints, or put .*det_10g\.onnx into the checkpoint directory and build again with "
        r"`python -m export\.build --engine face_detector` \(in a checkout of the repository"
    )
    with pytest.raises(BundleNotFoundError, match=remedy):
        generator.generate(photo(), speech(), keypoints=driving, config=FAST)


@pytest.mark.parametrize("missing", [name for name in ENGINE_NAMES if name != "denoiser_cond"])
def test_a_bundle_that_lacks_an_engine_says_how_to_build_it(tmp_path: Path, backend: FakeBackend, missing: str) -> None:
    folder = write_bundle(tmp_path / "lacking", [name for name in ALL if name != missing])
    with pytest.raises(BundleNotFoundError, match=f"holds no engine '{missing}'.*export.build .* --engine {missing}"):
        Generator(folder).generate(photo(), speech(), config=FAST)
    assert not backend.calls("reference_net")
    assert not backend.calls("audio_encoder")


def test_without_guidance_the_engine_for_it_is_not_needed(tmp_path: Path, backend: FakeBackend) -> None:
    folder = write_bundle(tmp_path / "lacking", [name for name in ALL if name != "denoiser_cond"])
    assert Generator(folder).generate(photo(), speech(0.1), config=FAST).length == 3
    with pytest.raises(BundleNotFoundError, match="--engine denoiser_cond"):
        Generator(folder).generate(photo(), speech(), config=GenerationConfig(overlap=2, guidance_scale=1))


# Threads


def test_videos_made_at_once_are_those_made_alone(generator: Generator) -> None:
    def make(seed: int) -> np.ndarray:
        config = GenerationConfig(steps=3, overlap=3, seed=seed)
        return frames_of(generator.generate(photo(x=24 + 2 * seed), speech(0.5), config=config))

    alone = [make(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for one, other in zip(alone, pool.map(make, range(6)), strict=True):
            np.testing.assert_array_equal(one, other)


def test_engines_that_several_threads_need_at_once_are_loaded_once(fake_bundle: Path, backend: FakeBackend) -> None:
    with Generator(fake_bundle) as generator, ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: generator.generate(photo(), speech(0.1), config=FAST), range(6)))
    assert sorted(backend.loads) == sorted(set(backend.loads))


# Real engines


@pytest.fixture(scope="module")
def real(tiny_bundle: Path) -> Iterator[Generator]:
    with Generator(tiny_bundle, provider="cpu") as generator:
        yield generator


ONE_STEP = GenerationConfig(steps=1, guidance_scale=1.0)


def test_a_drawn_portrait_and_a_tone_become_a_video_that_plays(real: Generator, tmp_path: Path) -> None:
    picture = drawn_portrait(300, 400, 240, 130, 60)
    video = real.generate(picture, speech(0.2), output=tmp_path / "out.mp4", keep_frames=True, config=ONE_STEP)
    pictures, rate, samples, sound = read_back(tmp_path / "out.mp4")
    assert (len(pictures), rate, video.length) == (6, 30, 6)
    assert 0.2 * sound <= samples < 0.2 * sound + 2048
    assert frames_of(video).std() > 1


def test_real_engines_in_two_threads_give_what_they_give_alone(real: Generator, tiny_square: GoldenSet) -> None:
    portrait = real.prepare(tiny_square["image"], keypoints=tiny_square["keypoints"][0])

    def make(seed: int) -> np.ndarray:
        config = GenerationConfig(steps=1, guidance_scale=1.0, seed=seed)
        return frames_of(real.generate(portrait, speech(0.1), config=config))

    alone = [make(seed) for seed in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for one, other in zip(alone, pool.map(make, range(2)), strict=True):
            np.testing.assert_array_equal(one, other)


def test_half_precision_goes_through_the_same_pipeline(
    tiny_half: Path, tiny_square: GoldenSet, real: Generator
) -> None:
    def make(generator: Generator) -> np.ndarray:
        portrait = generator.prepare(tiny_square["image"], keypoints=tiny_square["keypoints"][0])
        return frames_of(generator.generate(portrait, speech(0.1), config=ONE_STEP)).astype(int)

    with Generator(tiny_half) as half:
        difference = np.abs(make(half) - make(real))
    assert 0 < difference.max() < 16
    assert difference.mean() < 1


def test_a_stream_that_has_begun_ends_with_its_generator(micro_bundle: Path) -> None:
    config, points = GenerationConfig(steps=2, overlap=1), np.array([[[8, 6], [16, 6], [12, 10]]], np.float32)
    generator = Generator(micro_bundle, provider="cpu")
    stream = generator.stream(photo(), speech(0.5, 8000), keypoints=points, retarget="no_retarget", config=config)
    next(stream)
    generator.close()
    with pytest.raises(BackendError, match="closed"):
        list(stream)
