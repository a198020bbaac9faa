"""Activations that bound what they let through, as binary networks use them."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sgdat_jax.signs import estimates


def leaky_tanh(x: ArrayLike, alpha: ArrayLike = 0.2) -> jax.Array:
    """Return `x` inside [-1, 1] and a line of slope `alpha` beyond.

    f(x) = x where abs(x) <= 1, else sign(x) (1 + alpha (abs(x) - 1));
    `jax.nn.hard_tanh` is the same with alpha = 0. Its gradient is its own: 1 where
    abs(x) <= 1, else alpha.

    Args:
        x: Floating-point array of any shape.
        alpha: Slope beyond [-1, 1], a scalar > 0; it may be traced.

    Raises:
        TypeError: If `x` is not real floating point.
        ValueError: If `alpha` is not a scalar > 0.

    >>> leaky_tanh(jnp.array([-3.0, 0.25, 2.0]), alpha=0.5)
    Array([-2.  ,  0.25,  1.5 ], dtype=float32)

    Reference: Geiger and Plumerai Team, "Larq: An Open-Source Library for Training
    Binarized Neural Networks", 2020, https://doi.org/10.21105/joss.01746
    """
    x = estimates.as_float(x)
    alpha = jnp.asarray(estimates.check("alpha", alpha, 0), x.dtype)
    bound = jnp.sign(x)
    return jnp.where(jnp.abs(x) > 1, bound + alpha * (x - bound), x)
