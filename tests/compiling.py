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

_QUICKLY = "jax_disable_most_optimizations"
# Up to jaxlib 0.10 there is another way to loops, which takes half the time again.
_ANOTHER_WAY = {"xla_cpu_use_fusion_emitters": False}
_FLAG = " --xla_cpu_use_fusion_emitters=false"  # the same for processes
_is_quick = False
always_as_users = False  # whatever tests would have


def compile_quickly(wanted: bool) -> None:
    """Compiles quickly or not from here on, also in processes that are started."""
    global _is_quick
    wanted = wanted and not always_as_users
    if _is_quick == wanted:
        return
    flags = os.environ.get("XLA_FLAGS", "").removesuffix(_FLAG)
    os.environ["XLA_FLAGS"] = flags + _FLAG * (wanted and _has_another_way())
    _is_quick = wanted
    jax.config.update(_QUICKLY, wanted)
    os.environ[_QUICKLY.upper()] = str(wanted)
    jax.clear_caches()  # which would give programs of the other kind


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """Compiles quickly in the block."""
    before = _is_quick
    compile_quickly(True)
    try:
        yield
    finally:
        compile_quickly(before)


@functools.cache
def _has_another_way() -> bool:
    """Has all that is compiled quickly take another way; returns whether XLA has it.

    JAX lets options of XLA be given to one program, and not to all that follow, so a
    function of its own is wrapped; where that is gone, tests take longer.
    """
    try:
        from jax._src import compiler

        jax.jit(lambda: 0, compiler_options=_ANOTHER_WAY)()
        make = compiler.get_compile_options
    except (ImportError, AttributeError, jax.errors.JaxRuntimeError):
        return False

    @functools.wraps(make)
    def made(*args: Any, **options: Any) -> Any:
        if _is_quick:
            given = options.get("env_options_overrides") or {}
            options["env_options_overrides"] = _ANOTHER_WAY | given
        return make(*args, **options)

    compiler.get_compile_options = made
    return True
