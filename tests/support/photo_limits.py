"""What photos may cost to decode, and a measurement of it in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.photo_bombs import BOMBS

MOST_MEGABYTES, MOST_SECONDS = 600, 10


# Loads each file named on standard input; says by how much the process grew at most, and the seconds of its CPU.
CHILD = """
import json, resource, sys, time
import numpy, PIL.ImageCms, PIL.ImageOps
from vexpress_rt.errors import ImageError
from vexpress_rt.media.image import load_image

def grown():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

start = grown()
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
for line in sys.stdin:
    begun = time.process_time()
    try:
        outcome = str(load_image(line.strip()).shape)
    except ImageError as error:
        outcome = str(error)
    print(json.dumps([grown() - start, time.process_time() - begun, outcome]), flush=True)
"""


# The largest that are still decoded, of the kinds that take most.
LARGEST = {"PNG, RGBA": 0.81, "TIFF, int32": 0.81, "WebP, 34 bytes": 0.28}


def measure(folder: Path, scales: dict[str, float], cut: int = 0) -> dict[str, tuple[float, float, str]]:
    """(MB that the process has grown by at most so far, seconds of CPU, outcome) of each bomb.

    cut: bytes that are left out at its end.
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
