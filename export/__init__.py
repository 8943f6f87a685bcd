"""The exporter: a checkpoint to a bundle of engines. Needs PyTorch, which the runtime does not."""

import os

# Before anything here imports ONNX Runtime: see `vexpress_rt.backends.onnxruntime`, which does the same.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
