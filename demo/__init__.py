"""The demo, `make demo`: two drawn people say what a shipped recording says, with the bundle that ships."""
