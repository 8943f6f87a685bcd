"""The demo, `make demo`: videos of two drawn people who speak a recording, made with the shipped bundle."""
