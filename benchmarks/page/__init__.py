"""`python -m benchmarks.report`: its parts, and the page made from their figures."""
