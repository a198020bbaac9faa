"""The two gradients of a convolution of signs, as functions of arrays."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from sgdat_jax import bits
from sgdat_jax.lookups import native

# Multiplications of a convolution. A gradient of fewer takes a millisecond or two:
# small networks are trained before they have won the time to compile the functions.
_FEWEST_PRODUCTS = 200_000_000


def are_possible(
    x: jax.Array, kernel: jax.Array, cotangent: jax.Array, geometry: bits.Geometry
) -> bool:
    """Returns whether gradients can be looked up, and are faster so.

    Args:
      x: inputs, signs of shape ``(batch, height, width, features)``.
      kernel: signs of shape ``(*window, features, outputs)``.
      cotangent: of the sums, shape ``(batch, rows, columns, outputs)``.
      geometry: of the window.
    """
    return (
        len(geometry.strides) == 2
        and {x.dtype, kernel.dtype, cotangent.dtype} == {jnp.dtype("float32")}
        and all(isinstance(size, int) for size in x.shape)  # not exported for any
        and cotangent.size * math.prod(kernel.shape[:-1]) >= _FEWEST_PRODUCTS
        # A GPU's host needs nothing compiled. Of several devices XLA would have each
        # compute all of it.
        and jax.default_backend() == "cpu"
        and jax.device_count() == 1
        and native.is_ready()
    )


@jax.named_scope("lookups")  # what profiles show
def to_kernel(
    x: jax.Array, cotangent: jax.Array, shape: tuple[int, ...], geometry: bits.Geometry
) -> jax.Array:
    """Returns the gradient to the kernel.

    Args:
      x: inputs of nothing but -1, +1 and NaN, shape
        ``(batch, height, width, features)``. A NaN makes gradients NaN of all features
        that share its word.
      cotangent: float32, shape ``(batch, rows, columns, outputs)``.
      shape: of the kernel.
      geometry: of the window.

    Returns:
      float32 of the kernel's shape.
    """
    words, are_nan = bits.pack_and_find_nan(x)
    gradient = _call(
        native.KERNEL_GRADIENT,
        shape,
        words,
        cotangent,
        strides=geometry.strides,
        **_of(geometry),
    )
    are_nan = jnp.repeat(are_nan.any((0, 1, 2)), bits.WORD)[: x.shape[-1], jnp.newaxis]
    return jnp.where(are_nan, jnp.nan, gradient)


@jax.named_scope("lookups")
def to_inputs(
    kernel: jax.Array,
    cotangent: jax.Array,
    shape: tuple[int, ...],
    geometry: bits.Geometry,
) -> jax.Array:
    """Returns the gradient to the inputs, where all strides are 1.

    Args:
      kernel: signs of shape ``(*window, features, outputs)``. A NaN makes gradients NaN
        of its whole feature.
      cotangent: float32, shape ``(batch, rows, columns, outputs)``.
      shape: of the inputs.
      geometry: of the window.

    Returns:
      float32 of the inputs' shape.
    """
    gradient = _call(
        native.INPUT_GRADIENT, shape, bits.pack(kernel), cotangent, **_of(geometry)
    )
    return jnp.where(jnp.isnan(kernel).any((0, 1, 3)), jnp.nan, gradient)


def _of(geometry: bits.Geometry) -> dict[str, tuple[int, ...]]:
    return {
        "pads": tuple(low for low, _ in geometry.pads),
        "dilation": geometry.dilation,
    }


def _call(
    name: str, shape: tuple[int, ...], *operands: jax.Array, **sizes: tuple[int, ...]
) -> jax.Array:
    call = jax.ffi.ffi_call(
        name, jax.ShapeDtypeStruct(shape, jnp.float32), vmap_method="sequential"
    )
    return call(*operands, **{k: np.array(v, np.int64) for k, v in sizes.items()})
