"""How well the small model does what it is asked, measured in videos of people and speech that it was not trained on.

python -m export.pocket.evaluate --bundle engines/pocket --report engines/pocket/README.md
"""
