"""Evaluate the small model on videos of people and speech outside its training data.

python -m export.pocket.evaluate --bundle engines/pocket --report engines/pocket/README.md
"""
