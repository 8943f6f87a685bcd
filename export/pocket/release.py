"""Write the trained model as a checkpoint directory in the official layout, which `export.build` reads.

python -m export.pocket.release --run build/pocket/run --output build/pocket/checkpoint
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from export.checkpoint.reader import UNUSED_AUDIO_TENSORS
from export.checkpoint.writer import Shapes, write_checkpoint
from export.command import print_progress, run
from export.pocket.architecture import FPS, POCKET
from export.pocket.detector import FaceDetector, write_detector
from export.pocket.encoded_data import latent_std
from export.pocket.pretraining import RunContext, mean_weights

# Component of the checkpoint -> the state of the stage that trained it last, and the prefix of its names there. Guiders
# that the architecture lacks are not written.
ORIGINS = {
    "reference_net": ("all", "reference_net."),
    "denoising_unet": ("all", "denoising_unet."),
    "v_kps_guider": ("all", "v_kps_guider."),
    "depth_guider": ("all", "depth_guider."),
    "audio_projection": ("all", "audio_projection."),
    "vae": ("decoder", ""),
    "audio_encoder": ("hearing", "audio_encoder."),
}
RECOMMENDED = {
    "steps": 10, "sampler": "unipc", "guidance_scale": 2.5, "reference_attention_weight": 1.0,
    "audio_attention_weight": 2.0, "fps": FPS, "overlap": 4,
}  # fmt: skip
RECOMMENDED_LIVE = {"steps": 4, "guidance_scale": 1.0}
VAE_PARTS = ("vae_encoder.", "vae_decoder.")


def release(context: RunContext, folder: Path) -> None:
    """Write the checkpoint. Weights are rounded to float16, tables of positions are not.

    Args:
        context: The training run.
        folder: The directory to write, which appears when it is complete. It may exist if it is empty.

    Raises:
        CheckpointError: `folder` exists and is not empty, or a state is missing.
        OutputError: The directory cannot be written.
    """
    vae = replace(POCKET.vae, scaling_factor=1 / latent_std(context))
    architecture = replace(POCKET, vae=vae, recommended=RECOMMENDED, recommended_live=RECOMMENDED_LIVE)
    module = FaceDetector()
    module.load_state_dict(mean_weights(context.run / "detector.pt"))
    write_checkpoint(
        folder, architecture, partial(_tensors, context.run), partial(write_detector, module.eval()), context.report
    )


def _tensors(states: Path, component: str, shapes: Shapes) -> dict[str, Tensor]:
    stage, prefix = ORIGINS[component]
    weights = mean_weights(states / f"{stage}.pt")
    if component == "vae":
        weights = {name.removeprefix(part): value for part in VAE_PARTS for name, value in weights.items()
                   if name.startswith(part)}  # fmt: skip
    return {name: _rounded(name, weights[prefix + name]) for name in shapes if name not in UNUSED_AUDIO_TENSORS}


def _rounded(name: str, value: Tensor) -> Tensor:
    return value if name.endswith(".pe") else value.to(torch.float16)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Command-line arguments; None for those of the process.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description="Write the trained pocket model as a checkpoint directory.")
    parser.add_argument("--data", type=Path, default=Path("build/pocket/data"))
    parser.add_argument("--run", type=Path, default=Path("build/pocket/run"))
    parser.add_argument("--output", type=Path, default=Path("build/pocket/checkpoint"))
    given = parser.parse_args(arguments)
    return run(lambda: release(RunContext(given.data, given.run, print_progress), given.output))


if __name__ == "__main__":
    raise SystemExit(main())
