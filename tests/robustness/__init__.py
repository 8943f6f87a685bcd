"""Fuzzing of every reader, each input in a child process with limits; `scripts/fuzz.py` is its command."""
