"""Whole videos: `Generator`, the runner that wires the stages, and streams of frames."""
