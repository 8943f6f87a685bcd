"""The file of a video against the frames that it was made of."""

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

# dB that a file may be worse than one of the same frames whose colours FFmpeg converts. No fixed limit would do: what
# H.264 leaves is 32 dB of noise, 37 of the tiny networks' frames, 44 of the scene's photo. In all of these the kernel's
# colours lose nothing against FFmpeg's. In the networks' frames, chroma swapped or a column off, luma a row off or of
# the wrong range or matrix, or a frame too many costs 4 to 19 dB.
MOST_LOST = 1.0


def compare_file(path: Path, kept: Video, config: GenerationConfig) -> dict[str, float]:
    """PSNR of a written video against its frames, in dB: `psnr`, and `psnr_by_host` where the host writes the file.

    kept: the same video, with its frames (L, H, W, 3).  config: that it was made with.
    Colours are compared as the file has them, in NV12: in RGB, what halved chroma costs would hide other faults.
    Raises ValueError if the file has other frames, by number or size.
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
    """The pictures of a file, (L, H * 3 / 2, W) uint8, as they were encoded."""
    with av.open(str(path)) as container:
        return np.stack([picture.reformat(format="nv12").to_ndarray() for picture in container.decode(video=0)])


def fault(found: Mapping[str, float]) -> str:
    """What is wrong with a file of which `compare_file` gave the figures; empty if nothing is."""
    least = found["psnr_by_host"] - MOST_LOST
    if found["psnr"] >= least:
        return ""
    return f"the file has a PSNR of {found['psnr']:.1f} dB against its frames; expected at least {least:.1f}"
