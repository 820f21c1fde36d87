"""Memory of the C library between the steps of a training."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

TRIM, MMAP = -1, -3  # parameters of glibc's mallopt
KEPT = 2**29  # bytes of freed memory that stay with the process
LARGEST = 2**25  # bytes of one piece that may stay, the most that glibc allows


@contextmanager
def freed_memory_kept(wanted: bool = True) -> Iterator[None]:
    """Inside the block memory that is freed stays with the process, up to half a GiB: a training of
    images frees and asks for the same hundreds of MB at every step, and else gets them anew from
    the system, page by page, each cleared. What is left goes back at the end. Nothing where the C
    library is not glibc.
    """
    try:
        library = ctypes.CDLL(None)
        change, trim = library.mallopt, library.malloc_trim
    except (OSError, AttributeError, TypeError):
        wanted = False
    if not wanted:
        yield
        return
    change(MMAP, LARGEST)
    change(TRIM, KEPT)
    try:
        yield
    finally:
        trim(0)
