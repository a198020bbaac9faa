"""Which dtype sums and states are kept in."""

import jax.numpy as jnp
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
