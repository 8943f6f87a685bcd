"""A small face detector with the inputs and outputs of SCRFD's det_10g.onnx, trained on drawn faces.

Its faces are 60 to 500 pixels high in 512 x 512. One network looks at the picture in three sizes, so that each stride
sees faces of the same sizes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from export.onnx.graph import Graph
from export.onnx.lower import lower
from export.onnx.trace import generalise, trace
from export.pocket.pretraining import Place
from export.pocket.runs import Schedule, train
from export.pocket.snapshots import Pick, Portrait, Snapshot, draw_portrait, snapshot
from vexpress_rt.bundle.engine_spec import TensorSpec
from vexpress_rt.face.detector import detect

STRIDES = (8, 16, 32)
ANCHORS = 2  # a cell
CELL = 4  # pixels of what the network looks at: the picture divided by stride / CELL
HEIGHTS = (30.0, 60.0)  # of the faces it is to find there, pixels: an octave, half of it for each anchor

DETECTOR = Schedule(steps=3000, rate=2e-3, average=0.995, report_every=50)
PEOPLE = range(800)
HELD_OUT = range(1_000_000, 1_000_024)
CANVASES = ((64, 16), (128, 4))  # pixels of a side, and how many such pictures are a part of a batch

# Of a face as most are, from its nose and in shares of its height: left, top, right, bottom; eyes, nose, mouth.
_BOX = (0.41, 0.61, 0.41, 0.39)
_POINTS = (-0.175, -0.2, 0.175, -0.2, 0, 0, -0.155, 0.15, 0.155, 0.15)
_WEIGHTS = (0.5,) * 4 + (2.0,) * 6 + (1.0,) * 4  # of errors of box, eyes and nose, mouth


class _Block(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.relu(x))


class _Look(nn.Module):
    """(N, 3, H, W) -> logits (N, ANCHORS, h, w), boxes (N, 4 ANCHORS, h, w), points (N, 10 ANCHORS, h, w).

    h = H / CELL, w = W / CELL; all in cells.
    """

    def __init__(self, channels: int = 32, dilations: Sequence[int] = (1, 2, 4, 2, 1)) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.second = nn.Conv2d(16, channels, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(_Block(channels, dilation) for dilation in dilations))
        self.mix = nn.Conv2d(channels, channels, 1)
        self.scores = nn.Conv2d(channels, ANCHORS, 1)
        self.boxes = nn.Conv2d(channels, ANCHORS * 4, 1)
        self.points = nn.Conv2d(channels, ANCHORS * 10, 1)
        heights = _anchor_heights()[:, None] / CELL
        with torch.no_grad():
            self.scores.bias.fill_(-4.0)
            self.boxes.bias.copy_((heights * torch.tensor(_BOX)).flatten())
            self.points.bias.copy_((heights * torch.tensor(_POINTS)).flatten())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.blocks(self.second(F.relu(self.first(x))))
        x = F.relu(self.mix(F.relu(x)))
        return self.scores(x), self.boxes(x), self.points(x)


class FaceDetector(nn.Module):
    """(1, 3, H, W) RGB, (x - 127.5) / 128, H and W multiples of 32 -> nine outputs; see `face.detector`."""

    def __init__(self) -> None:
        super().__init__()
        self.look = _Look()

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        found = []
        for _ in STRIDES:
            picture = F.avg_pool2d(picture, 2)
            maps = self.look(picture)
            rows = [m.permute(0, 2, 3, 1).reshape(-1, m.shape[1] // ANCHORS) for m in maps]
            found.append([torch.sigmoid(rows[0]), rows[1], rows[2]])
        return tuple(level[kind] for kind in range(3) for level in found)


def _anchor_heights() -> Tensor:
    """Of the faces in the middle of each anchor's range, pixels, (ANCHORS,)."""
    low, high = HEIGHTS
    middles = (torch.arange(ANCHORS) + 0.5) / ANCHORS
    return low * (high / low) ** middles


def targets(shot: Snapshot) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """What the network should find: scores (ANCHORS, h, w), their weights likewise, box and points (14, h, w) in cells.

    A face is found by the cells next to its nose and the anchors next to its height.
    """
    cells = len(shot.image) // CELL
    scores, values = np.zeros((ANCHORS, cells, cells), np.float32), np.zeros((14, cells, cells), np.float32)
    weights = np.ones_like(scores)
    if shot.face is None:
        return scores, weights, values
    box, points = shot.face.box / CELL, shot.face.points / CELL
    y, x = np.mgrid[:cells, :cells].astype(np.float32)
    distance = np.hypot(x - points[2, 0], y - points[2, 1])
    octaves = abs(np.log2((box[3] - box[1]) * CELL / _anchor_heights().numpy())) * ANCHORS
    near = np.clip(1.6 - distance, 0, 1) * np.clip(1.5 - octaves, 0, 1)[:, None, None]
    if not shot.face.whole:  # whether that is a face is a matter of taste
        return scores, np.where(near > 0, np.float32(0), weights), values
    sides = [x - box[0], y - box[1], box[2] - x, box[3] - y]
    return near, weights, np.stack(sides + [place for px, py in points for place in (px - x, py - y)])


def detector_loss(module: FaceDetector, pick: Pick, part: int) -> Tensor:
    """Of a part of a batch. Canvases are of two sizes, so that the network does not count on a picture's edges."""
    rng = np.random.default_rng((part, 9))
    side, count = CANVASES[part % len(CANVASES)]
    shots = [snapshot(pick, rng, side, HEIGHTS) for _ in range(count)]
    images = torch.from_numpy(np.stack([shot.image for shot in shots])).permute(0, 3, 1, 2)
    logits, boxes, points = module.look((images.float() - 127.5) / 128)
    wanted, weights, values = (torch.from_numpy(np.stack(parts)) for parts in zip(*map(targets, shots), strict=True))
    faces = wanted.sum().clamp(min=1)
    doubt = (wanted - torch.sigmoid(logits)).square()
    scored = (F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * doubt * weights).sum()
    shape = (count, ANCHORS, -1, *boxes.shape[2:])
    found = torch.cat([boxes.reshape(shape), points.reshape(shape)], dim=2)
    off = ((found - values[:, None]).abs() * torch.tensor(_WEIGHTS)[:, None, None]).mean(dim=2)
    return (scored + (off * wanted).sum()) / faces


def train_detector(place: Place, schedule: Schedule, people: Sequence[int] = PEOPLE) -> nn.Module:
    """Train on drawings of `people`; the state is detector.pt of the run."""
    drawn = lru_cache(maxsize=None)(draw_portrait)

    def loss(module: FaceDetector, part: int) -> Tensor:
        return detector_loss(module, lambda rng: drawn(people[int(rng.integers(len(people)))]), part)

    def sample(mean: FaceDetector, step: int) -> None:
        place.report(f"detector: step {step}, {measure(mean, map(drawn, HELD_OUT))} held out")

    torch.manual_seed(0)
    state = place.run / "detector.pt"
    return train(FaceDetector(), loss, schedule, state, place.report, sample, place.deadline, place.threads)


def measure(module: nn.Module, portraits: Iterable[Portrait]) -> str:
    """What the runtime makes of the outputs for whole portraits of 128 x 128 pixels, and for what is behind them."""

    def outputs(blob: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        with torch.no_grad():
            return [output.numpy() for output in module(torch.from_numpy(blob))]

    errors, count, false = [], 0, 0
    for portrait in portraits:
        image, nose = portrait.levels[1], portrait.points[2] / 2
        faces = detect(outputs, image)
        errors += [float(np.hypot(*(face.keypoints[2] - nose))) / len(image) for face in faces[:1]]
        false += len(faces[1:]) + len(detect(outputs, portrait.backdrop))
        count += 1
    off = f"noses {100 * np.median(errors):.2f} % of the width off" if errors else "no nose"
    return f"{len(errors)} of {count} faces, {off}, {false} false faces"


def write_detector(module: nn.Module, path: Path) -> None:
    """Write the ONNX file, its weights rounded to float16.

    Input `input.1`, then scores (N, 1), boxes (N, 4) and keypoints (N, 10), each for the three strides.
    """
    graph = Graph()
    graph.declare(TensorSpec("input.1", ("1", "3", "H", "W"), (1, 3, None, None), "float32"), output=False)
    names = [f"{kind}_{stride}" for kind in ("scores", "boxes", "keypoints") for stride in STRIDES]
    for name, width in zip(names, (1, 1, 1, 4, 4, 4, 10, 10, 10), strict=True):
        graph.declare(TensorSpec(name, (f"n_{name}", str(width)), (None, width), "float32"), output=True)
    rounded = copy.deepcopy(module).half().float()
    one, other = (trace(rounded, [("input.1", (1, 3, *size), torch.float32)]) for size in ((512, 512), (320, 640)))
    lower(generalise(one, other), graph, names)
    graph.write(path, None, compact=True)
