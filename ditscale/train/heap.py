"""Memory that is freed stays with the process.

glibc returns large blocks to the kernel, which clears them, page by page, when the next batches are drawn: that made
205,000 page faults in a run of 1,411 steps at 48x2, and 72,000 are left (docs/measured/speed-detours.md).
"""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
NEVER, LARGE, LARGE_ONCE = 2**31 - 1, 2**30, 2**25  # Bytes; glibc before 2.35 refuses more than LARGE_ONCE.


def keep_freed_memory():
    """From now on, in this process. Without glibc, this does nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, LARGE) or mallopt(MMAP_THRESHOLD, LARGE_ONCE)
        mallopt(TRIM_THRESHOLD, NEVER)
