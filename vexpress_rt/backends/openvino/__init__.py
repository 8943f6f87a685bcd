"""OpenVINO, on CPUs, and on Intel GPUs and NPUs."""
