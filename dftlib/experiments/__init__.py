"""The kit of the two papers, on the library: cells, tables, ablations. Importing it sets the process's memory allocator."""

import ctypes
import sys

if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
    # By default glibc gives the memory of every large tensor back to the system, which clears it page by page for the next:
    # up to a quarter of the time of a forward pass. Kept, it is there for the next batch.
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
