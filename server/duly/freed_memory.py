"""What the C library does with memory that was freed.

By itself glibc gives the end of its heap back to the kernel when a MiB or two are free there, and takes it again page
by page, each of which the kernel clears. Where the payload of every frame is about as much, and nothing else happens to
lie behind it, every frame pays for that: 240 page faults and half a millisecond for 600 KB, in some lives of a server
and not in others. So what was freed is kept, up to a bound.
"""

import ctypes
import os

KEPT_BYTES_MAX = 64 << 20
"""So much free memory at the end of a heap stays with the process. glibc comes to that by itself once a block of
BLOCK_BYTES_MAX was freed, so that clients could always bring it there."""
BLOCK_BYTES_MAX = 32 << 20
"""A block of memory that is larger is taken from the kernel for itself, and given back as soon as it is free."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""As <malloc.h> numbers them."""


def keep() -> None:
    """Has this process keep memory that was freed, unless its environment says how glibc should do. Other C libraries
    do as they do.
    """
    said = "MALLOC_TRIM_THRESHOLD_" in os.environ or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not said:
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES_MAX)
        mallopt(_MMAP_THRESHOLD, BLOCK_BYTES_MAX)


def give_back() -> None:
    """Gives the kernel all memory that this process has kept. It takes some milliseconds for each 100 MB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
