"""`python -m export.build`: a checkpoint to a bundle of engines."""
