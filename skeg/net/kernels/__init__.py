"""Kernels of the protocols: text that is written once for each hit of each query."""
