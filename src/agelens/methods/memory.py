"""Memory of a training step on the CPU: kept by the process instead of returned after every step.

glibc serves each large activation by mapping fresh pages and unmaps them when it is freed, so every step
pays for zeroing the same gigabyte again (``benchmarks/allocator.py`` measures what that costs).
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD = -1  # malloc.h; see mallopt(3)
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Make glibc's malloc reuse freed memory however large; for the rest of the process.

    Returns:
        Whether the C library took both settings; others than glibc are left as they are.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
