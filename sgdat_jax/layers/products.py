"""Products of a layer's operands in a wider dtype, and of signs by counting bits."""

import functools
from collections.abc import Callable

import jax
from flax.typing import Dtype
from jax import lax

from sgdat_jax import bits


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def multiply(
    product: Callable[..., jax.Array],
    geometry: bits.Geometry | None,
    dtype: Dtype,
    x: jax.Array,
    kernel: jax.Array,
) -> jax.Array:
    """Returns ``product(x, kernel)``, summed in a dtype as wide as its operands'.

    Args:
      product: takes a ``preferred_element_type``.
      geometry: what it does to operands of signs, whose bits a CPU then counts; None
        for others.
      dtype: of the sums; with a geometry, one that holds them exactly.
      x: inputs.
      kernel: of the same dtype.
    """
    plain = functools.partial(product, preferred_element_type=dtype)
    if geometry is None:
        return plain(x, kernel)
    by_bits = functools.partial(bits.product, plain, geometry, dtype)
    # Chosen when a program is compiled, for the devices that it is compiled for.
    return lax.platform_dependent(x, kernel, cpu=by_bits, default=plain)


def _multiply_fwd(product, geometry, dtype, x, kernel):
    return multiply(product, geometry, dtype, x, kernel), (x, kernel)


def _multiply_bwd(product, geometry, dtype, operands, cotangent):
    # JAX's own rule widens the operands instead: two of three products of a training
    # step would run at the speed of the wide dtype.
    _, pull_back = jax.vjp(product, *operands)
    return pull_back(cotangent.astype(operands[0].dtype))


multiply.defvjp(_multiply_fwd, _multiply_bwd)
