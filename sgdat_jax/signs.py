"""Sign functions with surrogate gradients, for binary weights and activations.

The derivative of sign is zero almost everywhere, so each function here returns the
quantized value and replaces its derivative by the one of a published estimator. Use
one as `input_quantizer` or `kernel_quantizer` of a layer, or alone on any array.

All of them share four rules:

* The sign of 0 and of -0.0 is +1, where the papers' PyTorch code often emits 0.
* NaN gives NaN, in the value and in the gradient (`sign` alone: its gradient is 0).
* The output has the dtype of `x`; comparisons and derivatives are computed in float32
  or wider, so a bound such as 1.0 is judged exactly for bfloat16 and float16.
* Parameters (`clip_value`, `t`, `o`, `beta`, `threshold`) are ordinary arguments with
  a zero gradient: a schedule can anneal them under `jax.jit` without recompiling.
  Python numbers are validated, arrays and traced values are not.

This module defines no layers, learns no scale, and supports reverse mode only: forward
mode (`jax.jvp`, `jax.hessian`) is not defined for `jax.custom_vjp`. XLA's CPU backend
flushes float32 and bfloat16 subnormals to zero, so there their sign is +1.
"""

import functools
import inspect
import math
import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def _as_float(x: ArrayLike) -> jax.Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"`x` must be a real floating-point array, got {x.dtype=!s}.")
    return x


def _widen(x: jax.Array) -> jax.Array:
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _keep_nan(x: jax.Array, value: jax.Array) -> jax.Array:
    return jnp.where(jnp.isnan(x), jnp.nan, value)


def _check(name: str, value: ArrayLike, low: float, closed: bool = False) -> ArrayLike:
    """Return `value`; raise if it is no scalar or a Python number out of range."""
    if jnp.ndim(value) != 0:
        raise ValueError(f"`{name}` must be a scalar, got shape {jnp.shape(value)}.")
    if isinstance(value, numbers.Real):
        number = float(value)
        if not (low < number < math.inf or (closed and number == low)):
            bound = f"{'>=' if closed else '>'} {low}"
            raise ValueError(f"`{name}` must be finite and {bound}, got {value!r}.")
    return value


def _check_clip(clip_value: ArrayLike | None) -> ArrayLike:
    # An infinite window is the identity gradient, so None needs no code of its own.
    return math.inf if clip_value is None else _check("clip_value", clip_value, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _quantize(forward, slope, x, params):
    wide = _widen(x)
    return _keep_nan(wide, forward(wide, *params)).astype(x.dtype)


def _quantize_fwd(forward, slope, x, params):
    # A mask would be smaller than x but has no room for NaN.
    return _quantize(forward, slope, x, params), (x, params)


def _quantize_bwd(forward, slope, residuals, cotangent):
    x, params = residuals
    wide = _widen(x)
    derivative = _keep_nan(wide, slope(wide, *params))
    grad = cotangent.astype(wide.dtype) * derivative
    return grad.astype(x.dtype), jax.tree.map(jnp.zeros_like, params)


_quantize.defvjp(_quantize_fwd, _quantize_bwd)


def _estimate(
    forward: Callable, slope: Callable, x: ArrayLike, *params: ArrayLike
) -> jax.Array:
    """Return `forward(x, *params)` with the derivative `slope(x, *params)`."""
    x = _as_float(x)
    dtype = _widen(x).dtype
    return _quantize(forward, slope, x, tuple(jnp.asarray(p, dtype) for p in params))


def _binary(x, *_):
    return sign(x)


def _scaled_window(x, clip_value, height):
    return jnp.where(jnp.abs(x) <= clip_value, height, 0.0)


def _window(x, clip_value, *_):
    return _scaled_window(x, clip_value, 1.0)


def gives_signs(quantizer: Callable) -> Callable:
    """Mark a function that gives -1, +1 and, of NaN, NaN alone; see `is_sign`."""
    quantizer.__dict__["is_sign"] = True
    return quantizer


@gives_signs
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
    x = _as_float(x)
    return _keep_nan(x, jnp.where(x >= 0, 1.0, -1.0)).astype(x.dtype)


@gives_signs
def ste_sign(x: ArrayLike, clip_value: ArrayLike | None = 1.0) -> jax.Array:
    """Return the sign of `x` with the clipped straight-through gradient.

    q(x) = sign(x), q(0) = +1. dq/dx = 1 where |x| <= clip_value, else 0.

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
    return _estimate(_binary, _window, x, _check_clip(clip_value))


def _approx_slope(x):
    return jnp.where(jnp.abs(x) <= 1.0, 2.0 - 2.0 * jnp.abs(x), 0.0)


@gives_signs
def approx_sign(x: ArrayLike) -> jax.Array:
    """Return the sign of `x` with the triangular gradient of Bi-Real Net.

    q(x) = sign(x), q(0) = +1. dq/dx = 2 - 2 |x| where |x| <= 1, else 0.

    Args:
        x: Floating-point array of any shape.

    Raises:
        TypeError: If `x` is not real floating point.

    >>> jax.grad(lambda x: approx_sign(x).sum())(jnp.array([-2.0, 0.0, 0.5]))
    Array([0., 2., 1.], dtype=float32)

    Reference: Liu et al., "Bi-Real Net: Enhancing the Performance of 1-bit CNNs ...",
    2018, https://arxiv.org/abs/1808.00278
    """
    return _estimate(_binary, _approx_slope, x)


def _swish_slope(x, beta):
    # 1 / (1 + cosh(u)) = 2 e / (1 + e)^2 with e = exp(-u), which cannot overflow.
    # exp(-1e3) is 0 even in float64: the cap only keeps inf * 0 away.
    u = jnp.minimum(jnp.abs(beta * x), 1e3)
    e = jnp.exp(-u)
    return beta * (2.0 - u * jnp.tanh(u / 2.0)) * (2.0 * e / (1.0 + e) ** 2)


@gives_signs
def swish_sign(x: ArrayLike, beta: ArrayLike = 5.0) -> jax.Array:
    """Return the sign of `x` with the SignSwish gradient.

    q(x) = sign(x), q(0) = +1.
    dq/dx = beta (2 - beta x tanh(beta x / 2)) / (1 + cosh(beta x)); it is negative
    beyond |beta x| of about 2.4 and beta at 0.

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
    return _estimate(_binary, _swish_slope, x, _check("beta", beta, 0))


def _ede_slope(x, t):
    # 1 - tanh^2(u) = 4 e / (1 + e)^2 with e = exp(-2 |u|) keeps its digits near
    # saturation, and k t = max(1/t, 1) t = max(1, t) needs no division.
    e = jnp.exp(-2.0 * jnp.abs(t * x))
    return jnp.maximum(t, 1.0) * (4.0 * e / (1.0 + e) ** 2)


@gives_signs
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
    return _estimate(_binary, _ede_slope, x, _check("t", t, 0))


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


@gives_signs
def reste_sign(x: ArrayLike, o: ArrayLike = 1.0) -> jax.Array:
    """Return the sign of `x` with the rectified straight-through gradient.

    q(x) = sign(x), q(0) = +1. dq/dx = |x|^((1-o)/o) / o where 0.1 < |x| <= 1.5, the
    constant 0.1^(1/o) / 0.1 where |x| <= 0.1, and 0 beyond 1.5.
    The scale mean |w| that the authors multiply their weights by is left out.

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
    return _estimate(_binary, _reste_slope, x, _check("o", o, 1, closed=True))


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
    return 1.0 + rise * (_check("o_end", o_end, 1, closed=True) - 1.0)


def is_sign(quantizer: object) -> bool:
    """Returns whether a quantizer is known to give -1, +1 and, of NaN, NaN alone.

    It tells by the attribute ``is_sign`` of the function, which `surrogate` sets.
    Layers multiply such values by counting bits, and `inference.fold` packs them.

    Example:
      >>> import functools
      >>> from sgdat_jax import signs
      >>> signs.is_sign(functools.partial(signs.swish_sign, beta=10.0))
      True
      >>> signs.is_sign(signs.magnitude_aware_sign)
      False
    """
    function = getattr(quantizer, "func", quantizer)
    return getattr(function, "is_sign", False) is True


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
    if not callable(slope):
        raise TypeError(f"`slope` must be a function, got {slope!r}.")
    signature = inspect.signature(slope)

    @gives_signs
    @functools.wraps(slope)
    def quantizer(x: ArrayLike, *args: ArrayLike, **kwargs: ArrayLike) -> jax.Array:
        bound = signature.bind(x, *args, **kwargs)
        bound.apply_defaults()
        _, *parameters = bound.arguments.values()
        return _estimate(_binary, slope, x, *parameters)

    return quantizer


def _scaled_sign(x, clip_value, magnitude):
    return magnitude * sign(x)


def magnitude_aware_sign(x: ArrayLike, clip_value: ArrayLike | None = 1.0) -> jax.Array:
    """Return the sign of a kernel scaled by the mean magnitude of each filter.

    q(x) = a sign(x), q(0) = +a. dq/dx = a where |x| <= clip_value, else 0. a is the
    mean of |x| over all axes but the last, and no gradient flows through it.

    Args:
        x: Floating-point kernel, shape (..., out_features). With fewer than two axes
            every entry is its own filter. One infinite entry makes its a infinite.
        clip_value: Half width of the window, a scalar > 0; None opens it fully.

    Raises:
        TypeError: If `x` is not real floating point.
        ValueError: If `clip_value` is not a scalar > 0.

    >>> magnitude_aware_sign(jnp.array([[-1.0, 0.0], [3.0, 0.5]]))
    Array([[-2.  ,  0.25],
           [ 2.  ,  0.25]], dtype=float32)

    Reference: Liu et al., "Bi-Real Net: Enhancing the Performance of 1-bit CNNs ...",
    2018, https://arxiv.org/abs/1808.00278
    """
    x = _as_float(x)
    clip_value = _check_clip(clip_value)
    axes = tuple(range(x.ndim - 1))
    magnitude = jnp.mean(jnp.abs(_widen(x)), axis=axes, keepdims=True)
    magnitude = jax.lax.stop_gradient(magnitude)
    return _estimate(_scaled_sign, _scaled_window, x, clip_value, magnitude)


def _heaviside(x, *_):
    return jnp.where(x > 0, 1.0, 0.0)


def ste_heaviside(x: ArrayLike, clip_value: ArrayLike | None = 1.0) -> jax.Array:
    """Return 1 where `x` is positive, with the clipped straight-through gradient.

    q(x) = 1 where x > 0, else 0; q(0) = 0. dq/dx = 1 where |x| <= clip_value, else 0.

    Args:
        x: Floating-point array of any shape.
        clip_value: Half width of the window, a scalar > 0; None opens it fully.

    Raises:
        TypeError: If `x` is not real floating point.
        ValueError: If `clip_value` is not a scalar > 0.

    >>> ste_heaviside(jnp.array([-2.0, 0.0, 0.5]))
    Array([0., 0., 1.], dtype=float32)

    Reference: Geiger and Plumerai Team, "Larq: An Open-Source Library for Training
    Binarized Neural Networks", 2020, https://doi.org/10.21105/joss.01746
    """
    return _estimate(_heaviside, _window, x, _check_clip(clip_value))


def _ternary(x, clip_value, threshold):
    # sign(sign(x + d) + sign(x - d)) with sign(0) = 0, without its inf - inf.
    return jnp.where((jnp.abs(x) >= threshold) & (x != 0), sign(x), 0.0)


def ste_ternary(
    x: ArrayLike,
    threshold: ArrayLike | None = 0.05,
    clip_value: ArrayLike | None = 1.0,
) -> jax.Array:
    """Return `x` as -1, 0 or +1, with the clipped straight-through gradient.

    q(x) = sign(x) where |x| >= threshold, else 0; q(0) = 0. dq/dx = 1 where
    |x| <= clip_value, else 0.

    Args:
        x: Floating-point array of any shape.
        threshold: A scalar >= 0; None takes 0.7 mean |x| over the whole array, through
            which no gradient flows.
        clip_value: Half width of the window, a scalar > 0; None opens it fully.

    Raises:
        TypeError: If `x` is not real floating point.
        ValueError: If `threshold` or `clip_value` is not a scalar or is out of range.

    >>> ste_ternary(jnp.array([-2.0, 0.01, 0.5]))
    Array([-1.,  0.,  1.], dtype=float32)

    Reference: Li et al., "Ternary Weight Networks", 2016,
    https://arxiv.org/abs/1605.04711 (strict at the threshold; larq is inclusive).
    """
    x = _as_float(x)
    if threshold is None:
        threshold = 0.7 * jnp.mean(jnp.abs(_widen(x)))
    threshold = _check("threshold", threshold, 0, closed=True)
    return _estimate(_ternary, _window, x, _check_clip(clip_value), threshold)


def _dorefa(x, levels):
    return jnp.round(jnp.clip(x, 0.0, 1.0) * levels) / levels


def _unit_window(x, levels):
    return jnp.where((x >= 0.0) & (x <= 1.0), 1.0, 0.0)


def dorefa(x: ArrayLike, bits: int = 2) -> jax.Array:
    """Return activations on 2^bits even levels in [0, 1].

    q(x) = round(clip(x, 0, 1) n) / n with n = 2^bits - 1 and halves rounded to even;
    q(0) = 0. dq/dx = 1 where 0 <= x <= 1, else 0.

    Args:
        x: Floating-point array of any shape.
        bits: Static Python integer from 1 to 32.

    Raises:
        TypeError: If `x` is not real floating point.
        ValueError: If `bits` is not an integer from 1 to 32.

    >>> dorefa(jnp.array([-1.0, 0.4, 0.9]), bits=1)
    Array([0., 0., 1.], dtype=float32)

    Reference: Zhou et al., "DoReFa-Net: Training Low Bitwidth Convolutional Neural
    Networks with Low Bitwidth Gradients", 2016, https://arxiv.org/abs/1606.06160
    """
    integral = isinstance(bits, numbers.Integral) and not isinstance(bits, bool)
    if not integral or not 1 <= bits <= 32:
        raise ValueError(f"`bits` must be an integer from 1 to 32, got {bits!r}.")
    return _estimate(_dorefa, _unit_window, x, float(2**bits - 1))
