"""How much is measured: what lengths, how often, how many people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """models: of `models.MODELS`.  rounds, big_rounds, video_rounds: turns of small calls, of big ones, of videos.

    lengths: seconds of the small model's whole videos; those of more than LONG seconds are made once.
    first_frame_seconds, first_frame_steps: of the clip whose first frame is waited for.
    half_steps: of the half-width model's video.
    minutes: of speech that memory is measured with.
    live_minutes: of speech that arrives as it is spoken.  live_people: who are held against the exact mode as well.
    changes_of, loads: the model that each way of making the CPU faster is left out of, and how often it is loaded;
        also that whose loading is measured.
    people, seconds, reference_steps: of the quality table: drawn people, length of their clips, steps of the reference.
    """

    models: tuple[str, ...]
    rounds: int
    big_rounds: int
    video_rounds: int
    lengths: tuple[float, ...]
    first_frame_seconds: float
    half_steps: int
    minutes: tuple[float, ...]
    people: int
    seconds: float
    reference_steps: int
    live_minutes: float
    live_people: int
    changes_of: str
    loads: int
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
    minutes=(1, 3, 10),
    people=3,
    seconds=1.5,
    reference_steps=200,
    live_minutes=5,
    live_people=1,
    changes_of="half",
    loads=3,
)
QUICK = Effort(
    models=("pocket",),
    rounds=5,
    big_rounds=3,
    video_rounds=2,
    lengths=(0.5, 1),
    first_frame_seconds=2,
    half_steps=2,
    minutes=(0.1, 0.2),
    people=1,
    seconds=1.0,
    reference_steps=50,
    live_minutes=0.3,
    live_people=0,
    changes_of="pocket",
    loads=1,
)
