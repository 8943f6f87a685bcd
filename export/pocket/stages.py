"""The three training stages of V-Express (arXiv 2406.02511, section 3.3), and their loss.

The photo and the keypoints are strong conditions, the audio is a weak one. While the audio layers are trained, a strong
condition is dropped alone, more and more often, so that the model learns to use the weak one. All conditions are
dropped together for classifier-free guidance.
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
from export.pocket.encoded_data import EncodedData
from export.pocket.model import Batch, TrainingModel
from vexpress_rt.face.keypoint_map import draw_keypoint_map

DROP_ALL = 0.1  # probability that all conditions are dropped
MOUTH_REACH = 0.09  # standard deviation of the larger weights at the mouth, over the image's side


@dataclass(frozen=True)
class Stage:
    """A stage of the training.

    Attributes:
        name: Name of the stage and of its state.
        trained: Patterns of the names of the trained parameters.
        people: People in a part of a batch.
        frames: Frames of each person.
        clips: Whether the frames are a window in order, or random images of the person.
        audio: Whether there is audio, and motion modules are active.
        drop_photo: Probability of dropping the photo at the beginning and at the end of the stage.
        drop_pose: The same for the keypoints.
        mouth: Largest weight of the loss at the mouth; the weight elsewhere is 1.
    """

    name: str
    trained: tuple[str, ...]
    people: int
    frames: int
    clips: bool
    audio: bool
    drop_photo: tuple[float, float]
    drop_pose: tuple[float, float]
    mouth: float

    def keep(self, rng: np.random.Generator, progress: float) -> Tensor:
        """Draw which conditions to keep.

        Args:
            rng: Random generator.
            progress: Progress of the stage, 0 to 1.

        Returns:
            0 or 1 for photo, keypoints and audio, (people, 3) float32.
        """
        shares = [start + (end - start) * progress for start, end in (self.drop_photo, self.drop_pose, (0.05, 0.05))]
        kept = (rng.random((self.people, 3)) >= shares) & (rng.random((self.people, 1)) >= DROP_ALL)
        return torch.from_numpy(kept.astype(np.float32))

    def without_condition_dropout(self) -> Stage:
        """Return the stage without dropout of single conditions; all together are still dropped, for guidance."""
        return replace(self, drop_photo=(0.0, 0.0), drop_pose=(0.0, 0.0))

    def prepare(self, module: nn.Module) -> None:
        """Require gradients of the trained parameters, and of no others.

        Args:
            module: The model.
        """
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in self.trained))


_VISUAL = ("reference_net.*", "denoising_unet.*", "v_kps_guider.*")
_AUDIO = (
    "audio_projection.*",
    "denoising_unet.*.transformer_blocks.0.attn2.*",
    "denoising_unet.*.transformer_blocks.0.norm2.*",
    "denoising_unet.*.motion_modules.*",
)
SINGLE = Stage("single", _VISUAL, 4, 4, False, False, (0.0, 0.1), (0.0, 0.1), 3.0)
VOICE = Stage("voice", _AUDIO, 2, WINDOW, True, True, (0.0, 0.2), (0.0, 0.3), 12.0)
ALL = Stage("all", ("*",), 2, WINDOW, True, True, (0.1, 0.25), (0.1, 0.35), 8.0)
STAGES = {stage.name: stage for stage in (SINGLE, VOICE, ALL)}


def stage_loss(module: TrainingModel, stage: Stage, data: EncodedData, step: int, progress: float) -> Tensor:
    """Compute the loss of a part of a batch.

    Args:
        module: The model.
        stage: The stage.
        data: The training data.
        step: Number of the part, the seed of its random numbers.
        progress: Progress of the stage, 0 to 1.

    Returns:
        The loss, scalar.
    """
    rng, generator = np.random.default_rng((step, 7)), torch.Generator().manual_seed(step)
    people = rng.integers(len(data.latents), size=stage.people)
    pictures = _pictures(stage, data, rng)
    clean = torch.from_numpy(data.latents[people[:, None], pictures].astype(np.float32))
    points = data.keypoints[people[:, None], pictures]
    photo = _photos(data, pictures, rng)
    # All frames of a window have the same timestep, single images have different ones.
    shape = (stage.people, 1 if stage.clips else stage.frames)
    timesteps = torch.from_numpy(rng.integers(len(ALPHAS), size=shape)).expand(stage.people, stage.frames)
    noisy, expected, weight = noised(clean.flatten(0, 1), timesteps.flatten(), generator)
    batch = Batch(
        noisy=noisy.reshape(clean.shape),
        timesteps=timesteps,
        reference=torch.from_numpy(data.latents[people, photo].astype(np.float32)),
        keypoint_maps=keypoint_maps(points),
        features=audio_features(data, people) if stage.audio else None,
        keep=stage.keep(rng, progress),
    )
    error = (module(batch, motion=stage.audio).flatten(0, 1) - expected).square()
    around = mouth_weights(points.reshape(-1, 3, 2), clean.shape[-1], stage.mouth)
    return (error.mean(dim=1) * around * weight[:, None, None]).mean()


def keypoint_maps(points: NDArray[np.float32]) -> Tensor:
    """Draw keypoint maps like the runtime.

    Args:
        points: (P, T, 3, 2), pixels.

    Returns:
        (P, T, 3, H, W) in [0, 1].
    """
    drawn = np.stack([draw_keypoint_map(each, SIZE, SIZE) for each in points.reshape(-1, 3, 2)])
    pictures = torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255
    return pictures.reshape(*points.shape[:2], 3, SIZE, SIZE)


def mouth_weights(points: NDArray[np.float32], side: int, most: float) -> Tensor:
    """Return the weights of the latents' errors, which are larger at the mouth.

    Args:
        points: Keypoints, (N, 3, 2), pixels.
        side: Height and width of a latent.
        most: Largest weight over the smallest one.

    Returns:
        (N, side, side) float32 of mean 1.
    """
    eyes, nose = points[:, :2].mean(axis=1), points[:, 2]
    mouth = (nose + 0.85 * (nose - eyes)) * (side / SIZE) - 0.5
    y, x = np.mgrid[:side, :side]
    squares = (x - mouth[:, 0, None, None]) ** 2 + (y - mouth[:, 1, None, None]) ** 2
    weights = 1 + (most - 1) * np.exp(-squares / (2 * (MOUTH_REACH * side) ** 2))
    return torch.from_numpy((weights / weights.mean(axis=(1, 2), keepdims=True)).astype(np.float32))


def _pictures(stage: Stage, data: EncodedData, rng: np.random.Generator) -> NDArray[np.int64]:
    """Choose the images of each person, (people, frames)."""
    if stage.clips:
        return np.tile(np.arange(WINDOW), (stage.people, 1))
    count = data.latents.shape[1]
    return np.stack([rng.permutation(count)[: stage.frames] for _ in range(stage.people)])


def _photos(data: EncodedData, pictures: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Choose the photo of each person among the other images, (people,)."""
    every = np.arange(data.latents.shape[1])
    return np.array([rng.choice(np.setdiff1d(every, shown)) for shown in pictures])


def audio_features(data: EncodedData, people: NDArray[np.int64]) -> Tensor:
    """Return the audio features of the people's clips.

    Args:
        data: The training data.
        people: Indices, (people,).

    Returns:
        (people, WINDOW, R, A) float32.
    """
    rows = [data.features[recording, first : first + WINDOW] for recording, first in data.speech[people]]
    return torch.from_numpy(np.stack(rows).astype(np.float32))
