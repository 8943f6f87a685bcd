"""Live sessions: random calls from one or two threads, with odd sound.

An input is JSON: options of the session, and a list of calls for each thread.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.robustness.cases import Case
from tests.robustness.values import ANY, ARRAYS, value

_SOUNDS = (
    "np.zeros({n}, np.float32)",
    "np.full({n}, 0.3, 'f4')",
    "np.arange({n}, dtype='f4') % 200 / 400",
    "np.zeros({n}, np.int16)",
)
_CALLS = (
    "push",
    "push",
    "push",
    "push",
    "pull",
    "pull",
    "frames",
    "flush",
    "interrupt",
    "idle",
    "lag",
    "odd_push",
    "odd_pull",
    "odd_interrupt",
)


class Live:
    """Opens a session with the shipped bundle, and makes the calls in order.

    Each call may be refused. Frames must have the right size, time and number of samples.
    """

    memory = 0
    noisy: tuple[bytes, ...] = ()

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def seeds(self) -> Sequence[Case]:
        return [
            Case(".json", b'{"options": {}, "threads": [[["push", ["np.zeros(16000, np.float32)"]], ["frames", []]]]}')
        ]

    def make(self, chance: random.Random, seeds: Sequence[Case]) -> Case:
        options: dict[str, Any] = {}
        if chance.random() < 0.4:
            options["sample_rate"] = chance.choice((8000, 22050, 44100, 1000, 768000))
        if chance.random() < 0.3:
            options["max_lag"] = chance.choice((1, 1.5, 3600))
        if chance.random() < 0.3:
            options["context"] = chance.choice((0.5, 1, 30))
        if chance.random() < 0.3:
            options["look_ahead"] = chance.choice((0, 0.5, 5))
        if chance.random() < 0.4:
            options["overload"] = chance.choice(("drop", "skip"))
        if chance.random() < 0.3:
            options["idle_after"] = chance.choice((0, 0.01, None))
        threads = [[_call(chance) for _ in range(chance.choice((3, 6, 12)))] for _ in range(chance.choice((1, 1, 2)))]
        if chance.random() < 0.2:
            chance.choice(threads).append(["close", []])
        return Case(".json", json.dumps({"options": options, "threads": threads}).encode())

    def read(self, path: Path) -> None:
        content = json.loads(path.read_bytes())
        generator, portrait, config = self._usual
        failures: list[BaseException] = []
        with generator.live(portrait, config=config, **content["options"]) as session:
            player = _Player(session, generator.size)
            others = [
                threading.Thread(target=player.play, args=(calls, failures), daemon=True)
                for calls in content["threads"][1:]
            ]
            for other in others:
                other.start()
            player.play(content["threads"][0], failures)
            for other in others:
                other.join(60)
            assert not any(other.is_alive() for other in others), "a call does not return"
        if failures:
            raise failures[0]
        player.check()

    @cached_property
    def _usual(self) -> Any:
        import numpy as np

        from vexpress_rt import GenerationConfig, Generator

        generator = Generator(provider="cpu", threads=1)
        portrait = generator.prepare(np.full((64, 64, 3), 90, np.uint8), keypoints=[[20, 20], [40, 20], [30, 40]])
        return generator, portrait, GenerationConfig(steps=1, guidance_scale=1, fps=5)


class _Player:
    """Calls a session and checks its frames."""

    def __init__(self, session: Any, size: tuple[int, int]) -> None:
        self._session, self._size = session, size
        self._shown: list[Any] = []
        self._lock = threading.Lock()

    def play(self, calls: list[list[Any]], failures: list[BaseException]) -> None:
        from vexpress_rt.errors import VExpressError

        for name, expressions in calls:
            try:
                getattr(self, f"_{name}")(*map(value, expressions))
            except VExpressError:
                continue
            except BaseException as error:
                failures.append(error)
                return

    def check(self) -> None:
        for frame in self._shown:
            assert frame.image.shape == (*self._size, 3)
            assert frame.time == frame.index / self._session.fps
            expected = self._session.sample_rate / self._session.fps
            assert abs(len(frame.samples) - expected) <= 1

    def _take(self, frame: Any) -> None:
        if frame is not None:
            with self._lock:
                self._shown.append(frame)

    def _push(self, samples: Any, *rate: Any) -> None:
        self._session.push(samples, *rate)

    def _pull(self) -> None:
        self._take(self._session.pull())

    def _frames(self) -> None:
        for count, frame in enumerate(self._session.frames()):
            self._take(frame)
            if count > 30:
                break

    def _flush(self) -> None:
        self._session.flush()

    def _idle(self) -> None:
        self._take(self._session.pull(idle=True))

    def _interrupt(self) -> None:
        self._session.interrupt()

    def _lag(self) -> None:
        assert self._session.lag >= 0

    def _odd_push(self, samples: Any, rate: Any) -> None:
        self._session.push(samples, rate)

    def _odd_pull(self, timeout: Any) -> None:
        from vexpress_rt.config import plain_number

        if timeout is None or (plain_number(timeout) or 0) > 0.1:
            timeout = 0.01  # sound may never come
        self._take(self._session.pull(timeout))

    def _odd_interrupt(self, shown: Any) -> None:
        self._session.interrupt(shown)

    def _close(self) -> None:
        self._session.close()


def _call(chance: random.Random) -> list[Any]:
    name = chance.choice(_CALLS)
    if name == "push":
        sound = chance.choice(_SOUNDS).format(n=chance.choice((0, 1, 7, 160, 4000, 16000, 40000)))
        return [name, [sound, chance.choice(("None", "16000", "48000", "8000"))]]
    if name == "odd_push":
        sound = chance.choice(ARRAYS if chance.random() < 0.8 else ANY)
        return [name, [sound, chance.choice(ANY) if chance.random() < 0.5 else "None"]]
    if name in ("odd_pull", "odd_interrupt"):
        return [name, [chance.choice(ANY)]]
    return [name, []]
