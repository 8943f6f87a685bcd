"""Measurements, run by hand: `README.md` beside this says how. Nothing here is part of the package."""
