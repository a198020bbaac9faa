"""How programs of tests are compiled: as those of users, or within half the time.

A program that is not optimized runs longer and rounds otherwise, so tests that ask for
the bits of users or for speed take no part.
"""

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import compiler

_QUICKLY = "jax_disable_most_optimizations"
# Up to jaxlib 0.10 there is another way to loops, which takes half the time again.
_ANOTHER_WAY = {"xla_cpu_use_fusion_emitters": False}
_is_quick = False


def compile_quickly(wanted: bool) -> None:
    """Compiles quickly or not from here on, also in processes that are started."""
    global _is_quick
    if _is_quick == wanted:
        return
    _go_another_way()
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


@functools.cache
def _go_another_way() -> None:
    """Has all that is compiled quickly take another way, where XLA has one.

    JAX lets options of XLA be given to one program, and not to all that follow.
    """
    try:
        jax.jit(lambda: 0, compiler_options=_ANOTHER_WAY)()
        make = compiler.get_compile_options
    except (AttributeError, jax.errors.JaxRuntimeError):
        return

    @functools.wraps(make)
    def made(*args: Any, **options: Any) -> Any:
        if _is_quick:
            given = options.get("env_options_overrides") or {}
            options["env_options_overrides"] = _ANOTHER_WAY | given
        return make(*args, **options)

    compiler.get_compile_options = made
