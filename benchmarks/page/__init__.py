"""`python -m benchmarks.report`: which parts there are, what each does, and the page that is made of their figures."""
