"""Latents -> frames: the decoder, then the median filter (docs/model/specification.md, stage 10), frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from typing import Protocol, TypeVar

import numpy as np

from vexpress_rt.backends.base import Engine, Tensor
from vexpress_rt.native import median_3x3x3
from vexpress_rt.types import UInt8
from vexpress_rt.utils.stopwatch import Stopwatch

T = TypeVar("T")


def decode(
    vae_decoder: Engine, latents: Iterable[tuple[int, Tensor]], *, keep_on_device: bool = False
) -> Iterator[Tensor]:
    """Decode latents, one by one.

    Args:
        vae_decoder: The engine `vae_decoder`.
        latents: (frame, latent (1, c, h, w)) in order.
        keep_on_device: Whether to keep the frames on the device.

    Yields:
        Frames (H, W, 3) uint8 RGB.
    """
    for _, latent in latents:
        yield vae_decoder.run({"latent": latent}, keep_on_device=keep_on_device)["frame"]


def median(frames: Iterable[T], median_3x3x3: Callable[[T, T, T], T]) -> Iterator[T]:
    """Filter a clip with the 3x3x3 median over time, rows and columns, holding three frames.

    In time, the clip is reflected at its ends without repeating the first or last frame; a single frame is its own
    neighbour. The frames equal those of `native.median_filter` on the whole clip.

    Args:
        frames: The frames in order.
        median_3x3x3: Returns the filtered middle one of three frames, as `FramePostprocessing.median_3x3x3` does.
    """
    source = iter(frames)
    current = next(source, None)
    if current is None:
        return
    previous: T | None = None
    for following in source:
        yield median_3x3x3(following if previous is None else previous, current, following)
        previous, current = current, following
    neighbour = current if previous is None else previous
    yield median_3x3x3(neighbour, current, neighbour)


class FramePostprocessing(Protocol):
    """The operations on frames between the decoder and the caller, on the device of the frames."""

    @property
    def keep_on_device(self) -> bool:
        """Whether the decoder keeps its frames on the device."""
        ...

    @property
    def rgb_to_nv12(self) -> Callable[[Tensor], Tensor] | None:
        """A function that converts a frame (H, W, 3) to NV12, see `native.nv12`; None if the video encoder does it."""
        ...

    def median_3x3x3(self, previous: Tensor, current: Tensor, following: Tensor) -> Tensor:
        """Return the filtered middle one of three frames, (H, W, 3) uint8; see `native.median_3x3x3`.

        Args:
            previous: (H, W, 3) uint8.
            current: (H, W, 3) uint8.
            following: (H, W, 3) uint8.
        """
        ...

    def arrays(self, frames: Iterable[Tensor]) -> Iterator[UInt8]:
        """Yield frames as arrays, which the caller may keep.

        Args:
            frames: Frames (H, W, 3) uint8 RGB, or (H * 3 / 2, W) uint8 NV12.
        """
        ...


def make_frames(
    vae_decoder: Engine, latents: Iterable[tuple[int, Tensor]], postprocessing: FramePostprocessing,
    stopwatch: Stopwatch, *, median_filter: bool, rgb: bool,
) -> Generator[UInt8, None, None]:  # fmt: skip
    """Decode and filter latents.

    Args:
        vae_decoder: The engine `vae_decoder`.
        latents: (frame, latent (1, c, h, w)) in order.
        postprocessing: The operations on the decoded frames.
        stopwatch: Measures the time of each stage.
        median_filter: Whether frames pass the median filter.
        rgb: Whether frames must be RGB. False allows NV12, (H * 3 / 2, W) uint8, half as many bytes, if
            `postprocessing` can convert to it.

    Yields:
        Frames (H, W, 3) uint8 RGB in host memory, which the caller may keep.
    """
    with ExitStack() as stages:  # so that the GPU's memory is freed at once if the caller stops early

        def stage(name: str, items: Iterable[T]) -> Iterator[T]:
            return stages.enter_context(closing(stopwatch.each(name, items)))

        frames = stage("decode", decode(vae_decoder, latents, keep_on_device=postprocessing.keep_on_device))
        if median_filter:
            frames = stage("median", median(frames, postprocessing.median_3x3x3))
        if postprocessing.rgb_to_nv12 is not None and not rgb:
            frames = map(postprocessing.rgb_to_nv12, frames)
        yield from stage("decode", postprocessing.arrays(frames))


class HostFrames:
    """`FramePostprocessing` on NumPy arrays."""

    keep_on_device = False
    rgb_to_nv12 = None

    def __init__(self, threads: int | None = None) -> None:
        """Set the number of threads of the median filter; see `native.median_3x3x3`."""
        self._threads = threads

    def median_3x3x3(self, previous: Tensor, current: Tensor, following: Tensor) -> UInt8:
        """See `FramePostprocessing.median_3x3x3`.

        Raises:
            ConfigError: The number of threads is out of range.
        """
        return median_3x3x3(_array(previous), _array(current), _array(following), threads=self._threads)

    def arrays(self, frames: Iterable[Tensor]) -> Iterator[UInt8]:
        """Yield the frames, which are arrays already."""
        return map(_array, frames)


def _array(frame: Tensor) -> UInt8:
    assert isinstance(frame, np.ndarray)
    return frame
