"""The command line: arguments reordered, doubled, truncated or odd. An input is a JSON list of strings."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.robustness.cases import Case

_VALUES = (
    "", "0", "1", "-1", "1e999", "nan", "inf", "99999999999999999999", "30000/1001", "1/0", "٣", "512x512", "0x0",
    "10,10", "-5,3", "a,b", ",", "=",
    "--", "-", "--help", "\x1b[2J", "x" * 500, "photo.png", "speech.wav", "out.mp4", "out.txt", "no/such/file.png",
    "/dev/null", "/dev/zero", ".",
    "face", "none", "ddim", "unipc", "fast", "loop", "cpu", "auto", "tensorrt", "upstream", "step_major", "fix_face",
    "no_retarget", "0.2,0.8", "0.8,0.2",
    "%s%n", "\udc80", "é", "out.mkv", "points.npy", "{}", "$(true)", "file:photo.png",
)  # fmt: skip
_FLAGS = (
    "--engines", "--image", "--audio", "--output", "--keypoints", "--keypoints-size", "--image-keypoints", "--crop",
    "--depth", "--pose-weight", "--depth-weight",
    "--retarget", "--preset",
    "--steps", "--sampler", "--guidance-scale", "--guidance-interval", "--uncond-interval",
    "--reference-attention-weight",
    "--audio-attention-weight", "--fps", "--overlap", "--seed", "--median-filter", "--no-median-filter",
    "--extension", "--upstream-anchor",
    "--quality", "--noise", "--provider", "--rebuild", "--window-order", "--schedule",
    "--threads", "--share-weights", "--quiet",
    "--verify", "--json", "--version",
    "--reference_image_path", "--audio_path", "--kps_path", "--retarget_strategy", "--num_inference_steps", "--dtype",
    "--device", "--context-frames",
    "-h", "-q", "--unknown", "--fps=25", "--steps=1", "--crop=none",
)  # fmt: skip
_USUAL = ["generate", "--image", "photo.png", "--audio", "speech.wav", "--output", "out.mp4", "--steps", "1",
"--provider", "cpu",
          "--guidance-scale", "1", "--fps", "5", "--quiet"]  # fmt: skip


class Calls:
    """`vexpress_rt.__main__.main` in this process."""

    memory = 0
    noisy: tuple[bytes, ...] = ()

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def seeds(self) -> Sequence[Case]:
        plain = (
            _USUAL,
            ["inspect"],
            ["inspect", "--json"],
            ["inspect", "--verify"],
            ["generate", "--help"],
            ["--version"],
            [],
        )
        return [Case(".json", json.dumps(arguments).encode()) for arguments in plain]

    def make(self, chance: random.Random, seeds: Sequence[Case]) -> Case:
        arguments: list[str] = json.loads(chance.choice(seeds[:4] if chance.random() < 0.8 else seeds).content)
        for _ in range(chance.choice((1, 1, 2, 3, 6))):
            at, kind = chance.randrange(len(arguments) + 1), chance.randrange(6)
            if kind == 0 and arguments:
                del arguments[at % len(arguments)]
            elif kind == 1 and arguments:
                arguments[at % len(arguments)] = chance.choice(_VALUES)
            elif kind == 2:
                arguments[at:at] = [chance.choice(_FLAGS)]
            elif kind == 3 and arguments:
                chance.shuffle(arguments)
            else:
                arguments += [chance.choice(_FLAGS), chance.choice(_VALUES)]
        return Case(".json", json.dumps(arguments).encode())

    def read(self, path: Path) -> None:
        from vexpress_rt.__main__ import main
        from vexpress_rt.errors import InputError

        arguments = json.loads(path.read_bytes())
        self._lay()
        given, before = set(os.listdir(self._folder)), os.getcwd()
        os.chdir(self._folder)
        said = os.fstat(2).st_size
        try:
            code = main(arguments)
        finally:
            os.chdir(before)
            left = sorted(set(os.listdir(self._folder)) - given)
            text = _take_back(said)
        assert "Traceback" not in text, text[-500:]
        assert code in (0, 1, 128 + 13), f"exit code {code}"
        assert code == 0 or text.strip(), "an error without a word"
        for name in left:
            assert code == 0, f"a failure left {name}"
            (self._folder / name).unlink()
        if code:
            raise InputError(text.strip())

    def _lay(self) -> None:
        """Write the photo, speech and keypoints that commands name."""
        import numpy as np
        from PIL import Image

        from tests.robustness.readers.sounds import written

        if self._folder.exists() and (self._folder / "points.npy").exists():
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(self._folder / "photo.png")
        (self._folder / "speech.wav").write_bytes(written("wav", ".wav", "pcm_s16le", 16000, "mono", 0.3))
        np.save(self._folder / "points.npy", np.array([[[40, 40], [80, 40], [60, 80]]] * 3, np.float32))


def _take_back(start: int) -> str:
    """Return and remove the output on stderr since `start`, because messages of the command are not failures."""
    import sys

    sys.stderr.flush()
    with open(f"/proc/self/fd/{2}", "rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    os.truncate(2, start)
    return text
