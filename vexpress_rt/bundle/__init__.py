"""Bundles of engines: the manifest, the specification of engines, and checks of untrusted graphs."""
