"""Quantizers of other levels: scaled signs, 0 and 1, three levels, and k bits."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sgdat_jax import checks
from sgdat_jax.signs import binary, estimates, marks


def _scaled_sign(x, clip_value, magnitude):
    return magnitude * binary.sign(x)


@marks.of_bits(1)
def magnitude_aware_sign(x: ArrayLike, clip_value: ArrayLike | None = 1.0) -> jax.Array:
    """Return the sign of a kernel scaled by the mean magnitude of each filter.

    q(x) = a sign(x), q(0) = +a. dq/dx = a where abs(x) <= clip_value, else 0. a is the
    mean of abs(x) over all axes but the last, and no gradient flows through it.

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
    x = estimates.as_float(x)
    clip_value = estimates.check_clip(clip_value)
    axes = tuple(range(x.ndim - 1))
    magnitude = jnp.mean(jnp.abs(estimates.widen(x)), axis=axes, keepdims=True)
    magnitude = jax.lax.stop_gradient(magnitude)
    return estimates.estimate(
        _scaled_sign, estimates.scaled_window, x, clip_value, magnitude
    )


def _heaviside(x, *_):
    return jnp.where(x > 0, 1.0, 0.0)


@marks.of_bits(1)
def ste_heaviside(x: ArrayLike, clip_value: ArrayLike | None = 1.0) -> jax.Array:
    """Return 1 where `x` is positive, with the clipped straight-through gradient.

    q(x) = 1 where x > 0, else 0; q(0) = 0.
    dq/dx = 1 where abs(x) <= clip_value, else 0.

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
    return estimates.estimate(
        _heaviside, estimates.window, x, estimates.check_clip(clip_value)
    )


def _ternary(x, clip_value, threshold):
    # sign(sign(x + d) + sign(x - d)) with sign(0) = 0, without its inf - inf.
    return jnp.where((jnp.abs(x) >= threshold) & (x != 0), binary.sign(x), 0.0)


@marks.of_bits(2)
def ste_ternary(
    x: ArrayLike,
    threshold: ArrayLike | None = 0.05,
    clip_value: ArrayLike | None = 1.0,
) -> jax.Array:
    """Return `x` as -1, 0 or +1, with the clipped straight-through gradient.

    q(x) = sign(x) where abs(x) >= threshold, else 0; q(0) = 0. dq/dx = 1 where
    abs(x) <= clip_value, else 0.

    Args:
        x: Floating-point array of any shape.
        threshold: A scalar >= 0; None takes 0.7 mean abs(x) over the whole array,
            through which no gradient flows.
        clip_value: Half width of the window, a scalar > 0; None opens it fully.

    Raises:
        TypeError: If `x` is not real floating point.
        ValueError: If `threshold` or `clip_value` is not a scalar or is out of range.

    >>> ste_ternary(jnp.array([-2.0, 0.01, 0.5]))
    Array([-1.,  0.,  1.], dtype=float32)

    Reference: Li et al., "Ternary Weight Networks", 2016,
    https://arxiv.org/abs/1605.04711 (strict at the threshold; larq is inclusive).
    """
    x = estimates.as_float(x)
    if threshold is None:
        threshold = 0.7 * jnp.mean(jnp.abs(estimates.widen(x)))
    threshold = estimates.check("threshold", threshold, 0, closed=True)
    clip_value = estimates.check_clip(clip_value)
    return estimates.estimate(_ternary, estimates.window, x, clip_value, threshold)


def _dorefa(x, levels):
    return jnp.round(jnp.clip(x, 0.0, 1.0) * levels) / levels


def _unit_window(x, levels):
    return jnp.where((x >= 0.0) & (x <= 1.0), 1.0, 0.0)


def _dorefa_weights(x, levels, peak):
    unit = jnp.clip(jnp.tanh(x) / (2.0 * peak) + 0.5, 0.0, 1.0)
    return (2.0 * jnp.round(unit * levels) - levels) / levels


def _tanh_slope(x, levels, peak):
    # 1 - tanh^2(x) = 4 e / (1 + e)^2 with e = exp(-2 |x|) keeps its digits.
    e = jnp.exp(-2.0 * jnp.abs(x))
    return 4.0 * e / (1.0 + e) ** 2 / peak


def _peak(x):
    """Returns the largest |tanh(x)|, NaN aside; 1 if there is none above 0."""
    magnitude = jnp.tanh(jnp.abs(estimates.widen(x)))
    peak = jnp.max(jnp.where(jnp.isnan(magnitude), 0.0, magnitude), initial=0.0)
    return jax.lax.stop_gradient(jnp.where(peak > 0.0, peak, 1.0))


@marks.of_bits(lambda bits=2, **_: bits)
def dorefa(x: ArrayLike, bits: int = 2, mode: str = "activations") -> jax.Array:
    """Return `x` on 2^bits even levels: in [0, 1] for activations, [-1, 1] for weights.

    With n = 2^bits - 1 and halves rounded to even:

    * ``mode="activations"``: q(x) = round(clip(x, 0, 1) n) / n; q(0) = 0. dq/dx = 1
      where 0 <= x <= 1, else 0.
    * ``mode="weights"``: q(x) = (2 round((tanh(x) / (2 m) + 1/2) n) - n) / n with m the
      largest abs(tanh(x)) of the array, through which no gradient flows (1 if all are
      0), so that the largest weight takes the last level. dq/dx = (1 - tanh^2(x)) / m.
      A level of 0 exists for no number of bits: q(0) is the one that rounding to even
      chooses of the two around it.

    As a `kernel_quantizer` use ``functools.partial(dorefa, bits=2, mode="weights")``,
    one for all layers, on real-valued kernels that an ordinary optimizer trains.

    Args:
        x: Floating-point array of any shape; in mode ``"weights"`` a whole kernel.
        bits: Static Python integer from 1 to 32.
        mode: ``"activations"`` or ``"weights"``.

    Raises:
        TypeError: If `x` is not real floating point.
        ValueError: If `bits` is not an integer from 1 to 32, or `mode` is another word.

    >>> dorefa(jnp.array([-1.0, 0.4, 0.9]), bits=1)
    Array([0., 0., 1.], dtype=float32)
    >>> dorefa(jnp.array([-2.0, -0.1, 0.1, 0.5]), mode="weights")
    Array([-1.        , -0.33333334,  0.33333334,  0.33333334], dtype=float32)

    Reference: Zhou et al., "DoReFa-Net: Training Low Bitwidth Convolutional Neural
    Networks with Low Bitwidth Gradients", 2016, https://arxiv.org/abs/1606.06160,
    Eq. 5 to 7 and 9. That m is a constant for the gradient follows Larq.
    """
    checks.integer("`bits`", bits)
    checks.within("`bits`", bits, "[1, 32]")
    checks.choice("`mode`", mode, ("activations", "weights"))
    levels = float(2**bits - 1)
    if mode == "activations":
        return estimates.estimate(_dorefa, _unit_window, x, levels)
    x = estimates.as_float(x)
    return estimates.estimate(_dorefa_weights, _tanh_slope, x, levels, _peak(x))
