"""The parts of `benchmarks.gpu_check`: each is a function in a file of its own, run in a process of its own."""
