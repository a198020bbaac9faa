"""Sums of products are rounded once, wherever a compiler contracts nothing, too."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sgdat_jax.optimizers import sums


def rounded(value):
    """Returns the float32 next to a fraction, to even in a tie."""
    near = np.float32(float(value))  # may be rounded twice
    ulp = np.spacing(np.abs(near))
    found = {float(near + step * ulp) for step in (-1, 0, 1)}

    def key(f):
        return abs(Fraction(f) - value), np.float32(f).view(np.uint32) & 1

    return min(found, key=key)


def random(rng, size, digits):
    """Returns numbers of many magnitudes, some of few digits, so that sums can tie."""
    reach = 10 if digits == "few" else 30
    values = rng.standard_normal(size) * 2.0 ** rng.integers(-reach, reach, size)
    return np.float32(np.float16(values) if digits == "few" else values)


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("digits", ["all", "few"])
def test_rounded_once(digits, close):
    rng = np.random.default_rng(0)
    scale, y, x = (random(rng, 20_000, digits) for _ in range(3))
    if close:  # the sum cancels, up to the error of the product
        product = -scale * y
        ulps = rng.integers(-2, 3, x.size).astype(np.float32)
        x = product + ulps * np.spacing(product)
    actual = np.asarray(jax.jit(sums.rounded_once)(x, scale, y))
    for one in zip(x, scale, y, actual, strict=True):
        x_, scale_, y_, sum_ = map(float, one)
        exact = Fraction(x_) + Fraction(scale_) * Fraction(y_)
        if abs(exact) < 2.0**-80:  # where errors themselves are rounded
            continue
        assert sum_ == rounded(exact), one


def test_rounded_once_where_two_roundings_would_be_wrong():
    x = np.float32(2**24)
    scale, y = np.float32(1 + 2**-13), np.float32(1 - 2**-13)
    # Just below half a unit in the last place: 1 if the product were rounded first.
    assert float(sums.rounded_once(x, scale, y)) == 2**24
    assert x + scale * y == 2**24
    x += np.float32(2)
    assert float(sums.rounded_once(x, scale, y)) == 2**24 + 2
    assert x + scale * y == 2**24 + 4


@pytest.mark.parametrize(
    ("x", "scale", "y", "expected"),
    [
        (np.inf, 1.0, 1.0, np.inf),
        (1.0, 2.0, -np.inf, -np.inf),
        (np.inf, 1.0, -np.inf, np.nan),
        (np.nan, 1.0, 1.0, np.nan),
        (3e38, 2.0, 3e38, np.inf),
        (1.0, 0.0, np.inf, np.nan),
        (0.5, 0.0, 3.0, 0.5),
    ],
)
def test_rounded_once_of_what_is_not_finite(x, scale, y, expected):
    actual = sums.rounded_once(*(jnp.float32(v) for v in (x, scale, y)))
    np.testing.assert_array_equal(actual, np.float32(expected))


def test_add_scaled_is_rounded_once_on_a_cpu():
    rng = np.random.default_rng(1)
    x, y = (rng.standard_normal(4096).astype(np.float32) for _ in range(2))
    np.testing.assert_array_equal(
        sums.add_scaled(x, 1e-4, y), sums.rounded_once(x, np.float32(1e-4), y)
    )


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_devices_need_no_contraction(platform):
    x = jnp.ones(8)
    lower = sums.add_scaled.trace(x, 0.1, x).lower
    text = lower(lowering_platforms=(platform,)).as_text()
    assert "bitcast_convert" in text
    assert "bitcast_convert" not in lower(lowering_platforms=("cpu",)).as_text()


def test_narrow_latents_are_added_as_they_are():
    x = jnp.ones(8, jnp.bfloat16)
    assert sums.add_scaled(x, 0.1, x).dtype == jnp.bfloat16
