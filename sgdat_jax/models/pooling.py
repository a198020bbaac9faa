"""Pooling of the networks here: maxima of squares, and means of rectangles."""

import jax
import jax.numpy as jnp
from flax import nnx


def max_pool(x: jax.Array) -> jax.Array:
    """Returns the maxima of 2x2 squares of images ``(batch, h, w, channels)``.

    A last odd row or column is left out. Equal to `flax.nnx.max_pool` to the bit, whose
    gradient goes to the first of equal entries as well, but takes XLA's CPU backend
    five to thirty times as long.
    """
    height, width = (size // 2 * 2 for size in x.shape[1:3])
    return _pool_squares(x[:, :height, :width])


def avg_pool(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns the means of rectangles of images ``(batch, h, w, channels)``.

    Where the rectangles do not fit in, those at the edges are smaller.
    """
    if x.shape[1] % size[0] == 0 and x.shape[2] % size[1] == 0:
        return nnx.avg_pool(x, size, strides=size)
    return nnx.avg_pool(x, size, strides=size, padding="SAME", count_include_pad=False)


@jax.custom_vjp
def _pool_squares(x: jax.Array) -> jax.Array:
    return _pool_squares_fwd(x)[0]


def _pool_squares_fwd(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the maxima, and the place in its square of each: 0 and 1, 2 and 3."""
    # Slices of x itself: XLA would compare whole halves, and write what it finds.
    upper, upper_is_right = _first_maximum(x[:, ::2, ::2], x[:, ::2, 1::2])
    lower, lower_is_right = _first_maximum(x[:, 1::2, ::2], x[:, 1::2, 1::2])
    maximum, is_lower = _first_maximum(upper, lower)
    is_right = jnp.where(is_lower, lower_is_right, upper_is_right)
    return maximum, 2 * is_lower.astype(jnp.uint8) + is_right.astype(jnp.uint8)


def _first_maximum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the maximum, or NaN, and whether it is `b`; of equal ones it is `a`."""
    is_second = (b > a) | jnp.isnan(b)
    return jnp.where(is_second, b, a), is_second


def _pool_squares_bwd(place: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    # By a comparison for each entry: what JAX derives from slices, sums of spread
    # arrays, takes XLA's CPU backend five times as long.
    batch, height, width, channels = place.shape
    places = jnp.arange(4, dtype=place.dtype).reshape(1, 1, 2, 1, 2, 1)
    place, cotangent = (leaf[:, :, None, :, None] for leaf in (place, cotangent))
    gradient = jnp.where(place == places, cotangent, 0)
    return (gradient.reshape(batch, 2 * height, 2 * width, channels),)


_pool_squares.defvjp(_pool_squares_fwd, _pool_squares_bwd)
