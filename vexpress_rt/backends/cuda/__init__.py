"""CUDA: the runtime API, the executor, the buffer pool and engines on device memory."""
