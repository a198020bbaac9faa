"""How programs of tests are compiled: as those of users, or within half the time.

A program that is not optimized runs longer and rounds otherwise, so tests that ask for
bits or for speed take no part.
"""

import contextlib
import os
from collections.abc import Iterator

import jax

# XLA makes nothing of the second on CPUs; it keeps the two kinds of programs apart in
# the caches of `jax.jit`, as the first does not.
_AS_USERS = {
    "jax_disable_most_optimizations": False,
    "jax_optimization_level": "UNKNOWN",
}
_QUICKLY = {"jax_disable_most_optimizations": True, "jax_optimization_level": "O0"}
_quickly = False


@contextlib.contextmanager
def quickly(wanted: bool = True) -> Iterator[None]:
    """Compiles quickly or not, here and in processes that are started."""
    before = _quickly
    _set(wanted)
    try:
        yield
    finally:
        _set(before)


def _set(wanted: bool) -> None:
    global _quickly
    _quickly = wanted
    for name, value in (_QUICKLY if wanted else _AS_USERS).items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
