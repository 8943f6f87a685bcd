"""Measurements, run by hand: `benchmarks/README.md` documents them. They are not part of the package."""

import sys

# For `python -m benchmarks.report` and the like: this runs before the slow imports of the command, so that Ctrl-C
# during them ends without a traceback. `export` does the same.
if sys.argv[:1] == ["-m"] and any(f"{name}.".startswith(("benchmarks.", "-mbenchmarks.")) for name in sys.orig_argv):
    from export.command import install_excepthook

    install_excepthook()
