"""Arguments of the Python API: one call with one to three odd values.

An input is JSON: the call, and an expression for each argument.
"""

from __future__ import annotations

import json
import random
import shutil
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.robustness.cases import Case
from tests.robustness.values import ANY, ARRAYS, value

_OPTIONS = (
    "preset", "steps", "sampler", "guidance_scale", "guidance_interval", "uncond_interval",
    "reference_attention_weight", "audio_attention_weight", "pose_weight", "depth_weight", "fps", "overlap", "seed",
    "median_filter", "extension", "upstream_anchor", "quality",
)  # fmt: skip
_VIDEO = (
    "portrait", "audio", "samples", "rate", "keypoints", "depth", "retarget", "config", "noise", "window_order",
    "progress",
)  # fmt: skip
# The arguments of each call that may be odd.
CALLS: dict[str, tuple[str, ...]] = {
    "config": _OPTIONS,
    "generate_config": _OPTIONS,
    "generator": ("bundle", "provider", "threads", "rebuild", "progress", "share_weights"),
    "prepare": ("source", "keypoints", "crop"),
    "generate": (*_VIDEO, "output", "keep_frames"),
    "stream": _VIDEO,
    "live": (
        "portrait", "keypoints", "depth", "retarget", "extension", "config", "sample_rate", "look_ahead", "context",
        "overload", "max_lag", "idle_after",
    ),
    "track": ("points", "fps", "size", "notes"),
    "recorded_track": ("points", "fps", "size"),
}  # fmt: skip
# Values that are odd everywhere, or only for that argument.
_SPECIAL = {
    "fps": ("0", "1e-9", "240.0001", "'30000/1001'", "'1e9'", "Decimal('29.97')", "np.float16(30)", "Fraction(1, 3)",
    "'1/3/5'", "'//'"),
    "rate": ("16000", "np.float16('inf')", "np.float16(16000)", "np.int32(16000)", "16000.5", "999", "768001",
    "Fraction(16000)", "'16000'"),
    "sample_rate": ("16000", "np.float16('inf')", "16000.0", "1000", "768000", "44100", "-16000"),
    "size": ("(512, 512)", "[512, 512]", "'512x512'", "512", "(0, 0)", "(-1, 5)", "(512,)", "(1.5, 2.5)",
    "(10**30, 1)", "(float('nan'), 5)"),
    "output": ("'x.mp4'", "'x.txt'", "''", "'.mp4'", "'no/such/x.mp4'", "'x' * 300 + '.mp4'", "b'x.mp4'",
    "Path('x.mkv')", "'\\x00.mp4'", "'-.mov'"),
    "audio": ("'nothing.wav'", "(1, 2, 3)", "(np.zeros(400, 'f4'),)", "[np.zeros(400, 'f4'), 16000]",
    "(16000, np.zeros(400))", "((), 16000)"),
    "config": ("{'steps': 1}", "GenerationConfig", "Settings(steps=1, overlap=2)"),
    "noise": ("'upstream'", "'torch'", "np.zeros((1, 4, 2, 16, 16))"),
    "threads": ("1", "2", "0", "1025", "2.0"),
    "steps": ("1", "501", "1000"),
    "context": ("0.5", "30", "30.0001"), "look_ahead": ("0", "5", "5.1"), "max_lag": ("1", "3600"),
    "overload": ("'drop'", "'skip'", "'none'"), "idle_after": ("0", "3600", "3600.1"),
}  # fmt: skip


class Arguments:
    """Calls the API with the shipped bundle, one step and two frames."""

    memory = 0
    noisy: tuple[bytes, ...] = ()

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def seeds(self) -> Sequence[Case]:
        return [Case(".json", json.dumps({"call": "config", "arguments": {}}).encode())]

    def make(self, chance: random.Random, seeds: Sequence[Case]) -> Case:
        call = chance.choice(list(CALLS))
        names = chance.sample(CALLS[call], min(len(CALLS[call]), chance.choice((1, 1, 1, 2, 3))))
        arguments = {name: _expression(chance, name) for name in names}
        if "rate" in arguments or "samples" in arguments:
            arguments.pop("audio", None)
        return Case(".json", json.dumps({"call": call, "arguments": arguments}).encode())

    def read(self, path: Path) -> None:
        content = json.loads(path.read_bytes())
        arguments = {name: self._value(text) for name, text in content["arguments"].items()}
        self._folder.mkdir(exist_ok=True)
        running = threading.active_count()
        try:
            getattr(self, f"_{content['call']}")(arguments)
        except (KeyError, TypeError):
            if "progress" not in content["arguments"]:  # exceptions of the caller's `progress` must pass through
                raise
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
        assert threading.active_count() <= running + 1, "threads were left behind"

    @staticmethod
    def _value(text: str) -> Any:
        from vexpress_rt.config import GenerationConfig, Settings

        if text.startswith(("GenerationConfig", "Settings")):
            return eval(text, {"GenerationConfig": GenerationConfig, "Settings": Settings})
        return value(text)

    @cached_property
    def _usual(self) -> Any:
        """Return the generator, a portrait and a configuration, created once."""
        import numpy as np

        from vexpress_rt import GenerationConfig, Generator

        generator = Generator(provider="cpu", threads=1)
        picture = np.full((64, 64, 3), 90, np.uint8)
        portrait = generator.prepare(picture, keypoints=[[20, 20], [40, 20], [30, 40]])
        return generator, portrait, GenerationConfig(steps=1, guidance_scale=1)

    def _config(self, arguments: dict[str, Any]) -> None:
        from vexpress_rt.config import GenerationConfig

        config = GenerationConfig(**arguments)
        repr(config)
        hash(config)
        self._usual[0].bundle.manifest.settings(config)
        assert config.rate is None or config.rate > 0

    def _generate_config(self, arguments: dict[str, Any]) -> None:
        from vexpress_rt.config import GenerationConfig

        steps = {} if "steps" in arguments else {"steps": 1}
        config = GenerationConfig(**{**steps, **arguments})
        if (config.steps or 25) <= 2:
            self._generate({"config": config})

    def _generator(self, arguments: dict[str, Any]) -> None:
        from vexpress_rt import Generator

        with Generator(**{"provider": "cpu", **arguments}) as generator:
            generator.describe()

    def _prepare(self, arguments: dict[str, Any]) -> None:
        import numpy as np

        source = arguments.pop("source", np.zeros((32, 48, 3), np.uint8))
        portrait = self._usual[0].prepare(source, **arguments)
        assert portrait.image.shape == (*self._usual[0].size, 3)

    def _generate(self, arguments: dict[str, Any]) -> None:
        import os

        import numpy as np

        generator, _, _ = self._usual
        before, where = os.getcwd(), self._folder
        where.mkdir(exist_ok=True)
        os.chdir(where)
        try:
            video = generator.generate(*self._inputs(arguments), **arguments)
        except BaseException:
            assert list(where.iterdir()) == [], "a failure left files"
            raise
        finally:
            os.chdir(before)
        assert (video.frames is None) == (video.path is not None and not arguments.get("keep_frames"))
        assert video.frames is None or np.asarray(video.frames).shape == (video.length, *generator.size, 3)

    def _stream(self, arguments: dict[str, Any]) -> None:
        with self._usual[0].stream(*self._inputs(arguments), **arguments) as stream:
            assert sum(1 for _ in stream) == stream.length

    def _live(self, arguments: dict[str, Any]) -> None:
        import numpy as np

        _, portrait, config = self._usual
        if arguments.get("config", config) is None:
            arguments.pop("config")  # the default takes ten seconds
        with self._usual[0].live(arguments.pop("portrait", portrait), **{"config": config, **arguments}) as session:
            session.push(np.zeros(session.sample_rate, np.float32))
            session.flush()
            assert all(frame.image.shape == (*self._usual[0].size, 3) for frame in session.frames())

    def _inputs(self, arguments: dict[str, Any]) -> tuple[Any, Any]:
        """Return portrait and sound, from the arguments where they are odd."""
        import numpy as np

        _, portrait, config = self._usual
        arguments.setdefault("config", config)
        sound = arguments.pop("samples", np.zeros(900, np.float32)), arguments.pop("rate", 16000)
        return arguments.pop("portrait", portrait), arguments.pop("audio", sound)

    def _track(self, arguments: dict[str, Any]) -> None:
        import numpy as np

        from vexpress_rt import KeypointTrack

        track = KeypointTrack(**{"points": np.full((4, 3, 2), 20, np.float32), **arguments})
        self._generate({"keypoints": track})

    def _recorded_track(self, arguments: dict[str, Any]) -> None:
        import numpy as np

        from vexpress_rt import KeypointTrack

        points = np.array([[[20, 20], [40, 20], [30, 40]]] * 4, np.float32)
        track = KeypointTrack(**{"points": points, **arguments})
        self._generate({"keypoints": track, "retarget": "naive_retarget"})


def _expression(chance: random.Random, name: str) -> str:
    special = _SPECIAL.get(name, ())
    if special and chance.random() < 0.3:
        return chance.choice(special)
    likely = name in ("samples", "audio", "keypoints", "depth", "source", "points", "noise", "image", "portrait")
    return chance.choice(ARRAYS if chance.random() < (0.7 if likely else 0.1) else ANY)
