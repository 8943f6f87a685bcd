"""Compare the file of a video with its frames."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np

from benchmarks.gpu.compare import psnr
from vexpress_rt.config import GenerationConfig
from vexpress_rt.media.video_writer import VideoWriter
from vexpress_rt.native.nv12 import rgb_to_nv12_numpy
from vexpress_rt.types import UInt8, Video

# Allowed loss in dB against a file of the same frames whose colours FFmpeg converts. A fixed limit would not work:
# H.264 reaches 32 dB for noise, 37 dB for the tiny networks' frames and 44 dB for the scene's photo, with the kernel's
# colours as with FFmpeg's. Swapped chroma, chroma shifted by a column, luma shifted by a row, a wrong range or matrix,
# or a surplus frame costs 4 to 19 dB in the networks' frames.
MOST_LOST = 1.0


def compare_file(path: Path, kept: Video, config: GenerationConfig) -> dict[str, float]:
    """Return the PSNR of a written video against its frames.

    Colours are compared in NV12, as in the file: in RGB, the loss by halved chroma would hide other faults.

    Args:
        path: File of the video.
        kept: The same video, with frames (L, H, W, 3) uint8.
        config: Configuration of the video.

    Returns:
        `psnr` in dB, and `psnr_by_host` in dB of a file that the host converts and encodes.

    Raises:
        ValueError: The file differs in the number or size of frames.
    """
    frames = kept.frames
    assert frames is not None
    expected = np.stack([rgb_to_nv12_numpy(frame) for frame in frames])
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".by-host-") as folder:
        again = Path(folder) / path.name
        with VideoWriter(again, frames.shape[1:3], kept.fps, None, config.quality) as writer:
            for frame in frames:
                writer.write(frame)
        return {"psnr": psnr(read_nv12(path), expected), "psnr_by_host": psnr(read_nv12(again), expected)}


def read_nv12(path: Path) -> UInt8:
    """Return the pictures of a file in NV12, (L, H * 3 / 2, W) uint8."""
    with av.open(str(path)) as container:
        return np.stack([picture.reformat(format="nv12").to_ndarray() for picture in container.decode(video=0)])


def fault(found: Mapping[str, float]) -> str:
    """Describe the fault of a file from the figures of `compare_file`; empty if there is none."""
    least = found["psnr_by_host"] - MOST_LOST
    if found["psnr"] >= least:
        return ""
    return f"the file has a PSNR of {found['psnr']:.1f} dB against its frames; expected at least {least:.1f}"
