"""Memory that was freed stays with the process, so that the next run need not ask the operating system for it again.

A private run allocates and frees hundreds of megabytes of short-lived arrays. By default glibc hands large ones back
to the kernel at once, and every run pays for mapping and clearing the pages anew; on virtual machines whose host takes
free memory away, that costs several times the computation. One heap that only grows avoids it.
"""

import ctypes
import sys

# Parameters of glibc's mallopt (malloc.h).
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8
NEVER = -1
GROWTH = 256 << 20  # bytes asked for at once


def keep_freed_memory() -> bool:
    """Tell malloc to keep what is freed, for the rest of this process; whether that worked.

    Meant for processes of their own (a role, a benchmark), which it makes hold on to their largest need of memory. Only
    glibc knows these settings; elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    settings = {ARENA_MAX: 1, MMAP_MAX: 0, TRIM_THRESHOLD: NEVER, TOP_PAD: GROWTH}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])
