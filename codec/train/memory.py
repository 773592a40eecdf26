"""What the C library does with memory that a training step frees."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next step, rather than return it to the system.

    A training step on a CPU allocates the same tens of tensors of many megabytes again and again. glibc maps each anew
    by default, and the page faults cost about a tenth of the step.

    Returns:
        Whether it could be done; not on systems without glibc, where nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all((mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, _LARGEST), mallopt(M_TOP_PAD, 2**28)))
