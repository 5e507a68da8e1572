"""Numba kernels: serial loops over arrays that release the GIL, allocate nothing, raise nothing and check nothing.

Callers have validated everything; what a kernel relies on stands in its docstring under *Requires*. A kernel writes
into arrays it is given and returns numbers. It imports NumPy, Numba, `skeg.jit` and other kernels only. Each has a
slow, obvious twin in ``tests/reference.py`` or ``tests/reference_scan.py``.
"""
