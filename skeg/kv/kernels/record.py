"""What `skeg.kv.format` says of records, for kernels: if they imported it, a change would not recompile them."""

from __future__ import annotations

import numpy as np

HEADER_BYTES = 64
RECORD_BYTES = 24
LINEAGE, VALUE, TOMBSTONE, BATCH = range(4)
TOMBSTONE_KEY_BYTES = 12
VALUE_BYTES_MAX = 512 << 20
MEMBER = np.uint64(2**32 - 1)
