"""The fuzzed readers by name, one file each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.robustness.cases import Reader
from tests.robustness.readers import (
    arguments,
    calls,
    depth_files,
    graphs,
    images,
    keypoint_files,
    live,
    manifests,
    sounds,
    videos,
)

READERS: dict[str, Callable[[Path], Reader]] = {
    "images": images.Images,
    "sounds": sounds.Sounds,
    "videos": videos.Videos,
    "keypoints": keypoint_files.KeypointFiles,
    "depth": depth_files.DepthFiles,
    "manifests": manifests.Manifests,
    "graphs": graphs.Graphs,
    "arguments": arguments.Arguments,
    "calls": calls.Calls,
    "live": live.Live,
}
