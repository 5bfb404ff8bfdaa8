"""Memory that is freed stays with the process.

A step frees what it allocates, and glibc hands large blocks back to the kernel, which clears them, page by page, for
the next step: 20,000 page faults a step at 384x12 on a CPU, and at the miniature's sizes some or none, by chance
(docs/training-measured.md).
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)
NEVER, LARGE, LARGE_ONCE = 2**31 - 1, 2**30, 2**25  # bytes; glibc before 2.35 refuses more than the last


def keep_freed_memory():
    """From now on, of this process; nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, LARGE) or mallopt(MMAP_THRESHOLD, LARGE_ONCE)
        mallopt(TRIM_THRESHOLD, NEVER)
