"""The exporter: a checkpoint to a bundle of engines. Needs PyTorch, which the runtime does not."""

import atexit
import os
import sys

# Before anything here imports ONNX Runtime: see `vexpress_rt.backends.onnxruntime.engine`, which does the same.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def _remove_cache_folder() -> None:
    """Remove the folder that PyTorch creates for its compiler's cache. It is empty, since nothing here is compiled."""
    try:  # noqa: SIM105  (contextlib takes time to import)
        os.rmdir(os.environ[_CACHE])
    except (KeyError, OSError):  # not created, or used by another program
        pass


if _CACHE not in os.environ:  # PyTorch sets it with the folder; a folder of the user's choice stays
    atexit.register(_remove_cache_folder)

# In `python -m export.build`, before that module is imported: sys.argv[0] is "-m" until Python finds it.
if sys.argv[:1] == ["-m"] and any(f"{name}.".startswith(("export.", "-mexport.")) for name in sys.orig_argv):
    from export.command import install_excepthook

    install_excepthook()
