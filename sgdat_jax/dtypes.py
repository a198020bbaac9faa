"""Which dtype operands, sums and states have."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


def wide(dtype: DTypeLike) -> DTypeLike:
    """Returns float32, or the dtype itself where that is wider.

    Unlike `jax.numpy.promote_types` it works under strict promotion of dtypes.

    Example:
      >>> from sgdat_jax import dtypes
      >>> dtypes.wide("bfloat16"), dtypes.wide("float64")
      (dtype('float32'), dtype('float64'))
    """
    return max(jnp.dtype(dtype), jnp.dtype("float32"), key=lambda d: jnp.finfo(d).bits)


def sums_exactly(dtype: DTypeLike) -> bool:
    """Returns whether a dtype holds the sums of 2**24 signs, as float32 does.

    Example:
      >>> from sgdat_jax import dtypes
      >>> dtypes.sums_exactly("float32"), dtypes.sums_exactly("bfloat16")
      (True, False)
    """
    return jnp.finfo(dtype).nmant >= jnp.finfo(jnp.float32).nmant


def promote(
    operands: Sequence[jax.Array | None], /, *, dtype: DTypeLike | None = None
) -> tuple[Any, ...]:
    """Returns arrays in one dtype, as Flax's layers take their operands.

    Args:
      operands: arrays; those that are None stay None.
      dtype: of the results; None is what JAX promotes the operands to, and float32 at
        least where they are integers.

    Raises:
      ValueError: if `dtype` is not floating-point.

    Example:
      >>> import jax.numpy as jnp
      >>> from sgdat_jax import dtypes
      >>> image, kernel, _ = dtypes.promote((jnp.uint8(3), jnp.ones(2), None))
      >>> image.dtype, kernel.dtype
      (dtype('float32'), dtype('float32'))
    """
    if dtype is None:
        dtype = jnp.result_type(*(x for x in operands if x is not None))
        if not jnp.issubdtype(dtype, jnp.inexact):
            dtype = jnp.promote_types("float32", dtype)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(f"`dtype` must be floating-point, got {dtype!r}.")
    return tuple(x if x is None else jnp.asarray(x, dtype) for x in operands)


def check_floating(name: str, dtype: Any) -> None:
    """Raises TypeError unless a dtype is real floating-point, of 16 bits at least.

    None passes. JAX promotes narrower ones to no other dtype.
    """
    if dtype is None:
        return
    if not jnp.issubdtype(dtype, jnp.floating) or jnp.finfo(dtype).bits < 16:
        raise TypeError(
            f"{name} must be real floating-point of 16 bits or more, got {dtype!r}."
        )


def check_counter(name: str, dtype: Any) -> None:
    """Raises TypeError unless a dtype is a signed integer of 8 bits or more, or None.

    XLA's backends hardly support narrower ones.
    """
    # NumPy, unlike JAX, has no narrower ones among its signed integers.
    if dtype is not None and not np.issubdtype(jnp.dtype(dtype), np.signedinteger):
        raise TypeError(
            f"{name} must be a signed integer of 8 bits or more, got {dtype!r}."
        )
