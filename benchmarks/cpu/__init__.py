"""Measurements on a CPU: the engines compared with PyTorch in eager mode, which runs upstream's algorithm."""
