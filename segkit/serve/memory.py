"""Memory that was freed, back to the system."""

import contextlib
import ctypes


def give_back() -> None:
    """Return freed memory: glibc keeps it in the heaps of its threads, so that a server only grows.

    Takes milliseconds; without effect where the C library has no such call.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
