"""Measurements, run by hand: `benchmarks/README.md` documents them. They are not part of the package."""

import sys

# In `python -m benchmarks.report`, before that module and all that it imports, as in `export`.
if sys.argv[:1] == ["-m"] and any(f"{name}.".startswith(("benchmarks.", "-mbenchmarks.")) for name in sys.orig_argv):
    from export.command import install_excepthook

    install_excepthook()
