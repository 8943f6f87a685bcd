"""Guidance and sampler step of a window's latents: reference implementations of the CUDA kernels.

The state of a frame is its latent and the arrays that a multistep sampler keeps beside it. The array `state` has the
states of the frames in flight by slot, and the array `totals` the sums of their predictions. On a GPU, `device_kernels`
computes the same values bit for bit.

Source: docs/model/specification.md, stages 7 to 9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.errors import InputError
from vexpress_rt.types import Float32

Coefficients = tuple[tuple[float, ...], ...]

FLOAT32_MAX = float(np.finfo(np.float32).max)
STATE_LIMIT = 3  # largest state size that the kernels are compiled for
COVERAGE_LIMIT = 1 << 24  # float32 can hold every integer up to this one


@dataclass(frozen=True)
class SlotUpdate:
    """The update of one frame's slot by one window's prediction.

    Attributes:
        slot: Slot of the frame's state and total.
        accumulated: Number of windows whose predictions are in the frame's total for this step. If 0, the total is not
            read and may be uninitialised.
        coverage: Number of windows that cover the frame. With the last of their predictions, the frame takes the step.
    """

    slot: int
    accumulated: int
    coverage: int


@dataclass(frozen=True, eq=False)
class Correction:
    """A correction of a window's predictions: the error in one frame is subtracted from each frame, with a weight.

    Attributes:
        frame: Index in the window of a frame whose true prediction is known.
        expected: The true prediction of that frame, (c, h, w) float32.
        weights: The share of the error to subtract from each frame of the window, (F,) float32, 0 to 1.
    """

    frame: int
    expected: Float32
    weights: Float32


def check_updates(updates: Sequence[SlotUpdate], slots: int) -> NDArray[np.int32]:
    """Check the updates, and return them as an array.

    Args:
        updates: One for each of a window's F frames.
        slots: Number of slots.

    Returns:
        (F, 3) int32: slot, accumulated, coverage.

    Raises:
        InputError: There are no updates, two have the same slot, a slot is not 0 to slots - 1, or the condition
            0 <= accumulated < coverage <= COVERAGE_LIMIT does not hold.
    """
    for index, update in enumerate(updates):
        if not (0 <= update.slot < slots and 0 <= update.accumulated < update.coverage <= COVERAGE_LIMIT):
            raise InputError(
                f"update {index} is {update}; expected a slot of 0 to {slots - 1}, a coverage of 1 to "
                f"{COVERAGE_LIMIT}, and fewer accumulated than that: restart the count after each step of a frame"
            )
    if not updates or len({update.slot for update in updates}) < len(updates):
        raise InputError(
            f"{len(updates)} updates in the slots {[update.slot for update in updates][:32]}; "
            "expected at least one, and a slot of its own for each"
        )
    return np.array([(update.slot, update.accumulated, update.coverage) for update in updates], np.int32)


def check_coefficients(coefficients: Coefficients) -> Float32:
    """Check the coefficients of a step, and return them as an array.

    Args:
        coefficients: A row for each element of the state.

    Returns:
        (state_size, state_size + 1) float32.

    Raises:
        InputError: The shape is another, the state size exceeds STATE_LIMIT, or float32 cannot hold a coefficient.
    """
    widths = {len(row) for row in coefficients}
    if not 1 <= len(coefficients) <= STATE_LIMIT or widths != {len(coefficients) + 1}:
        raise InputError(
            f"coefficients are {coefficients}; expected a row for each element of a frame's state, 1 to {STATE_LIMIT}, "
            "with a number for each element and one for the prediction"
        )
    if not all(abs(number) <= FLOAT32_MAX for row in coefficients for number in row):
        raise InputError(f"coefficients are {coefficients}; expected numbers that float32 holds")
    return np.array(coefficients, np.float32)


def take_step(state: Sequence[Float32], v: Float32, coefficients: Coefficients) -> list[Float32]:
    """Return a frame's state after a sampler step.

    Each element of the new state is a weighted sum of the old state's elements and `v`, added from left to right; the
    weights are its row of `coefficients`. An element beside the latent is not read if its weight is 0, because before
    the second step it may be uninitialised.

    Args:
        state: The latent, then the arrays that the sampler keeps; float32, all of one shape.
        v: The prediction, float32 of that shape.
        coefficients: (state_size, state_size + 1).
    """
    terms = [*state, v]
    return [_weighted_sum(terms, row) for row in coefficients]


def _weighted_sum(terms: Sequence[Float32], row: Sequence[float]) -> Float32:
    total = np.float32(row[0]) * terms[0]
    for number, term in zip(row[1:-1], terms[1:-1], strict=True):
        if (factor := np.float32(number)) != 0:
            total = total + factor * term
    return np.asarray(total + np.float32(row[-1]) * terms[-1], np.float32)


def guide(unconditional: Float32, conditional: Float32, scale: float) -> Float32:
    """Return u + scale (c - u) in float32: classifier-free guidance (Ho and Salimans, arXiv 2207.12598).

    Args:
        unconditional: (F, ...) float32, u.
        conditional: (F, ...) float32, c.
        scale: Guidance scale.
    """
    return np.asarray(unconditional + np.float32(scale) * (conditional - unconditional), np.float32)


def correct_predictions_numpy(
    unconditional: Float32 | None, conditional: Float32, scale: float, correction: Correction
) -> Float32:
    """Return a window's guided predictions, less the weighted error in one frame whose true prediction is known.

    Args:
        unconditional: (F, ...) float32 from the denoiser, or None for no guidance.
        conditional: (F, ...) float32 from the denoiser.
        scale: Guidance scale.
        correction: The frame, its true prediction, and the weights.

    Returns:
        (F, ...) float32: v - weight (v[frame] - expected).
    """
    prediction = conditional if unconditional is None else guide(unconditional, conditional, scale)
    weights = correction.weights.reshape(-1, *[1] * (prediction.ndim - 1))
    corrected: Float32 = prediction - weights * (prediction[correction.frame] - correction.expected)
    return corrected


def guided_step_numpy(
    state: Float32,
    totals: Float32,
    unconditional: Float32 | None,
    conditional: Float32,
    updates: Sequence[SlotUpdate],
    scale: float,
    coefficients: Coefficients,
) -> None:
    """Add a window's predictions to the totals of its frames; frames with all their predictions take the step.

    Args:
        state: (state_size, slots, ...) float32: latents, then the arrays that the sampler keeps. Changed in place.
        totals: (slots, ...) float32, changed in place.
        unconditional: (F, ...) float32 from the denoiser, or None for no guidance.
        conditional: (F, ...) float32 from the denoiser.
        updates: One for each of the F frames.
        scale: Guidance scale.
        coefficients: Coefficients of the step, see `take_step`.

    Raises:
        InputError: As in `check_updates` and `check_coefficients`.
    """
    check_updates(updates, len(totals))
    check_coefficients(coefficients)
    prediction = conditional if unconditional is None else guide(unconditional, conditional, scale)
    for update, predicted in zip(updates, prediction, strict=True):
        part = predicted / np.float32(update.coverage)
        total = part if update.accumulated == 0 else totals[update.slot] + part
        if update.accumulated + 1 == update.coverage:
            views = list(state[:, update.slot])
            for view, following in zip(views, take_step(views, total, coefficients), strict=True):
                view[...] = following
        else:
            totals[update.slot] = total
