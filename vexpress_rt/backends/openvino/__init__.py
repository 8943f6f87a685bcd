"""The provider "openvino": ONNX graphs on CPUs, Intel GPUs and NPUs, in float32 or in reduced precision."""
