"""How programs of tests are compiled: as those of users, or within half the time.

A program that is not optimized runs longer and rounds otherwise, so tests that ask for
bits or for speed take no part.
"""

import contextlib
import os
from collections.abc import Iterator

import jax

_QUICKLY = "jax_disable_most_optimizations"
_is_quick = False


def compile_quickly(wanted: bool) -> None:
    """Compiles quickly or not from here on, also in processes that are started."""
    global _is_quick
    if _is_quick == wanted:
        return
    _is_quick = wanted
    jax.config.update(_QUICKLY, wanted)
    os.environ[_QUICKLY.upper()] = str(wanted)
    jax.clear_caches()  # which would give programs of the other kind


@contextlib.contextmanager
def as_users() -> Iterator[None]:
    """Compiles as users do in the block."""
    before = _is_quick
    compile_quickly(False)
    try:
        yield
    finally:
        compile_quickly(before)
