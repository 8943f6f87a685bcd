"""A small face detector with the inputs and outputs of SCRFD's det_10g.onnx, trained on drawn faces.

It finds faces of 60 to 500 pixels in 512 x 512. The same network is applied to the image in three sizes, so that the
faces for each stride have the same sizes.
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
from export.pocket.pretraining import RunContext
from export.pocket.snapshots import Pick, Portrait, Snapshot, draw_portrait, snapshot
from export.pocket.training_loop import TrainingSchedule, train
from vexpress_rt.bundle.engine_spec import TensorSpec
from vexpress_rt.face.detector import detect

STRIDES = (8, 16, 32)
ANCHORS = 2  # per cell
CELL = 4  # pixels of the network's input, which is the image scaled down by stride / CELL
HEIGHTS = (30.0, 60.0)  # pixels of the smallest and the largest face in that input; each anchor takes half the octave

DETECTOR = TrainingSchedule(steps=3000, learning_rate=2e-3, ema_decay=0.995, report_every=50)
PEOPLE = range(800)
HELD_OUT = range(1_000_000, 1_000_024)
CANVASES = ((64, 16), (128, 4))  # side in pixels, and number of such images in a part of a batch

# An average face relative to its nose, in shares of its height: left, top, right, bottom; eyes, nose, mouth corners.
_BOX = (0.41, 0.61, 0.41, 0.39)
_POINTS = (-0.175, -0.2, 0.175, -0.2, 0, 0, -0.155, 0.15, 0.155, 0.15)
_WEIGHTS = (0.5,) * 4 + (2.0,) * 6 + (1.0,) * 4  # of the errors of box, eyes and nose, mouth


class _Block(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.relu(x))


class _Network(nn.Module):
    """Image (N, 3, H, W) -> logits (N, ANCHORS, h, w), boxes (N, 4 ANCHORS, h, w), points (N, 10 ANCHORS, h, w).

    Boxes and points are in cells; h = H / CELL, w = W / CELL.
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
    """Image (1, 3, H, W) RGB, (x - 127.5) / 128 -> nine outputs; see `vexpress_rt.face.detector`.

    H and W are multiples of 32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.look = _Network()

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        """Compute the nine outputs: scores (N, 1), boxes (N, 4) and keypoints (N, 10), each for three strides."""
        found = []
        for _ in STRIDES:
            picture = F.avg_pool2d(picture, 2)
            maps = self.look(picture)
            rows = [m.permute(0, 2, 3, 1).reshape(-1, m.shape[1] // ANCHORS) for m in maps]
            found.append([torch.sigmoid(rows[0]), rows[1], rows[2]])
        return tuple(level[kind] for kind in range(3) for level in found)


def _anchor_heights() -> Tensor:
    """Return the face height in the middle of each anchor's range, pixels, (ANCHORS,)."""
    low, high = HEIGHTS
    middles = (torch.arange(ANCHORS) + 0.5) / ANCHORS
    return low * (high / low) ** middles


def targets(shot: Snapshot) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return the expected outputs of the network.

    The cells nearest to a face's nose and the anchors nearest to its height detect the face.

    Args:
        shot: An image with at most one face.

    Returns:
        Scores (ANCHORS, h, w), the weights of their errors (ANCHORS, h, w), and box and points (14, h, w) in cells.
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
    if not shot.face.whole:  # neither a face nor background
        return scores, np.where(near > 0, np.float32(0), weights), values
    sides = [x - box[0], y - box[1], box[2] - x, box[3] - y]
    return near, weights, np.stack(sides + [offset for px, py in points for offset in (px - x, py - y)])


def detector_loss(module: FaceDetector, pick: Pick, part: int) -> Tensor:
    """Compute the loss of a part of a batch.

    There are images of two sizes, so that the network does not depend on the position of the borders.

    Args:
        module: The detector.
        pick: Draws a random portrait.
        part: Number of the part, the seed of its images.

    Returns:
        The loss, scalar.
    """
    rng = np.random.default_rng((part, 9))
    side, count = CANVASES[part % len(CANVASES)]
    shots = [snapshot(pick, rng, side, HEIGHTS) for _ in range(count)]
    images = torch.from_numpy(np.stack([shot.image for shot in shots])).permute(0, 3, 1, 2)
    logits, boxes, points = module.look((images.float() - 127.5) / 128)
    expected, weights, values = (torch.from_numpy(np.stack(parts)) for parts in zip(*map(targets, shots), strict=True))
    faces = expected.sum().clamp(min=1)
    focus = (expected - torch.sigmoid(logits)).square()  # quality focal loss (Li et al., arXiv 2006.04388)
    score_loss = (F.binary_cross_entropy_with_logits(logits, expected, reduction="none") * focus * weights).sum()
    shape = (count, ANCHORS, -1, *boxes.shape[2:])
    found = torch.cat([boxes.reshape(shape), points.reshape(shape)], dim=2)
    errors = ((found - values[:, None]).abs() * torch.tensor(_WEIGHTS)[:, None, None]).mean(dim=2)
    return (score_loss + (errors * expected).sum()) / faces


def train_detector(context: RunContext, schedule: TrainingSchedule, people: Sequence[int] = PEOPLE) -> nn.Module:
    """Train the detector. Its state is detector.pt of the run.

    Args:
        context: The training run.
        schedule: Training schedule.
        people: Seeds of the people to draw.

    Returns:
        The `FaceDetector` with the running mean of its weights.
    """
    drawn = lru_cache(maxsize=None)(draw_portrait)

    def loss(module: FaceDetector, part: int) -> Tensor:
        seed = context.part_seed(part)
        return detector_loss(module, lambda rng: drawn(people[int(rng.integers(len(people)))]), seed)

    def sample(mean: FaceDetector, step: int) -> None:
        context.report(f"detector: step {step}, {measure(mean, map(drawn, HELD_OUT))} held out")

    torch.manual_seed(context.seed)
    state = context.run / "detector.pt"
    return train(FaceDetector(), loss, schedule, state, context.report, sample, context.deadline, context.threads)


def measure(module: nn.Module, portraits: Iterable[Portrait]) -> str:
    """Describe the faces that the runtime detects in portraits of 128 x 128 pixels and in their backgrounds.

    Args:
        module: The detector.
        portraits: Drawn portraits.

    Returns:
        Number of detected faces, median error of the noses, and number of false faces, in words.
    """

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
    """Write the ONNX file, with weights rounded to float16.

    Its input is `input.1`; its outputs are scores (N, 1), boxes (N, 4) and keypoints (N, 10), each for three strides.

    Args:
        module: The detector.
        path: The file.
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
