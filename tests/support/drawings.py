"""Drawn faces that several tests look at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.pocket.faces import Person, Pose, draw_face, random_person

POSES = st.builds(
    Pose, yaw=st.floats(-0.45, 0.45), pitch=st.floats(-0.3, 0.3), roll=st.floats(-0.4, 0.4), x=st.floats(-0.1, 0.1),
    y=st.floats(-0.08, 0.08), scale=st.floats(0.8, 1.2), mouth=st.floats(0, 1), width=st.floats(-1, 1),
    rounding=st.floats(0, 1), blink=st.floats(0, 1),
)  # fmt: skip
SEEDS = st.integers(0, 10_000)
# Somebody on whom every trait can be seen but a beard.
COMPLETE = replace(
    random_person(4), style="bob", beard="none", glasses="square", collar="crew", pattern="stripes",
    lighting="horizon", fringe=True,
)  # fmt: skip
BEARDED = replace(COMPLETE, style="short", glasses="none", beard="full")


def small(person: Person | int, pose: Pose | None = None, side: int = 96) -> NDArray[np.int64]:
    """A drawing small enough for a test, as integers that can be subtracted."""
    return draw_face(person, pose or Pose(), height=side, width=side, oversampling=2).image.astype(int)
