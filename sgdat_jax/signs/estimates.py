"""Functions whose derivative is replaced by that of an estimator."""

import functools
import math
import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sgdat_jax import checks


def as_float(x: ArrayLike) -> jax.Array:
    """Return an array; raise TypeError unless it is real floating point."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"`x` must be a real floating-point array, got {x.dtype=!s}.")
    return x


def widen(x: jax.Array) -> jax.Array:
    """Return an array in float32 or wider."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def keep_nan(x: jax.Array, value: jax.Array) -> jax.Array:
    """Return `value` with NaN where `x` is NaN."""
    return jnp.where(jnp.isnan(x), jnp.nan, value)


def check(name: str, value: ArrayLike, low: float, closed: bool = False) -> ArrayLike:
    """Return `value`; raise if it is no real scalar or a Python number out of range."""
    if isinstance(value, str | bytes | complex) or value is None:
        raise TypeError(
            f"`{name}` must be a number or an array of shape (), got {value!r}."
        )
    if jnp.ndim(value) != 0:
        raise ValueError(f"`{name}` must be a scalar, got shape {jnp.shape(value)}.")
    if isinstance(value, numbers.Real):
        checks.within(f"`{name}`", float(value), f"{'[' if closed else '('}{low}, inf)")
    return value


def check_clip(clip_value: ArrayLike | None) -> ArrayLike:
    """Return half the width of a window, infinite for None; raise if it is not > 0."""
    # An infinite window is the identity gradient, so None needs no code of its own.
    return math.inf if clip_value is None else check("clip_value", clip_value, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _quantize(forward, slope, x, params):
    wide = widen(x)
    return keep_nan(wide, forward(wide, *params)).astype(x.dtype)


def _quantize_fwd(forward, slope, x, params):
    # A mask would be smaller than x but has no room for NaN.
    return _quantize(forward, slope, x, params), (x, params)


def _quantize_bwd(forward, slope, residuals, cotangent):
    x, params = residuals
    wide = widen(x)
    derivative = keep_nan(wide, slope(wide, *params))
    grad = cotangent.astype(wide.dtype) * derivative
    return grad.astype(x.dtype), jax.tree.map(jnp.zeros_like, params)


_quantize.defvjp(_quantize_fwd, _quantize_bwd)


def estimate(
    forward: Callable, slope: Callable, x: ArrayLike, *params: ArrayLike
) -> jax.Array:
    """Return `forward(x, *params)` with the derivative `slope(x, *params)`."""
    x = as_float(x)
    dtype = widen(x).dtype
    return _quantize(forward, slope, x, tuple(jnp.asarray(p, dtype) for p in params))


def scaled_window(x, clip_value, height):
    """Return `height` where |x| <= clip_value, else 0."""
    return jnp.where(jnp.abs(x) <= clip_value, height, 0.0)


def window(x, clip_value, *_):
    """Return 1 where |x| <= clip_value, else 0."""
    return scaled_window(x, clip_value, 1.0)
