"""Checkpoints: reading, the official layout, synthetic weights and the download."""
