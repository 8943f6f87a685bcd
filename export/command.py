"""How a command of `export` ends."""

from __future__ import annotations

import sys
from collections.abc import Callable

from vexpress_rt.errors import VExpressError


def run(work: Callable[[], object], interrupted: str = "interrupted") -> int:
    """Do the work. The exit code: 0; 1 for an error of ours or the disk's and 130 for Ctrl-C, both told on stderr."""
    try:
        work()
    except (VExpressError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    return 0


def tell(line: str) -> None:
    """Print a line of progress at once."""
    print(line, flush=True)
