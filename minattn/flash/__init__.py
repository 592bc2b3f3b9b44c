"""The same attention in O(N) memory: online.py in NumPy to be read, the Numba kernels beside it to be used."""
