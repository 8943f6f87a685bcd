"""pytest-benchmark suites: `python -m pytest benchmarks/suites`; each figure beside plain PyTorch's of the same run."""
