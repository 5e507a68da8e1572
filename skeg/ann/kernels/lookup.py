"""Find rows by id: binary search over the rows ordered by id."""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.jit import kernel


@kernel()
def find_rows(ids: Any, id_order: Any, wanted: Any, rows: Any) -> Any:
    """Row of each wanted id, -1 where there is none; gives how many were found.

    ids uint64 (n,), by row; id_order uint32 (n,), rows by ascending id; wanted uint64 (m,); rows int64 (m,) is written.
    A damaged order gives -1, never a row that is not there. Twin: ``reference.find_rows``.
    """
    n = id_order.shape[0]
    found = np.int64(0)
    for i in range(wanted.shape[0]):
        low = np.int64(0)
        high = np.int64(n)
        while low < high:
            middle = (low + high) >> 1
            row = np.int64(id_order[middle])
            if row < n and ids[row] < wanted[i]:
                low = middle + 1
            else:
                high = middle
        rows[i] = -1
        if low < n and np.int64(id_order[low]) < n and ids[id_order[low]] == wanted[i]:
            rows[i] = np.int64(id_order[low])
            found += 1
    return found
