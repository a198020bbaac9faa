"""Quantizers of other levels than -1 and +1, and activations, against NumPy."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from sgdat_jax import signs
from sign_cases import (
    DTYPES,
    RTOL,
    name,
    points,
    ref_dorefa_weights,
    ref_sign,
    ref_tanh_slope,
    ref_ternary,
    ref_window,
    value_and_slope,
)

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("shape", [(6, 4), (3, 3, 2, 4)])
def test_magnitude_aware_sign_equals_numpy(shape, dtype):
    x = np.random.default_rng(0).normal(size=shape)
    x.flat[:4] = [0.0, -0.0, 1.0, -1.0]
    x = jnp.asarray(x.astype(dtype))
    exact = np.asarray(x, np.float64)
    scale = np.abs(exact).reshape(-1, shape[-1]).mean(0)

    value, slope = value_and_slope(signs.magnitude_aware_sign)(x)

    assert value.dtype == slope.dtype == dtype
    value, slope = np.asarray(value, np.float64), np.asarray(slope, np.float64)
    np.testing.assert_allclose(value, scale * ref_sign(exact), RTOL[dtype])
    np.testing.assert_allclose(slope, scale * ref_window(exact), RTOL[dtype])


def test_magnitude_aware_sign_means_in_float32():
    # The sum of 4096 values of 100 overflows float16, their mean does not.
    x = jnp.full((4096, 1), -100.0, jnp.float16)
    value, slope = value_and_slope(signs.magnitude_aware_sign, None)(x)
    assert (value == -100).all() and (slope == 100).all()


def test_magnitude_aware_sign_with_infinite_entry():
    x = jnp.array([[jnp.inf, 0.5], [-0.5, -1.5]])
    value, slope = value_and_slope(signs.magnitude_aware_sign)(x)
    np.testing.assert_array_equal(value, [[np.inf, 1.0], [-np.inf, -1.0]])
    np.testing.assert_array_equal(slope, [[0.0, 1.0], [np.inf, 0.0]])


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_ternary_threshold_of_the_mean(dtype):
    x = np.random.default_rng(1).normal(size=(5, 7)).astype(dtype)
    exact = np.asarray(x, np.float64)
    value, slope = value_and_slope(signs.ste_ternary, threshold=None)(jnp.asarray(x))
    expected = ref_ternary(exact, 0.7 * np.abs(exact).mean())
    assert set(expected.flat) == {-1.0, 0.0, 1.0}
    np.testing.assert_array_equal(np.asarray(value, np.float64), expected)
    np.testing.assert_array_equal(np.asarray(slope, np.float64), ref_window(exact))


def test_ternary_threshold_is_seven_tenths_of_the_mean():
    x = jnp.array([0.72, 0.68, -0.72, -0.68, 1.2, -2.0])  # whose mean magnitude is 1
    value, _ = value_and_slope(signs.ste_ternary, threshold=None)(x)
    np.testing.assert_array_equal(value, [1, 0, -1, 0, 1, -1])


@pytest.mark.parametrize("threshold", [0.0, None])
def test_ternary_of_zeros_is_zero(threshold):
    value, _ = value_and_slope(signs.ste_ternary, threshold)(jnp.zeros(3))
    np.testing.assert_array_equal(value, np.zeros(3))


@pytest.mark.parametrize(
    ("bits", "error", "wanted"),
    [
        (0, ValueError, "at least 1"),
        (-1, ValueError, "at least 1"),
        (33, ValueError, r"in \[1, 32\]"),
        (2.0, TypeError, "an integer"),
        (True, TypeError, "an integer"),
        ("2", TypeError, "an integer"),
    ],
)
def test_bad_bits(bits, error, wanted):
    with pytest.raises(error, match=rf"`bits` must be {wanted}, got '?{bits}"):
        signs.dorefa(jnp.ones(2), bits)


# The same function object for all, as layers want it.
WEIGHTS = functools.partial(signs.dorefa, bits=3, mode="weights")


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_dorefa_of_weights_is_scaled_by_the_largest(dtype):
    x = np.random.default_rng(2).normal(size=(5, 7)).astype(dtype)
    exact = np.asarray(x, np.float64)
    value, slope = value_and_slope(WEIGHTS)(jnp.asarray(x))
    assert value.dtype == slope.dtype == dtype
    expected = ref_dorefa_weights(exact, 3)
    assert len(np.unique(expected)) > 5 and np.abs(expected).max() == 1
    np.testing.assert_allclose(np.asarray(value, np.float64), expected, RTOL[dtype])
    np.testing.assert_allclose(
        np.asarray(slope, np.float64), ref_tanh_slope(exact), RTOL[dtype]
    )


def test_dorefa_of_zero_or_nan_weights():
    value, slope = value_and_slope(WEIGHTS)(jnp.zeros(3))
    np.testing.assert_allclose(np.abs(value), np.full(3, 1 / 7), RTOL[jnp.float32])
    np.testing.assert_array_equal(slope, np.ones(3))  # not starved
    with_nan, _ = value_and_slope(WEIGHTS)(jnp.array([jnp.nan, 1.0, 0.3]))
    without, _ = value_and_slope(WEIGHTS)(jnp.array([0.0, 1.0, 0.3]))
    assert np.isnan(with_nan[0])
    np.testing.assert_array_equal(with_nan[1:], without[1:])


def test_bad_mode_is_a_value_error():
    with pytest.raises(ValueError, match=r"`mode` must be .* got 'weight'"):
        signs.dorefa(jnp.ones(2), mode="weight")


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("alpha", [0.2, 2.0])
def test_leaky_tanh_equals_numpy(alpha, dtype):
    x = points(dtype)
    exact = np.asarray(x, np.float64)
    value, slope = value_and_slope(signs.leaky_tanh, alpha)(x)
    inside, rounded = np.abs(exact) <= 1, float(np.asarray(alpha, dtype))
    with np.errstate(invalid="ignore"):
        beyond = np.sign(exact) * (1 + rounded * (np.abs(exact) - 1))
    largest = float(jnp.finfo(dtype).max)
    expected = np.where(inside, exact, beyond)
    expected[np.abs(expected) > largest] *= np.inf
    # Two products and sums, each rounded: four times a half unit in the last place.
    rtol = 4 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(value, np.float64), expected, rtol)
    np.testing.assert_allclose(
        np.asarray(slope, np.float64), np.where(inside, 1, rounded)
    )


def test_leaky_tanh_of_bad_arguments():
    with pytest.raises(ValueError, match=r"`alpha` must be in \(0, inf\), got 0"):
        signs.leaky_tanh(jnp.ones(2), 0)
    with pytest.raises(TypeError, match="`x` must be a real floating-point array"):
        signs.leaky_tanh(jnp.arange(2))
