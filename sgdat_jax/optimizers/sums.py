"""Sums of products that round as often as the published code's, on every device.

PyTorch rounds ``x.add_(y, alpha=scale)`` once, on CPUs and GPUs alike. XLA contracts a
product and the sum that follows it into one operation on a CPU, but not on a GPU, where
latent weights would drift from the published ones by a unit in the last place a step.
So a sum that must round once is made of exact parts there.

The functions are jitted so that they round in eager code as in compiled code.
"""

import chex
import jax
import jax.numpy as jnp
from jax import lax


@jax.jit
def add_scaled(x: jax.Array, scale: chex.Numeric, y: jax.Array) -> jax.Array:
    """Returns ``x + scale * y`` in the dtype of ``x``; float32 is rounded once."""
    if {jnp.result_type(v) for v in (x, y)} != {jnp.dtype(jnp.float32)}:
        return (x + scale * y).astype(x.dtype)
    scale = jnp.asarray(scale, x.dtype)
    return lax.platform_dependent(x, scale, y, cpu=_contracted, default=rounded_once)


@jax.jit
def rounded_product(scale: chex.Numeric, x: jax.Array) -> jax.Array:
    """Returns ``scale * x`` in the dtype of ``x``, rounded before it is added to."""
    # The selection changes no value, but keeps XLA from contracting the product.
    return jnp.where(x == 0, x, scale * x).astype(x.dtype)


@jax.jit
def decay_and_add(
    buffer: jax.Array,
    decay: chex.Numeric,
    gradient: jax.Array,
    scale: chex.Numeric,
) -> jax.Array:
    """Returns ``decay * buffer + scale * gradient`` in the dtype of the buffer.

    It rounds as PyTorch does in ``buffer.mul_(decay).add_(gradient, alpha=scale)``.
    """
    return add_scaled(rounded_product(decay, buffer), scale, gradient)


def _contracted(x: jax.Array, scale: jax.Array, y: jax.Array) -> jax.Array:
    return x + scale * y


def rounded_once(x: jax.Array, scale: jax.Array, y: jax.Array) -> jax.Array:
    """Returns ``x + scale * y`` of float32, rounded once whatever a compiler contracts.

    The product and its sum with `x` are each a float32 and an exact error; the errors
    are added with rounding to odd, after which the last sum rounds as the exact one
    would, for products above 2**-100, whose errors are normal numbers (Boldo and
    Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using
    rounding to odd", IEEE Trans. Computers 57(4), 2008, figure 4). It takes some 40
    operations, far below what memory takes.

    Example:
      >>> import jax.numpy as jnp
      >>> from sgdat_jax.optimizers import sums
      >>> x, scale, y = (jnp.float32(v) for v in (-1.0, 1 + 2**-13, 1 - 2**-13))
      >>> float(sums.rounded_once(x, scale, y)) == -(2.0**-26)  # 0 if rounded twice
      True
    """
    product, low = _exact_product(scale, y)
    middle, rest = _exact_sum(x, low)
    high, error = _exact_sum(product, middle)
    once = high + _sum_to_odd(rest, error)
    # Of infinite operands the errors are not numbers.
    return jnp.where(jnp.isfinite(once), once, x + product)


def _exact_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns a sum and its error (Knuth's TwoSum)."""
    total = a + b
    b_part = total - a
    a_part = total - b_part
    return total, (a - a_part) + (b - b_part)


def _exact_product(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns a product and its error (Dekker's), by halves of 12 bits."""
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    product = a * b
    # Each of these is exact, contracted or not.
    error = product - a_high * b_high
    error -= a_high * b_low
    error -= a_low * b_high
    return product, a_low * b_low - error


def _halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    bits = lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0xFFFFF000)
    high = lax.bitcast_convert_type(bits, jnp.float32)
    return high, x - high


def _sum_to_odd(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns a sum, rounded to the neighbour with an odd last bit if not exact."""
    total, error = _exact_sum(a, b)
    bits = lax.bitcast_convert_type(total, jnp.uint32)
    is_even = bits & 1 == 0
    grows = (error > 0) == (total > 0)
    odd = jnp.where(grows, bits + 1, bits - 1)
    rounded = jnp.where((error != 0) & is_even, odd, bits)
    return lax.bitcast_convert_type(rounded, jnp.float32)
