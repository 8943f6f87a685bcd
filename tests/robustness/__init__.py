"""A fuzzer for every reader, which reads inputs in child processes with limits; `scripts/fuzz.py` is its command."""
