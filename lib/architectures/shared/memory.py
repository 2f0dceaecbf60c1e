"""Memory that a process keeps, so that a measured time is that of the computation."""

import ctypes

import torch

from lib.arguments import check_sizes

TRIM, MMAP = -1, -3  # glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD


def keep_memory(*, megabytes: int = 128) -> bool:
    """Let this process keep the memory that it frees, and get some in advance; call it once, before measuring times.

    PyTorch asks the C library for the memory of each output. glibc gives large pieces back to the system once they are
    free, and gets them again for the next output, page by page, each page filled with zeros. For a cheap layer this can
    take longer than the layer, and whether it happens depends on what else the process has freed before. So the same
    layer has two times, and neither is that of a runtime that plans its memory once. Afterwards pieces of up to 32 MiB
    are used again, unless more than 1 GiB of them is free.

    megabytes: to get in advance and free again, 1 or more, default 128. A piece is only used again if it is a little
        larger than what is asked for, so without these the first calls would still get fresh memory.

    Returns whether it worked: False, with nothing changed, where the C library is not glibc.
    Raises ValueError for another number.

    >>> keep_memory(megabytes=1) in (True, False)
    True
    """
    check_sizes({"megabytes": megabytes})
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # 32 MiB is the most that glibc takes for the first; without the second it would still give back what is on top
    worked = mallopt is not None and all([mallopt(MMAP, 32 * 2**20), mallopt(TRIM, 2**30)])
    if worked:
        blocks = [torch.ones(2**18) for _ in range(megabytes)]  # written, or the system would not provide the pages
        del blocks
    return worked
