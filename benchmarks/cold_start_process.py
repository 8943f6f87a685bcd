"""The process that `benchmarks.cold_start` measures: from its start to the first frame. It prints one line of JSON.

Only the standard library is imported before the clock is read, and afterwards the imports of a user's script.
"""

from __future__ import annotations

import json
import sys
import time


def main() -> None:
    """Make the first frame of a video, as the options in the first argument say (JSON), and print the seconds."""
    options = json.loads(sys.argv[1])
    interpreter = time.monotonic()
    from vexpress_rt import GenerationConfig, Generator

    imported = time.monotonic()
    generator = Generator(
        options["bundle"], provider=options["provider"], precision=options["precision"], threads=options["threads"]
    )
    opened = time.monotonic()
    config = GenerationConfig(steps=options["steps"])
    with generator, generator.stream(options["photo"], options["speech"], config=config) as stream:
        ready = time.monotonic()
        frame = next(stream)
        end = time.monotonic()
        stages = {name: seconds for name, seconds in stream.timings.items() if name != "total"}
    figures = {
        "interpreter": interpreter - options["began"],
        "import": imported - interpreter,
        "open": opened - imported,
        "load": stages.get("load", 0.0),
        "photo": stages.get("portrait", 0.0),
        "inputs": ready - opened - stages.get("load", 0.0) - stages.get("portrait", 0.0),
        "first window": end - ready - stages.get("decode", 0.0) - stages.get("median", 0.0),
        "first frame": stages.get("decode", 0.0) + stages.get("median", 0.0),
        "total": end - options["began"],
        "processor": time.process_time(),
    }
    print(json.dumps({"seconds": figures, "sum of the frame": int(frame.sum())}))


if __name__ == "__main__":
    main()
