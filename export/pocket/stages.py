"""The three stages of V-Express (arXiv 2406.02511, section 3.3): what is trained in each, on what, and what is dropped.

The photo and the keypoints are strong signals, the voice is a weak one: so they are dropped more and more often while
the voice is learned, each alone and all together, the last for guidance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.pocket.architecture import SIZE, WINDOW
from export.pocket.diffusion import ALPHAS, noised
from export.pocket.material import Material
from export.pocket.model import Batch, Trainee
from vexpress_rt.face.keypoints import draw_keypoints

NONE = 0.1  # share of windows that see no condition at all
MOUTH_REACH = 0.09  # of what counts more in the loss, in shares of the picture's side


@dataclass(frozen=True)
class Stage:
    """What a stage trains and sees.

    parts: patterns of the names of parameters that are trained.
    people, frames: of a part of a batch.  clips: frames are a window's, in order, else any pictures of that person.
    heard: whether there is a voice, and motion.
    drop_photo, drop_pose: shares of windows without, from the stage's beginning to its end.
    mouth: weight of the loss at the mouth.
    """

    name: str
    parts: tuple[str, ...]
    people: int
    frames: int
    clips: bool
    heard: bool
    drop_photo: tuple[float, float]
    drop_pose: tuple[float, float]
    mouth: float

    def keep(self, rng: np.random.Generator, progress: float) -> Tensor:
        """(people, 3) of 0 and 1: photo, keypoints, voice; progress: 0 to 1."""
        shares = [start + (end - start) * progress for start, end in (self.drop_photo, self.drop_pose, (0.05, 0.05))]
        kept = (rng.random((self.people, 3)) >= shares) & (rng.random((self.people, 1)) >= NONE)
        return torch.from_numpy(kept.astype(np.float32))

    def keeping_strong(self) -> Stage:
        """The same without the dropout that balances the signals; all together are dropped as before, for guidance."""
        return replace(self, drop_photo=(0.0, 0.0), drop_pose=(0.0, 0.0))

    def prepare(self, module: nn.Module) -> None:
        """Let gradients reach what is trained, and nothing else."""
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(any(fnmatchcase(name, part) for part in self.parts))


_SEEING = ("reference_net.*", "denoising_unet.*", "v_kps_guider.*")
_HEARING = (
    "audio_projection.*",
    "denoising_unet.*.transformer_blocks.0.attn2.*",
    "denoising_unet.*.transformer_blocks.0.norm2.*",
    "denoising_unet.*.motion_modules.*",
)
SINGLE = Stage("single", _SEEING, 4, 4, False, False, (0.0, 0.1), (0.0, 0.1), 3.0)
VOICE = Stage("voice", _HEARING, 2, WINDOW, True, True, (0.0, 0.2), (0.0, 0.3), 12.0)
ALL = Stage("all", ("*",), 2, WINDOW, True, True, (0.1, 0.25), (0.1, 0.35), 8.0)
STAGES = {stage.name: stage for stage in (SINGLE, VOICE, ALL)}


def stage_loss(module: Trainee, stage: Stage, material: Material, step: int, progress: float) -> Tensor:
    """The loss of one batch, drawn by `step`."""
    rng, generator = np.random.default_rng((step, 7)), torch.Generator().manual_seed(step)
    people = rng.integers(len(material.latents), size=stage.people)
    pictures = _pictures(stage, material, rng)
    clean = torch.from_numpy(material.latents[people[:, None], pictures].astype(np.float32))
    points = material.keypoints[people[:, None], pictures]
    photo = _photos(material, pictures, rng)
    # A window is denoised as a whole, single pictures each for itself.
    shape = (stage.people, 1 if stage.clips else stage.frames)
    timesteps = torch.from_numpy(rng.integers(len(ALPHAS), size=shape)).expand(stage.people, stage.frames)
    noisy, wanted, weight = noised(clean.flatten(0, 1), timesteps.flatten(), generator)
    batch = Batch(
        noisy=noisy.reshape(clean.shape),
        timesteps=timesteps,
        reference=torch.from_numpy(material.latents[people, photo].astype(np.float32)),
        drawings=drawings(points),
        rows=heard(material, people) if stage.heard else None,
        keep=stage.keep(rng, progress),
    )
    error = (module(batch, motion=stage.heard).flatten(0, 1) - wanted).square()
    around = mouth_weights(points.reshape(-1, 3, 2), clean.shape[-1], stage.mouth)
    return (error.mean(dim=1) * around * weight[:, None, None]).mean()


def drawings(points: NDArray[np.float32]) -> Tensor:
    """(P, T, 3, 2) pixels -> (P, T, 3, H, W) in [0, 1], as the guider is given them."""
    drawn = np.stack([draw_keypoints(each, SIZE, SIZE) for each in points.reshape(-1, 3, 2)])
    pictures = torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255
    return pictures.reshape(*points.shape[:2], 3, SIZE, SIZE)


def mouth_weights(points: NDArray[np.float32], side: int, most: float) -> Tensor:
    """(N, 3, 2) pixels -> (N, side, side) of mean 1: how much each latent's error counts, `most` times as much."""
    eyes, nose = points[:, :2].mean(axis=1), points[:, 2]
    mouth = (nose + 0.85 * (nose - eyes)) * (side / SIZE) - 0.5
    y, x = np.mgrid[:side, :side]
    squares = (x - mouth[:, 0, None, None]) ** 2 + (y - mouth[:, 1, None, None]) ** 2
    weights = 1 + (most - 1) * np.exp(-squares / (2 * (MOUTH_REACH * side) ** 2))
    return torch.from_numpy((weights / weights.mean(axis=(1, 2), keepdims=True)).astype(np.float32))


def _pictures(stage: Stage, material: Material, rng: np.random.Generator) -> NDArray[np.int64]:
    """(people, frames): which pictures of each person."""
    if stage.clips:
        return np.tile(np.arange(WINDOW), (stage.people, 1))
    count = material.latents.shape[1]
    return np.stack([rng.permutation(count)[: stage.frames] for _ in range(stage.people)])


def _photos(material: Material, pictures: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """(people,): the photo of each, which none of the frames is where that can be."""
    every = np.arange(material.latents.shape[1])
    return np.array([rng.choice(np.setdiff1d(every, shown)) for shown in pictures])


def heard(material: Material, people: NDArray[np.int64]) -> Tensor:
    """(people, WINDOW, R, A): what is heard in each person's clip."""
    rows = [material.rows[recording, first : first + WINDOW] for recording, first in material.speech[people]]
    return torch.from_numpy(np.stack(rows).astype(np.float32))
