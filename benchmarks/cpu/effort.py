"""The extent of the measurements: lengths, repetitions, number of people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """The extent of the measurements.

    Attributes:
        models: Names in `models.MODELS`.
        rounds: Turns of small calls.
        big_rounds: Turns of calls of the larger models.
        video_rounds: Turns of the small model's videos.
        lengths: Seconds of the small model's whole videos; those longer than LONG are made once.
        first_frame_seconds: Seconds of the clip whose first frame is timed.
        half_steps: Steps of the half-width model's video.
        half_rounds: Turns of these videos.
        minutes: Minutes of speech for the measurement of memory.
        people: Drawn people of the quality table.
        seconds: Seconds of each person's clip.
        reference_steps: Steps of the quality table's reference.
        live_minutes: Minutes of speech in live mode.
        live_people: People whose live videos are compared with `generate`.
        changes_of: Model whose optimisations and loading are measured.
        loads: Number of times that its engines are loaded.
        cold_starts: Runs of two processes of each provider.
        first_frame_steps: Steps of the clip whose first frame is timed.
    """

    models: tuple[str, ...]
    rounds: int
    big_rounds: int
    video_rounds: int
    lengths: tuple[float, ...]
    first_frame_seconds: float
    half_steps: int
    half_rounds: int
    minutes: tuple[float, ...]
    people: int
    seconds: float
    reference_steps: int
    live_minutes: float
    live_people: int
    changes_of: str
    loads: int
    cold_starts: int
    first_frame_steps: int = 8


LONG = 5.0  # seconds of video: longer ones are made once
WHOLE = Effort(
    models=("pocket", "half", "full"),
    rounds=15,
    big_rounds=5,
    video_rounds=3,
    lengths=(2, 10, 60),
    first_frame_seconds=60,
    half_steps=25,
    half_rounds=2,
    minutes=(1, 3, 10),
    people=3,
    seconds=1.5,
    reference_steps=200,
    live_minutes=5,
    live_people=1,
    changes_of="half",
    loads=3,
    cold_starts=2,
)
QUICK = Effort(
    models=("pocket",),
    rounds=5,
    big_rounds=3,
    video_rounds=2,
    lengths=(0.5, 1),
    first_frame_seconds=2,
    half_steps=2,
    half_rounds=1,
    minutes=(0.1, 0.2),
    people=1,
    seconds=1.0,
    reference_steps=50,
    live_minutes=0.3,
    live_people=0,
    changes_of="pocket",
    loads=1,
    cold_starts=1,
)
