"""Cases that compare the CUDA kernels with their reference implementations, on a GPU or compiled for the CPU."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vexpress_rt.native import median_3x3x3_numpy
from vexpress_rt.native.device_kernels import Kernels, Memory, Stream
from vexpress_rt.native.latent_step import (
    Coefficients,
    Correction,
    SlotUpdate,
    correct_predictions_numpy,
    guided_step_numpy,
)
from vexpress_rt.native.nv12 import rgb_to_nv12_numpy
from vexpress_rt.native.weighted_sum import weighted_sum_numpy


class Arena(Protocol):
    """An allocator of memory for kernels, and the stream on which they are launched."""

    stream: Stream

    def put(self, array: np.ndarray) -> Memory:
        """Return memory with the content of an array."""
        ...

    def get(self, memory: Memory, like: np.ndarray) -> np.ndarray:
        """Synchronize the stream; return the memory's content in the shape and dtype of `like`."""
        ...


@dataclass(frozen=True)
class HostMemory:
    array: np.ndarray

    @property
    def pointer(self) -> int:
        return self.array.ctypes.data

    @property
    def bytes(self) -> int:
        return self.array.nbytes


@dataclass(frozen=True)
class NoStream:
    handle: int = 0


class HostArena:
    stream: Stream = NoStream()

    def put(self, array: np.ndarray) -> HostMemory:
        return HostMemory(np.array(array))

    def get(self, memory: Memory, like: np.ndarray) -> np.ndarray:
        assert isinstance(memory, HostMemory)
        return memory.array


def host_kernels() -> Kernels:
    """Return the kernels' C++ compiled for the CPU."""
    return Kernels(importlib.import_module("vexpress_rt.native._native").kernels)


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    """Assert that two arrays are equal bit for bit; zeros of different sign differ."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(found.view(np.uint8), expected.view(np.uint8))


@dataclass(frozen=True)
class Step:
    """Arguments of `guided_step`.

    Attributes:
        state: (state_size, slots, values), sampler state of each slot.
        totals: (slots, values), sums of predictions.
        unconditional: (F, values), or None without guidance.
        conditional: (F, values).
        updates: Slot, accumulated count and coverage of each frame.
        scale: Guidance scale.
        coefficients: Coefficients of the sampler's step.
    """

    state: np.ndarray
    totals: np.ndarray
    unconditional: np.ndarray | None
    conditional: np.ndarray
    updates: Sequence[SlotUpdate]
    scale: float = 3.5
    coefficients: Coefficients = ((0.9, -0.3),)

    @classmethod
    def random(
        cls, *, frames: int, values: int, spare_slots: int = 3, seed: int = 0, guided: bool = True, state_size: int = 1
    ) -> Step:
        """Return random arguments: values of all magnitudes of float32, including subnormal ones and signed zeros.

        Some coefficients of the sampler state are 0, as in a sampler's first step.
        """
        rng = np.random.default_rng(seed)

        def numbers(*shape: int) -> np.ndarray:
            drawn = rng.standard_normal(shape) * 10.0 ** rng.integers(-44, 9, shape)
            drawn[rng.random(shape) < 0.05] *= 0
            return drawn.astype(np.float32)

        slots = frames + spare_slots
        coverage = rng.integers(1, 8, frames)
        updates = [
            SlotUpdate(int(slot), int(rng.integers(covering)), int(covering))
            for slot, covering in zip(rng.permutation(slots), coverage, strict=False)
        ]
        halves = numbers(2, frames, values)
        table = rng.uniform(-1, 1, (state_size, state_size + 1))
        table[:, 1:-1] *= rng.random((state_size, state_size - 1)) < 0.7
        return cls(
            numbers(state_size, slots, values), numbers(slots, values), halves[0] if guided else None, halves[1],
            updates, float(rng.uniform(1, 9)), tuple(map(tuple, table.tolist())),
        )  # fmt: skip

    def reference(self) -> tuple[np.ndarray, np.ndarray]:
        """Return sampler state and totals after the step, by NumPy."""
        state, totals = self.state.copy(), self.totals.copy()
        guided_step_numpy(
            state, totals, self.unconditional, self.conditional, self.updates, self.scale, self.coefficients
        )
        return state, totals

    def run(self, kernels: Kernels, arena: Arena) -> tuple[np.ndarray, np.ndarray]:
        """Return sampler state and totals after the step, by the kernel."""
        state, totals, conditional = (arena.put(a) for a in (self.state, self.totals, self.conditional))
        kernels.guided_step(
            state,
            totals,
            None if self.unconditional is None else arena.put(self.unconditional),
            conditional,
            values=self.totals.shape[1],
            slots=len(self.totals),
            updates=self.updates,
            scale=self.scale,
            coefficients=self.coefficients,
            stream=arena.stream,
        )
        return arena.get(state, self.state), arena.get(totals, self.totals)


def check_guided_step(kernels: Kernels, arena: Arena, step: Step) -> None:
    for found, expected in zip(step.run(kernels, arena), step.reference(), strict=True):
        assert_same_bits(found, expected)


def run_correction(
    kernels: Kernels, arena: Arena, unconditional: np.ndarray | None, conditional: np.ndarray, scale: float,
    correction: Correction,
) -> np.ndarray:  # fmt: skip
    """Return corrected predictions (F, values), by the kernel."""
    out = arena.put(np.zeros_like(conditional))
    kernels.correct_predictions(
        None if unconditional is None else arena.put(unconditional),
        arena.put(conditional),
        arena.put(correction.expected),
        out,
        values=conditional.shape[1],
        frame=correction.frame,
        weights=correction.weights,
        scale=scale,
        stream=arena.stream,
    )
    return arena.get(out, conditional)


def check_correction(
    kernels: Kernels, arena: Arena, *, frames: int, values: int, seed: int = 0, guided: bool = True
) -> None:
    step, rng = Step.random(frames=frames, values=values, seed=seed, guided=guided), np.random.default_rng(seed)
    weights = np.maximum(rng.uniform(-0.5, 1, frames), 0).astype(np.float32)
    correction = Correction(int(rng.integers(frames)), step.totals[0], weights)
    given = (step.unconditional, step.conditional, step.scale, correction)
    assert_same_bits(run_correction(kernels, arena, *given), correct_predictions_numpy(*given))


def run_median(kernels: Kernels, arena: Arena, triple: np.ndarray) -> np.ndarray:
    """Return the median of three frames (3, H, W, 3), by the kernel."""
    height, width = triple.shape[1:3]
    previous, current, following = (arena.put(frame) for frame in triple)
    out = arena.put(np.zeros_like(triple[0]))
    kernels.median_3x3x3(previous, current, following, out, height=height, width=width, stream=arena.stream)
    return arena.get(out, triple[0])


def check_median(kernels: Kernels, arena: Arena, triple: np.ndarray) -> None:
    assert_same_bits(run_median(kernels, arena, triple), median_3x3x3_numpy(*triple))


def run_nv12(kernels: Kernels, arena: Arena, frame: np.ndarray) -> np.ndarray:
    """Return a frame (H, W, 3) as NV12, by the kernel."""
    height, width = frame.shape[:2]
    empty = np.zeros((height * 3 // 2, width), np.uint8)
    out = arena.put(empty)
    kernels.rgb_to_nv12(arena.put(frame), out, height=height, width=width, stream=arena.stream)
    return arena.get(out, empty)


def check_nv12(kernels: Kernels, arena: Arena, frame: np.ndarray) -> None:
    assert_same_bits(run_nv12(kernels, arena, frame), rgb_to_nv12_numpy(frame))


def widened(stored: np.ndarray) -> np.ndarray:
    """Return bfloat16 values, stored as uint16, as float32."""
    return (stored.astype(np.uint32) << 16).view(np.float32)


def rounded_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Return finite float32 values as the nearest bfloat16, stored as uint16; of two, the even one."""
    below = values.view(np.uint32) >> 16  # towards zero
    with np.errstate(invalid="ignore"):
        low, high = ((number << 16).view(np.float32).astype(np.float64) for number in (below, below + 1))
        up, down = np.abs(high - values), np.abs(values - low)
    return np.where((up < down) | ((up == down) & (below % 2 == 1)), below + 1, below).astype(np.uint16)


def run_weighted_sum(
    kernels: Kernels, arena: Arena, features: Sequence[np.ndarray], weights: list[float], dtype: str
) -> np.ndarray:
    """Return the weighted sum of one or two features (F, values), by the kernel; bfloat16 is stored as uint16."""
    first, *second = (arena.put(feature) for feature in features)
    out = arena.put(np.zeros_like(features[0]))
    rows, values = features[0].shape
    kernels.weighted_sum(
        first, second[0] if second else None, out, rows=rows, values=values, weights=weights, dtype=dtype,
        stream=arena.stream,
    )  # fmt: skip
    return arena.get(out, features[0])


def check_weighted_sum(
    kernels: Kernels, arena: Arena, *, dtype: str, frames: int, values: int, count: int, seed: int = 0
) -> None:
    """Compare sums of values of many magnitudes, subnormal ones included, that stay below the largest float16."""
    rng = np.random.default_rng(seed)
    numbers = rng.standard_normal((count, frames, values)) * 10.0 ** rng.integers(-9, 3, (count, frames, values))
    weights = rng.uniform(0, 5, count).tolist()
    features = list(numbers.astype(np.float16 if dtype == "float16" else np.float32))
    if dtype == "bfloat16":
        stored = [rounded_to_bfloat16(feature) for feature in features]
        expected = rounded_to_bfloat16(weighted_sum_numpy([widened(feature) for feature in stored], weights))
        assert_same_bits(run_weighted_sum(kernels, arena, stored, weights, dtype), expected)
    else:
        expected = weighted_sum_numpy(features, weights)
        assert_same_bits(run_weighted_sum(kernels, arena, features, weights, dtype), expected)


def random_picture(*shape: int, seed: int = 0, levels: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, levels, shape, dtype=np.uint8)
