"""TensorRT and TensorRT for RTX: engines, and the plans that they run."""
