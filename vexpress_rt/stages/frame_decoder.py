"""Latents -> frames: the decoder, then the median filter (spec, stage 10), frame by frame."""

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
    """(frame, latent (1, c, h, w)) in order -> frames (H, W, 3) uint8 RGB.

    keep_on_device: leave them where they are computed.
    """
    for _, latent in latents:
        yield vae_decoder.run({"latent": latent}, keep_on_device=keep_on_device)["frame"]


def median(frames: Iterable[T], middle: Callable[[T, T, T], T]) -> Iterator[T]:
    """The 3x3x3 median over time, rows and columns of a clip, holding three frames.

    middle: the middle one of three frames, filtered; `median_3x3x3` of a `FramePostprocessing`.
    In time the clip is reflected at its ends without repeating the first or last frame; a single frame is its own
    neighbour. Values are those of `native.median_filter` on the whole clip.
    """
    source = iter(frames)
    current = next(source, None)
    if current is None:
        return
    previous: T | None = None
    for following in source:
        yield middle(following if previous is None else previous, current, following)
        previous, current = current, following
    neighbour = current if previous is None else previous
    yield middle(neighbour, current, neighbour)


class FramePostprocessing(Protocol):
    """What happens to frames between decoder and caller, where they are.

    keep_on_device: whether they are to stay where the decoder computes them.
    rgb_to_nv12: a frame (H, W, 3) as NV12, see `native.nv12`; None for what leaves that to whoever encodes.
    """

    @property
    def keep_on_device(self) -> bool: ...

    @property
    def rgb_to_nv12(self) -> Callable[[Tensor], Tensor] | None: ...

    def median_3x3x3(self, previous: Tensor, current: Tensor, following: Tensor) -> Tensor:
        """The middle one of three frames (H, W, 3) uint8, filtered: see `native.median_3x3x3`."""
        ...

    def arrays(self, frames: Iterable[Tensor]) -> Iterator[UInt8]:
        """Frames as arrays, which the caller may keep."""
        ...


def make_frames(
    vae_decoder: Engine, latents: Iterable[tuple[int, Tensor]], path: FramePostprocessing, watch: Stopwatch,
    *, filtered: bool, rgb: bool,
) -> Generator[UInt8, None, None]:  # fmt: skip
    """(frame, latent (1, c, h, w)) in order -> frames (H, W, 3) uint8 RGB in host memory, which the caller may keep.

    path: what happens to them in between.  watch: is told the seconds of each stage.  filtered: by the median.
    rgb: False allows NV12, (H * 3 / 2, W) uint8, half the bytes, where `path` can make that.
    """
    with ExitStack() as stages:  # a GPU's memory goes back when the caller ends early, and not some time later

        def stage(name: str, items: Iterable[T]) -> Iterator[T]:
            return stages.enter_context(closing(watch.each(name, items)))

        frames = stage("decode", decode(vae_decoder, latents, keep_on_device=path.keep_on_device))
        if filtered:
            frames = stage("median", median(frames, path.median_3x3x3))
        if path.rgb_to_nv12 is not None and not rgb:
            frames = map(path.rgb_to_nv12, frames)
        yield from stage("decode", path.arrays(frames))


class HostFrames:
    """`FramePostprocessing` in NumPy arrays.  threads: of the median, as `native.median_3x3x3` takes them."""

    keep_on_device = False
    rgb_to_nv12 = None

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads

    def median_3x3x3(self, previous: Tensor, current: Tensor, following: Tensor) -> UInt8:
        """As `FramePostprocessing` has it. Raises ConfigError for an impossible number of threads."""
        return median_3x3x3(_array(previous), _array(current), _array(following), threads=self._threads)

    def arrays(self, frames: Iterable[Tensor]) -> Iterator[UInt8]:
        """Frames, which are arrays already."""
        return map(_array, frames)


def _array(frame: Tensor) -> UInt8:
    assert isinstance(frame, np.ndarray)
    return frame
