"""Numba kernels of the key-value store: serial loops over a segment's bytes.

As the kernels of `skeg.ann.kernels` they release the GIL, allocate nothing and raise nothing; unlike those they trust
no byte of what they read. They import NumPy, Numba, `skeg.jit` and each other only. This module imports nothing: why a
scan ended can be told without Numba.
"""

END_OF_DATA = 0
"""Nothing is left, or less than the record that begins here needs."""

BAD_CHECKSUM = 1
"""The bytes do not match their checksum and place, or the padding is not zeros."""

BAD_FIELD = 2
"""No record has such fields, or none at this place."""

STALE = 3
"""The sequence number is not larger than the one before."""

FULL = 4
"""All is well with this record, but there is no room for its entries."""
