"""The GPU path: CUDA kernels written in Python, and a simulator that runs and watches them on any machine."""
