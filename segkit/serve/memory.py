"""Memory that was freed, back to the system."""

import contextlib
import ctypes
import gc


def settle() -> None:
    """Leave what lives as long as the process out of every later `give_back`.

    Call it once, when the models are loaded.
    """
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Free what is unreachable and return it to the system; milliseconds after `settle`.

    Objects of one image know each other, so that only the garbage collector frees them, and beside
    everything that torch and MONAI keep it would come too seldom: for an hour of quiet work, never.
    glibc keeps freed memory in the heaps of its threads; where the C library has no such call, that
    part is without effect.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
