"""How a process holds the memory of its host."""

import ctypes
import platform

# Parameters of glibc's mallopt(3), and the largest value of its type.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Has the process keep memory that it frees, for its next step.

    XLA's CPU backend allocates the temporary memory of a program at each call. glibc
    gives large blocks back to the system at once, which hands out fresh pages, filled
    with zeros, for those of the next step. Without that a training step of `BinaryNet`
    takes 0.83 of the time on two cores. The process then stays as large as it once was.

    The command ``sgdat-jax`` calls it; call it at the beginning of a program of your
    own, before anything is computed. Setting ``GLIBC_TUNABLES=glibc.malloc.hugetlb=1``
    in the environment does as much. Memory of accelerators is not concerned.

    Returns:
      Whether it is so from now on; False where the C library is not glibc.

    Example:
      >>> from sgdat_jax import host_memory
      >>> is_kept = host_memory.keep_freed_memory()
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {
        _M_ARENA_MAX: 1,  # for others end, and are given back, at 64 MiB
        _M_MMAP_MAX: 0,  # nor large blocks each of their own
        _M_TRIM_THRESHOLD: _NEVER,
        _M_TOP_PAD: 0,
    }
    return all([mallopt(name, value) == 1 for name, value in settings.items()])
