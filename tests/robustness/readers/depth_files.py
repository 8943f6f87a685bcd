"""Files of depth maps: .npy and .npz of floats and whole numbers."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.robustness.cases import Case
from tests.robustness.mutations import TOKENS, mutate

MAPS = np.random.default_rng(0).uniform(0, 1, (3, 6, 8))
_TOKENS = (
    *TOKENS, b"'shape': (99999999999, 6, 8)", b"'shape': (3, 99999, 99999)", b"'shape': (0, 6, 8)", b"'descr': '|O'",
    b"'descr': '<f4'", b"'fortran_order': True", b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff",
)  # fmt: skip


class DepthFiles:
    """Calls `load_depth`, and crops the first and last map as before the guider."""

    memory = 0
    noisy: tuple[bytes, ...] = ()

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def seeds(self) -> Sequence[Case]:
        arrays = [MAPS.astype(kind) for kind in ("<f4", "<f8", ">f4", "<f2")]
        arrays += [(255 * MAPS).astype(kind) for kind in ("<u1", "<u2", ">u2", "<i4")]
        arrays += [MAPS[0], MAPS[:0], np.asfortranarray(MAPS), MAPS[..., None], 2 * MAPS]
        found = []
        for array in arrays:
            stream = io.BytesIO()
            np.save(stream, array)
            found.append(Case(".npy", stream.getvalue()))
        for write in (np.savez, np.savez_compressed):
            for names in (("depth",), ("depth", "other")):
                stream = io.BytesIO()
                write(stream, **dict.fromkeys(names, MAPS))
                found.append(Case(".npz", stream.getvalue()))
        return found

    def make(self, chance: random.Random, seeds: Sequence[Case]) -> Case:
        seed = chance.choice(seeds)
        return Case(seed.suffix, mutate(chance, seed.content, [other.content for other in seeds], _TOKENS))

    def read(self, path: Path) -> None:
        from vexpress_rt.media.depth_maps import crop_depth, load_depth
        from vexpress_rt.types import Crop

        maps = load_depth(path)
        height, width = maps.size
        crop = Crop(width / 4, 0.0, width / 2, float(height), (16, 16), maps.size)
        for position in (0.0, len(maps) - 1.5):
            depth = crop_depth(maps.at(position), crop)
            assert (depth.shape, depth.dtype) == ((16, 16), np.float32)
            assert 0 <= depth.min() <= depth.max() <= 1
