"""Builds of the micro model: options, reported lines, and changes to their inputs and outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from export.build.options import BuildOptions
from export.checkpoint.layout import OWN_CONFIG
from vexpress_rt.bundle.engine_spec import VideoShape


def options(*engines: str, frames: int = 3, precision: str = "fp32") -> BuildOptions:
    return BuildOptions(VideoShape(16, 24, frames), precision, engines=engines)


class Log(list[str]):
    """The lines that a build reports. `made` and `kept` are names of engines.

    Args:
        at: Text of a line after which `then` is called.
        then: Called after that line.
    """

    def __init__(self, at: str = "", then: Callable[[], None] = lambda: None):
        super().__init__()
        self.at, self.then = at, then

    def __call__(self, line: str) -> None:
        self.append(line)
        if self.at and self.at in line:
            self.then()

    def engines(self, what: str) -> list[str]:
        return [line.split()[1].rstrip(":") for line in self if line.startswith("[") and line.endswith(what)]

    @property
    def made(self) -> list[str]:
        return self.engines("exporting")

    @property
    def kept(self) -> list[str]:
        return self.engines("unchanged")


def flip(path: Path) -> None:
    """Change one bit in the middle of a file, which keeps its size."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


def change(path: Path) -> None:
    """Change the weights or settings of a file, but not their sizes."""
    if path.suffix == ".json":
        path.write_text(
            json.dumps(json.loads(path.read_text()) | ({} if path.match(OWN_CONFIG) else {"note": 1})) + " "
        )
    elif path.suffix == ".onnx":
        path.write_bytes(path.read_bytes() + b"\n")
    elif path.suffix == ".safetensors":
        save_file({name: value * 1.5 for name, value in load_file(path).items()}, path)
    else:
        torch.save({name: value * 1.5 for name, value in torch.load(path, weights_only=True).items()}, path)
