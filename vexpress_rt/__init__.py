"""Talking-portrait video from a photo and speech, by exported V-Express engines, without PyTorch.

Importing this package imports no other module: each name is loaded with its dependencies on first use.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing `typing` takes time, and Ctrl-C is unhandled during it
if TYPE_CHECKING:
    from typing import Any

    from vexpress_rt.backends.tuning import Tuning, tune
    from vexpress_rt.config import GenerationConfig
    from vexpress_rt.errors import (
        AudioError,
        BackendError,
        BackendMissingError,
        BundleDamagedError,
        BundleError,
        BundleNotFoundError,
        BundleVersionError,
        CancelledError,
        ConfigError,
        DepthError,
        ImageError,
        InputError,
        KeypointError,
        NoFaceError,
        OutputError,
        PlansMissingError,
        VExpressError,
        VideoError,
    )
    from vexpress_rt.live.async_session import AsyncLiveSession
    from vexpress_rt.live.frame import LiveFrame
    from vexpress_rt.live.session import LiveSession
    from vexpress_rt.pipeline.async_frame_stream import AsyncFrameStream
    from vexpress_rt.pipeline.frame_stream import FrameStream
    from vexpress_rt.pipeline.generator import Generator
    from vexpress_rt.types import KeypointTrack, Portrait, Video

__version__ = "0.2.0.dev0"  # single source: the build and the bundles' manifests read it here

__all__ = [
    "AsyncFrameStream",
    "AsyncLiveSession",
    "AudioError",
    "BackendError",
    "BackendMissingError",
    "BundleDamagedError",
    "BundleError",
    "BundleNotFoundError",
    "BundleVersionError",
    "CancelledError",
    "ConfigError",
    "DepthError",
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
    "Tuning",
    "VExpressError",
    "Video",
    "VideoError",
    "__version__",
    "tune",
]

_MODULES = {
    "AsyncFrameStream": "pipeline.async_frame_stream",
    "AsyncLiveSession": "live.async_session",
    "FrameStream": "pipeline.frame_stream",
    "GenerationConfig": "config",
    "Generator": "pipeline.generator",
    "KeypointTrack": "types",
    "LiveFrame": "live.frame",
    "LiveSession": "live.session",
    "Portrait": "types",
    "Tuning": "backends.tuning",
    "Video": "types",
    "tune": "backends.tuning",
}  # the other names are in `errors`
_SUBMODULES = ("config", "errors")  # available as attributes without an import


def __getattr__(name: str) -> Any:
    import importlib

    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
