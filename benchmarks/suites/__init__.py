"""pytest-benchmark suites, which compare the runtime with PyTorch: `python -m pytest benchmarks/suites`."""
