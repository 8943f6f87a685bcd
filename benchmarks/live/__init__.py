"""How fast live mode is, and what it costs: `python -m benchmarks.live`."""
