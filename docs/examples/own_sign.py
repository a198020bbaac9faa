"""A sign function with a gradient of your own, in a layer.

`sgdat_jax.surrogate` takes the derivative and returns the sign. It keeps the rules of
the built-in signs, so layers, `inference.fold` and the products of bits accept it.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

import sgdat_jax as sj
from sgdat_jax import testing


@sj.surrogate
def bell_sign(x, width=1.0):
    """A sign whose derivative is estimated by a bell curve."""
    return jnp.exp(-jnp.square(x / width))


if __name__ == "__main__":
    testing.check_sign(bell_sign)
    x = jnp.array([-2.0, -0.5, 0.0, 0.5])
    print("values", bell_sign(x))
    print("slopes", jax.vmap(jax.grad(bell_sign))(x))

    # The width is an ordinary argument, so a schedule can anneal it within jit.
    narrow = jax.jit(jax.grad(bell_sign))(0.5, width=0.1)
    layer = sj.BinaryLinear(
        16,
        4,
        input_quantizer=functools.partial(bell_sign, width=2.0),
        rngs=nnx.Rngs(0),
    )
    print("layer", layer(jnp.ones((2, 16))).shape, f"narrow slope {narrow:.1e}")
    assert narrow < 1e-10
