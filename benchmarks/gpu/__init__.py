"""The parts of `benchmarks.gpu_check`: each is a function that runs in its own process."""
