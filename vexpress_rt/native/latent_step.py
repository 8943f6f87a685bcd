"""What a window's predictions do to the latents of its frames (spec, stages 7 to 9); the twin of a CUDA kernel.

The frames in flight lie in slots of two arrays, vectors and totals; `Share` says where each of a window's frames lies
and how far its total has come. On a GPU a window's step is one launch, with the same values bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.errors import InputError

Float32 = NDArray[np.float32]
Coefficients = tuple[tuple[float, ...], ...]

FLOAT32_MAX = float(np.finfo(np.float32).max)
VECTORS_LIMIT = 3  # of a frame: what the kernels are compiled for
COVERAGE_LIMIT = 1 << 24  # up to here a float32 holds every integer


@dataclass(frozen=True)
class Share:
    """One frame's part in a window's step.

    slot: where its latent and its total lie.
    heard: how many windows' predictions this step's total holds already; with 0 the total may hold anything.
    coverage: how many windows cover the frame: when all are heard, its latent takes the step.
    """

    slot: int
    heard: int
    coverage: int


def check_shares(shares: Sequence[Share], slots: int) -> NDArray[np.int32]:
    """The shares as (F, 3) int32: slot, heard, coverage.

    Raises InputError when there are none, when two have the same slot, when a slot is not 0 to slots - 1, or unless
    0 <= heard < coverage <= COVERAGE_LIMIT.
    """
    for index, share in enumerate(shares):
        if not (0 <= share.slot < slots and 0 <= share.heard < share.coverage <= COVERAGE_LIMIT):
            raise InputError(
                f"share {index} is {share}; expected a slot of 0 to {slots - 1}, a coverage of 1 to {COVERAGE_LIMIT}, "
                "and fewer heard than that: count a frame's windows anew after each of its steps"
            )
    if not shares or len({share.slot for share in shares}) < len(shares):
        raise InputError(
            f"{len(shares)} shares in the slots {[share.slot for share in shares][:32]}; "
            "expected at least one, and a slot of its own for each"
        )
    return np.array([(share.slot, share.heard, share.coverage) for share in shares], np.int32)


def check_coefficients(coefficients: Coefficients) -> Float32:
    """The table of a step as (vectors, vectors + 1) float32.

    Raises InputError for another shape, more than VECTORS_LIMIT vectors, or a number that float32 does not hold.
    """
    widths = {len(row) for row in coefficients}
    if not 1 <= len(coefficients) <= VECTORS_LIMIT or widths != {len(coefficients) + 1}:
        raise InputError(
            f"coefficients are {coefficients}; expected a row for each vector of a frame, 1 to {VECTORS_LIMIT}, with a "
            "number for each of them and one for the prediction"
        )
    if not all(abs(number) <= FLOAT32_MAX for row in coefficients for number in row):
        raise InputError(f"coefficients are {coefficients}; expected numbers that float32 holds")
    return np.array(coefficients, np.float32)


def take_step(vectors: Sequence[Float32], v: Float32, coefficients: Coefficients) -> list[Float32]:
    """A frame's vectors after a step: each a sum of them all and v, times the numbers of its row, from the left.

    vectors: the latent, then what is remembered; like v of one shape, any, float32.
    coefficients: (vectors, vectors + 1). What is remembered is not looked at where its number is 0: before the second
        step it may hold anything.
    """
    terms = [*vectors, v]
    return [_weighted(terms, row) for row in coefficients]


def _weighted(terms: Sequence[Float32], row: Sequence[float]) -> Float32:
    total = np.float32(row[0]) * terms[0]
    for number, term in zip(row[1:-1], terms[1:-1], strict=True):
        if (factor := np.float32(number)) != 0:
            total = total + factor * term
    return np.asarray(total + np.float32(row[-1]) * terms[-1], np.float32)


def guide(unconditional: Float32, conditional: Float32, scale: float) -> Float32:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): u + scale (c - u), in float32."""
    return np.asarray(unconditional + np.float32(scale) * (conditional - unconditional), np.float32)


def guided_step_numpy(
    vectors: Float32,
    totals: Float32,
    unconditional: Float32 | None,
    conditional: Float32,
    shares: Sequence[Share],
    scale: float,
    coefficients: Coefficients,
) -> None:
    """Add a window's predictions to its frames' totals; frames that all their windows cover by now take their step.

    vectors: (vectors, slots, ...) float32: latents, then what the sampler remembers.  totals: (slots, ...) float32.
        Both are changed in place.
    unconditional, conditional: (F, ...) float32, the denoiser's outputs; without the first there is no guidance.
    shares: F of them.  scale: of classifier-free guidance.  coefficients: of the step, for `samplers.take_step`.

    Raises InputError for shares or coefficients that do not fit.
    """
    check_shares(shares, len(totals))
    check_coefficients(coefficients)
    prediction = conditional if unconditional is None else guide(unconditional, conditional, scale)
    for share, predicted in zip(shares, prediction, strict=True):
        part = predicted / np.float32(share.coverage)
        total = part if share.heard == 0 else totals[share.slot] + part
        if share.heard + 1 == share.coverage:
            held = list(vectors[:, share.slot])  # views
            for vector, following in zip(held, take_step(held, total, coefficients), strict=True):
                vector[...] = following
        else:
            totals[share.slot] = total
