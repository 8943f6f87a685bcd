"""Helpers without knowledge of the model: signals, threads, files, CPUs and memory."""
