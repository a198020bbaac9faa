"""Signs: functions that give -1 and +1, each with the gradient of an estimator."""

import functools
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sgdat_jax import checks
from sgdat_jax.signs import estimates, marks


def _binary(x, *_):
    return sign(x)


@marks.gives_signs
def sign(x: ArrayLike) -> jax.Array:
    """Return the sign of `x` without an estimator; its gradient is zero.

    +1 where x >= 0 (0 and -0.0 included), -1 where x < 0, NaN where x is NaN.

    Args:
        x: Floating-point array of any shape.

    Raises:
        TypeError: If `x` is not real floating point.

    >>> sign(jnp.array([-2.0, -0.0, 0.5]))
    Array([-1.,  1.,  1.], dtype=float32)
    """
    x = estimates.as_float(x)
    return estimates.keep_nan(x, jnp.where(x >= 0, 1.0, -1.0)).astype(x.dtype)


@marks.gives_signs
def ste_sign(x: ArrayLike, clip_value: ArrayLike | None = 1.0) -> jax.Array:
    """Return the sign of `x` with the clipped straight-through gradient.

    q(x) = sign(x), q(0) = +1. dq/dx = 1 where abs(x) <= clip_value, else 0.

    Args:
        x: Floating-point array of any shape.
        clip_value: Half width of the window, a scalar > 0; None passes every
            gradient unchanged.

    Raises:
        TypeError: If `x` is not real floating point.
        ValueError: If `clip_value` is not a scalar > 0.

    >>> x = jnp.array([-2.0, 0.0, 1.0])
    >>> ste_sign(x)
    Array([-1.,  1.,  1.], dtype=float32)
    >>> jax.grad(lambda x: ste_sign(x).sum())(x)
    Array([0., 1., 1.], dtype=float32)

    Reference: Hubara et al., "Binarized Neural Networks", 2016,
    https://arxiv.org/abs/1602.02830
    """
    clip_value = estimates.check_clip(clip_value)
    return estimates.estimate(_binary, estimates.window, x, clip_value)


def _approx_slope(x):
    return jnp.where(jnp.abs(x) <= 1.0, 2.0 - 2.0 * jnp.abs(x), 0.0)


@marks.gives_signs
def approx_sign(x: ArrayLike) -> jax.Array:
    """Return the sign of `x` with the triangular gradient of Bi-Real Net.

    q(x) = sign(x), q(0) = +1. dq/dx = 2 - 2 abs(x) where abs(x) <= 1, else 0.

    Args:
        x: Floating-point array of any shape.

    Raises:
        TypeError: If `x` is not real floating point.

    >>> jax.grad(lambda x: approx_sign(x).sum())(jnp.array([-2.0, 0.0, 0.5]))
    Array([0., 2., 1.], dtype=float32)

    Reference: Liu et al., "Bi-Real Net: Enhancing the Performance of 1-bit CNNs ...",
    2018, https://arxiv.org/abs/1808.00278
    """
    return estimates.estimate(_binary, _approx_slope, x)


def _swish_slope(x, beta):
    # 1 / (1 + cosh(u)) = 2 e / (1 + e)^2 with e = exp(-u), which cannot overflow.
    # exp(-1e3) is 0 even in float64: the cap only keeps inf * 0 away.
    u = jnp.minimum(jnp.abs(beta * x), 1e3)
    e = jnp.exp(-u)
    return beta * (2.0 - u * jnp.tanh(u / 2.0)) * (2.0 * e / (1.0 + e) ** 2)


@marks.gives_signs
def swish_sign(x: ArrayLike, beta: ArrayLike = 5.0) -> jax.Array:
    """Return the sign of `x` with the SignSwish gradient.

    q(x) = sign(x), q(0) = +1.
    dq/dx = beta (2 - beta x tanh(beta x / 2)) / (1 + cosh(beta x)); it is negative
    beyond abs(beta x) of about 2.4 and beta at 0.

    Args:
        x: Floating-point array of any shape.
        beta: Sharpness, a scalar > 0.

    Raises:
        TypeError: If `x` is not real floating point.
        ValueError: If `beta` is not a scalar > 0.

    >>> float(jax.grad(swish_sign)(0.0))
    5.0

    Reference: Darabi et al., "Regularized Binary Network Training" (BNN+), 2018,
    https://arxiv.org/abs/1812.11800
    """
    beta = estimates.check("beta", beta, 0)
    return estimates.estimate(_binary, _swish_slope, x, beta)


def _ede_slope(x, t):
    # 1 - tanh^2(u) = 4 e / (1 + e)^2 with e = exp(-2 |u|) keeps its digits near
    # saturation, and k t = max(1/t, 1) t = max(1, t) needs no division.
    e = jnp.exp(-2.0 * jnp.abs(t * x))
    return jnp.maximum(t, 1.0) * (4.0 * e / (1.0 + e) ** 2)


@marks.gives_signs
def ede_sign(x: ArrayLike, t: ArrayLike = 1.0) -> jax.Array:
    """Return the sign of `x` with the error decay estimator of IR-Net.

    q(x) = sign(x), q(0) = +1. dq/dx = k t (1 - tanh^2(t x)), k = max(1/t, 1).

    Args:
        x: Floating-point array of any shape.
        t: Sharpness, a scalar > 0, annealed from 1e-3 to 10 (see `ede_t`). The default
            1.0, the plain derivative of tanh, is its value at 3/4 of training.

    Raises:
        TypeError: If `x` is not real floating point.
        ValueError: If `t` is not a scalar > 0.

    >>> jax.grad(lambda x: ede_sign(x, t=10.0).sum())(jnp.array([-9.0, 0.0]))
    Array([ 0., 10.], dtype=float32)

    Reference: Qin et al., "Forward and Backward Information Retention for Accurate
    Binary Neural Networks", 2020, https://arxiv.org/abs/1909.10788
    """
    return estimates.estimate(_binary, _ede_slope, x, estimates.check("t", t, 0))


def _progress(progress: ArrayLike) -> jax.Array:
    return jnp.clip(jnp.asarray(progress, dtype=float), 0.0, 1.0)


def ede_t(progress: ArrayLike) -> jax.Array:
    """Return `t` of `ede_sign`: 10^(4 progress - 3), evenly spaced in log t.

    Args:
        progress: Fraction of training done, clipped to [0, 1].

    >>> print(f"{ede_t(0.0):.3f} {ede_t(0.5):.3f} {ede_t(1.0):.3f}")
    0.001 0.100 10.000
    """
    return 10.0 ** (4.0 * _progress(progress) - 3.0)


def _reste_slope(x, o):
    # Clipping before the power keeps 0 and inf out of it; (1 - o) / o = 1 / o - 1.
    magnitude = jnp.abs(x)
    exponent = 1.0 / o - 1.0
    power = jnp.clip(magnitude, 0.1, 1.5) ** exponent
    inside = jnp.where(magnitude <= 0.1, power, power / o)
    return jnp.where(magnitude <= 1.5, inside, 0.0)


@marks.gives_signs
def reste_sign(x: ArrayLike, o: ArrayLike = 1.0) -> jax.Array:
    """Return the sign of `x` with the rectified straight-through gradient.

    q(x) = sign(x), q(0) = +1. dq/dx = abs(x)^((1-o)/o) / o where 0.1 < abs(x) <= 1.5,
    the constant 0.1^(1/o) / 0.1 where abs(x) <= 0.1, and 0 beyond 1.5.
    The scale mean abs(w) that the authors multiply their weights by is left out.

    Args:
        x: Floating-point array of any shape.
        o: Power, a scalar >= 1, annealed from 1 to 3 (see `reste_o`). The default 1.0,
            the start of training, is the straight-through gradient clipped at 1.5.

    Raises:
        TypeError: If `x` is not real floating point.
        ValueError: If `o` is not a scalar >= 1.

    >>> jax.grad(lambda x: reste_sign(x, o=2.0).sum())(jnp.array([0.25, 1.0, 2.0]))
    Array([1. , 0.5, 0. ], dtype=float32)

    Reference: Wu et al., "Estimator Meets Equilibrium Perspective: A Rectified Straight
    Through Estimator for Binary Neural Networks Training", 2023,
    https://arxiv.org/abs/2308.06689
    """
    o = estimates.check("o", o, 1, closed=True)
    return estimates.estimate(_binary, _reste_slope, x, o)


def reste_o(progress: ArrayLike, o_end: ArrayLike = 3.0) -> jax.Array:
    """Return `o` of `reste_sign`: 1 + (1 - cos(pi progress / 2)) (o_end - 1).

    Args:
        progress: Fraction of training done, clipped to [0, 1].
        o_end: Last value, a scalar >= 1.

    Raises:
        ValueError: If `o_end` is not a scalar >= 1.

    >>> print(f"{reste_o(0.0):.3f} {reste_o(0.5):.3f} {reste_o(1.0):.3f}")
    1.000 1.586 3.000
    """
    rise = 1.0 - jnp.cos(jnp.pi / 2.0 * _progress(progress))
    return 1.0 + rise * (estimates.check("o_end", o_end, 1, closed=True) - 1.0)


def surrogate(slope: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Make a sign with a gradient estimator of your own.

    q(x, ...) = sign(x), q(0) = +1, NaN gives NaN. dq/dx = slope(x, ...). The sign keeps
    the rules of this module, so layers and `inference` treat it as a built-in one. It
    has the name and the arguments of `slope`. Those beside `x` are scalars that may be
    traced, and have a zero gradient.

    Args:
        slope: The derivative, elementwise. It gets `x` in float32 or wider.

    Returns:
        A function of `x` and the other arguments of `slope`.

    Raises:
        TypeError: If `slope` is not callable; when called, if `x` is not real floating
            point or an argument is missing.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import sgdat_jax as sj
      >>> @sj.surrogate
      ... def bell_sign(x, width=1.0):
      ...     return jnp.exp(-((x / width) ** 2))
      >>> bell_sign(jnp.array([-2.0, 0.0]))
      Array([-1.,  1.], dtype=float32)
      >>> jax.grad(bell_sign)(0.0, width=2.0)
      Array(1., dtype=float32)
    """
    checks.function("`slope`", slope)
    signature = inspect.signature(slope)

    def by_position(*values: jax.Array) -> jax.Array:
        arguments = dict(zip(signature.parameters, values, strict=True))
        bound = inspect.BoundArguments(signature, arguments)  # type: ignore[arg-type]
        return slope(*bound.args, **bound.kwargs)

    @marks.gives_signs
    @functools.wraps(slope)
    def quantizer(*args: ArrayLike, **kwargs: ArrayLike) -> jax.Array:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return estimates.estimate(_binary, by_position, *bound.arguments.values())

    return quantizer
