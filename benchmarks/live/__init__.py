"""Speed and quality of live mode: `python -m benchmarks.live`."""
