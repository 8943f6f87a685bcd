"""Latents -> frames: the decoder, then the median filter (spec, stage 10), frame by frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vexpress_rt.backends import Engine
from vexpress_rt.native import median_3x3x3
from vexpress_rt.records import Float32, UInt8


def decode(vae_decoder: Engine, latents: Iterable[tuple[int, Float32]]) -> Iterator[UInt8]:
    """(frame, latent (c, h, w)) in order -> frames (H, W, 3) uint8 RGB."""
    for _, latent in latents:
        yield vae_decoder.run({"latent": latent[None]})["frame"]


def median(frames: Iterable[UInt8], *, threads: int | None = None) -> Iterator[UInt8]:
    """The 3x3x3 median over time, rows and columns of a clip (H, W, 3) uint8, holding three frames.

    In time the clip is reflected at its ends without repeating the first or last frame; a single frame is its own
    neighbour. Values are those of `native.median_filter` on the whole clip.
    """
    source = iter(frames)
    current = next(source, None)
    if current is None:
        return
    previous: UInt8 | None = None
    for following in source:
        yield median_3x3x3(following if previous is None else previous, current, following, threads=threads)
        previous, current = current, following
    neighbour = current if previous is None else previous
    yield median_3x3x3(neighbour, current, neighbour, threads=threads)
