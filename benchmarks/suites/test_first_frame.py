"""The time to the first frame of a long clip, in wavefront order and in upstream's order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from benchmarks.cpu.effort import Effort
from benchmarks.first_frame import Wait, first_frame, speech_of, warmed_up
from vexpress_rt.config import WINDOW_ORDERS, GenerationConfig
from vexpress_rt.pipeline.generator import Generator


@pytest.fixture(scope="module")
def generator(threads: int) -> Iterator[Generator]:
    """A generator of the shipped bundle."""
    with Generator(provider="cpu", threads=threads) as made:
        yield made


def test_first_frame(measure_pair: Callable[..., None], generator: Generator, effort: Effort) -> None:
    """From a prepared photo and speech to the first frame; both sides are the runtime's."""
    config = GenerationConfig(steps=effort.first_frame_steps)
    portrait, speech = warmed_up(generator), speech_of(generator, effort.first_frame_seconds)
    waits: dict[str, Wait] = {}

    def wait(window_order: str) -> Callable[[], None]:
        def call() -> None:
            waits[window_order] = first_frame(generator, portrait, speech, config, window_order)

        return call

    early, late = WINDOW_ORDERS
    measure_pair(
        wait(early),
        wait(late),
        rounds=1,
        warmup=0,
        what=f"{effort.first_frame_seconds:g} s, {effort.first_frame_steps} steps",
        window_steps=lambda: {"ours": waits[early].calls, "theirs": waits[late].calls},
        processor=lambda: {"ours": waits[early].processor, "theirs": waits[late].processor},
    )
