"""Products that are summed in a dtype wider than that of their operands."""

import functools
from collections.abc import Callable

import jax
from flax.typing import Dtype


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def widening(
    product: Callable[..., jax.Array], dtype: Dtype, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    """Returns ``product(x, kernel)`` in a dtype wider than that of its operands."""
    return product(x, kernel, preferred_element_type=dtype)


def _widening_fwd(product, dtype, x, kernel):
    return widening(product, dtype, x, kernel), (x, kernel)


def _widening_bwd(product, dtype, operands, cotangent):
    # JAX's own rule widens the operands instead: two of three products of a training
    # step would run at the speed of the wide dtype.
    _, pull_back = jax.vjp(product, *operands)
    return pull_back(cotangent.astype(operands[0].dtype))


widening.defvjp(_widening_fwd, _widening_bwd)
