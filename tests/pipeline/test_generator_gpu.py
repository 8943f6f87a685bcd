"""Whole videos with latents and frames on the GPU: the CPU's frames bit for bit, and all memory freed at every end.

Engines are real ones of the smallest model, computed on the CPU, on a fake GPU that enforces CUDA's rules.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.doubles import fake_kernels
from tests.doubles.fake_cuda import FakeCuda, installed
from tests.doubles.fake_onnxruntime import FakeOnnxRuntime
from tests.support.micro_videos import POINTS, RATE, generate, make
from tests.support.scenes import photo, speech
from vexpress_rt.config import GenerationConfig
from vexpress_rt.errors import BackendError
from vexpress_rt.native.nv12 import rgb_to_nv12_numpy
from vexpress_rt.pipeline.frame_stream import FrameStream
from vexpress_rt.pipeline.generator import Generator

CASES = {
    "windows that overlap": {"seconds": 0.3, "overlap": 1},
    "windows that overlap by all but a frame": {"seconds": 0.2, "overlap": 2},
    "windows side by side": {"seconds": 0.2, "overlap": 0},
    "shorter than a window": {"seconds": 0.05, "overlap": 1},
    "no guidance": {"seconds": 0.2, "overlap": 1, "guidance_scale": 1.0},
    "no median": {"seconds": 0.2, "overlap": 1, "median_filter": False},
}
FIRST = "windows that overlap"


@dataclass(frozen=True)
class Gpu:
    """A generator whose engines, latents and frames are on a fake GPU, and the fake CUDA."""

    generator: Generator
    cuda: FakeCuda

    def allocations(self) -> int:
        """Return the number of allocations, without unused memory of the pool."""
        gc.collect()
        executor = self.generator._engines.executor()
        assert executor is not None
        executor.pool.trim()
        return len(self.cuda.machine.memory)


@pytest.fixture(scope="module")
def expected(micro_bundle: Path) -> dict[str, np.ndarray]:
    """The frames of each case on the CPU."""
    with Generator(micro_bundle, provider="cpu") as generator:
        return {"live": live(generator), **{case: generate(generator, **options) for case, options in CASES.items()}}


@pytest.fixture(scope="module")
def gpu(expected: dict[str, np.ndarray], micro_bundle: Path) -> Iterator[Gpu]:
    """One GPU for all tests, so that memory leaked by one test fails the next."""
    with pytest.MonkeyPatch.context() as patch:
        for cuda in installed(patch, 1 << 26):
            patch.setitem(sys.modules, "onnxruntime", FakeOnnxRuntime(cuda))  # type: ignore[arg-type]
            fake_kernels.install(patch, cuda)
            with Generator(micro_bundle, provider="cuda") as generator:
                yield Gpu(generator, cuda)
            assert cuda.machine.violations == []


@pytest.mark.parametrize("case", CASES)
def test_frames_are_those_of_the_cpu(expected: dict[str, np.ndarray], gpu: Gpu, case: str) -> None:
    np.testing.assert_array_equal(generate(gpu.generator, **CASES[case]), expected[case])
    assert len(np.unique(expected[case])) > 3


def test_frames_and_finished_latents_come_back_and_nothing_else(gpu: Gpu) -> None:
    generate(gpu.generator)
    before = Counter(gpu.cuda.copies)
    frames = generate(gpu.generator)
    looked_at = 4  # latents of three windows, of which those of one lie in two pieces
    assert (gpu.cuda.copies - before)["DeviceToHost"] == len(frames) + looked_at


def test_without_kernels_all_goes_through_the_host_and_that_is_said_once(
    expected: dict[str, np.ndarray], gpu: Gpu, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_kernels.hide(monkeypatch)
    with Generator(gpu.generator.bundle.folder, provider="cuda") as generator:
        for _ in range(2):
            np.testing.assert_array_equal(generate(generator, **CASES[FIRST]), expected[FIRST])
        assert "latents:   through the host, since the CUDA kernels" in generator.describe()
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "latents and frames go through the host in every step, since the CUDA kernels" in record.getMessage()


def test_a_generator_says_where_latents_are(gpu: Gpu) -> None:
    assert "latents:   on the GPU" in gpu.generator.describe().splitlines()


def test_on_the_cpu_there_is_nothing_to_choose(micro_bundle: Path) -> None:
    with Generator(micro_bundle, provider="cpu") as generator:
        assert "latents:   on the CPU" in generator.describe().splitlines()


def test_a_file_holds_the_frames_as_the_gpu_converted_them(gpu: Gpu, tmp_path: Path) -> None:
    frames = generate(gpu.generator)
    make(gpu.generator, output=tmp_path / "out.mp4", quality=0)
    with av.open(str(tmp_path / "out.mp4")) as container:
        pictures = [picture.reformat(format="nv12").to_ndarray() for picture in container.decode(video=0)]
    assert len(pictures) == len(frames) == 6
    for picture, frame in zip(pictures, frames, strict=True):
        np.testing.assert_array_equal(picture, rgb_to_nv12_numpy(frame))


class StopError(Exception):
    """An exception of the caller's callback."""


@pytest.mark.parametrize(("stage", "done"), [("denoise", 1), ("denoise", 5), ("frames", 1), ("frames", 6)])
def test_a_video_that_is_given_up_leaves_nothing_on_the_gpu(gpu: Gpu, stage: str, done: int) -> None:
    def stop(*what: Any) -> None:
        if what[:2] == (stage, done):
            raise StopError

    generate(gpu.generator)
    before = gpu.allocations()
    with pytest.raises(StopError) as caught:
        generate(gpu.generator, progress=stop)
    del caught  # with a traceback that holds the portrait
    assert gpu.allocations() == before


def test_memory_that_runs_out_in_mid_run_is_reported_and_the_next_video_works(
    expected: dict[str, np.ndarray], gpu: Gpu
) -> None:
    def fill(*what: Any) -> None:
        if what[:2] == ("denoise", 3):
            gpu.allocations()
            gpu.cuda.capacity = gpu.cuda.machine.used

    capacity = gpu.cuda.capacity
    with pytest.raises(BackendError, match=r"the GPU's memory ran out .*requested .* are free.*fewer --frames"):
        generate(gpu.generator, **CASES[FIRST], progress=fill)
    gpu.cuda.capacity = capacity
    np.testing.assert_array_equal(generate(gpu.generator, **CASES[FIRST]), expected[FIRST])


def live(generator: Generator) -> np.ndarray:
    """Frames of a live session that was interrupted once."""
    config, said = GenerationConfig(steps=2, overlap=1, fps=25), speech(0.4, RATE)[0]
    portrait = generator.prepare(photo(), keypoints=POINTS)
    frames = []
    with generator.live(portrait, config=config, sample_rate=RATE, context=0.5) as session:
        for piece in np.split(said, 4):
            session.push(piece)
            frames += [frame.image for frame in session.frames()]
        session.interrupt()
        session.push(said)
        session.flush()
        frames += [frame.image for frame in session.frames()]
    return np.stack(frames)


def test_a_live_session_gives_the_cpus_frames_and_all_memory_back(expected: dict[str, np.ndarray], gpu: Gpu) -> None:
    live(gpu.generator)
    before = gpu.allocations()
    np.testing.assert_array_equal(live(gpu.generator), expected["live"])
    assert gpu.allocations() == before
    assert len(expected["live"]) > 10


def stream(generator: Generator) -> FrameStream:
    config = GenerationConfig(steps=2, overlap=1)
    portrait = generator.prepare(photo(), keypoints=POINTS)
    return generator.stream(portrait, speech(0.3, RATE), keypoints=POINTS[None], config=config)


def test_a_stream_that_is_closed_leaves_nothing_on_the_gpu(gpu: Gpu) -> None:
    generate(gpu.generator)
    before = gpu.allocations()
    with stream(gpu.generator) as frames:
        next(frames)
        assert gpu.allocations() > before
    del frames
    assert gpu.allocations() == before


def test_streams_that_take_turns_share_the_gpu(expected: dict[str, np.ndarray], gpu: Gpu) -> None:
    for pair, frame in zip(
        zip(stream(gpu.generator), stream(gpu.generator), strict=True), expected[FIRST], strict=True
    ):
        np.testing.assert_array_equal(pair, [frame, frame])
