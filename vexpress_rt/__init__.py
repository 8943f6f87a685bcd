"""Talking-portrait video from a photo and speech, by exported V-Express engines, without PyTorch.

Importing this loads no engine library, no NumPy and no codec: what needs them comes on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vexpress_rt.config import GenerationConfig
from vexpress_rt.errors import (
    AudioError,
    BackendError,
    BackendMissingError,
    BundleDamagedError,
    BundleError,
    BundleNotFoundError,
    BundleVersionError,
    ConfigError,
    ImageError,
    InputError,
    KeypointError,
    NoFaceError,
    OutputError,
    PlansMissingError,
    VExpressError,
    VideoError,
)

if TYPE_CHECKING:
    from vexpress_rt.generator import Generator
    from vexpress_rt.live import LiveFrame, LiveSession
    from vexpress_rt.records import KeypointTrack, Portrait, Video
    from vexpress_rt.streaming import FrameStream

__version__ = "0.1.0"  # the one place: the build and the bundles' manifests read it here

__all__ = [
    "AudioError",
    "BackendError",
    "BackendMissingError",
    "BundleDamagedError",
    "BundleError",
    "BundleNotFoundError",
    "BundleVersionError",
    "ConfigError",
    "FrameStream",
    "GenerationConfig",
    "Generator",
    "ImageError",
    "InputError",
    "KeypointError",
    "KeypointTrack",
    "LiveFrame",
    "LiveSession",
    "NoFaceError",
    "OutputError",
    "PlansMissingError",
    "Portrait",
    "VExpressError",
    "Video",
    "VideoError",
    "__version__",
]

_LOADED_ON_FIRST_USE = {
    "FrameStream": "vexpress_rt.streaming",
    "Generator": "vexpress_rt.generator",
    "LiveFrame": "vexpress_rt.live",
    "LiveSession": "vexpress_rt.live",
    "KeypointTrack": "vexpress_rt.records",
    "Portrait": "vexpress_rt.records",
    "Video": "vexpress_rt.records",
}


def __getattr__(name: str) -> Any:
    if name not in _LOADED_ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LOADED_ON_FIRST_USE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
