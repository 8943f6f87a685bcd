"""Limits of memory and time for decoding a photo, and their measurement in a child process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.photo_bombs import BOMBS

MOST_MEGABYTES, MOST_SECONDS = 600, 10


# Loads each file named on standard input; prints the peak growth of the process and its CPU time in seconds.
CHILD = """
import json, resource, sys, time
import numpy, PIL.ImageCms, PIL.ImageOps
from vexpress_rt.errors import ImageError
from vexpress_rt.media.image import load_photo

def grown():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

start = grown()
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
for line in sys.stdin:
    begun = time.process_time()
    try:
        outcome = str(load_photo(line.strip()).pixels.shape)
    except ImageError as error:
        outcome = str(error)
    print(json.dumps([grown() - start, time.process_time() - begun, outcome]), flush=True)
"""


# Scales of the largest accepted photos of the most demanding kinds.
LARGEST = {"PNG, RGBA": 0.81, "TIFF, int32": 0.81, "WebP, 34 bytes": 0.28}


def measure(folder: Path, scales: dict[str, float], cut: int = 0) -> dict[str, tuple[float, float, str]]:
    """Return (peak growth of the process so far in MB, CPU seconds, outcome) of each bomb.

    Args:
        folder: Folder for the files.
        scales: Scale of each bomb by name.
        cut: Bytes to leave out at the end of each file.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    measured = {}
    with child:
        for name, scale in scales.items():
            path = folder / "bomb"
            content = BOMBS[name](scale)
            path.write_bytes(content[: len(content) - cut])
            print(path, file=child.stdin, flush=True)
            measured[name] = tuple(json.loads(child.stdout.readline()))
        child.stdin.close()
    path.unlink()
    return measured
