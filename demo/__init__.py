"""The demo, `make demo`: everything it needs is drawn, synthesised or computed on the spot."""
