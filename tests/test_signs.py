"""Tests of the sign estimators against plain NumPy float64 transcriptions."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgdat_jax import signs

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]

# bfloat16 and float16 results are float32 results rounded once, so half a unit in the
# last place (2^-9, 2^-12), doubled. In float32, exp(-u) is off by up to u 2^-24
# relatively, and u reaches 87 before it underflows: 87 * 2^-24 = 5e-6, doubled.
RTOL = {jnp.float32: 1e-5, jnp.bfloat16: 2**-8, jnp.float16: 2**-11}
# Below the smallest normal number a result may be flushed to zero or lose digits.
ATOL = {dtype: float(jnp.finfo(dtype).smallest_normal) for dtype in DTYPES}

# The bounds as float32 holds them: the comparisons are made in float32.
TENTH = float(np.float32(0.1))
TWENTIETH = float(np.float32(0.05))

EDGES = [0.0, 0.05, 0.1, 0.25, 0.5, 1.0, 1.0078125, 1.5, 2.0, 30.0, 1e3, 1e30, np.inf]
NEAR_ONE = [1.0 - 2**-8, 1.0 + 2**-7, 1.5 + 2**-7]


def ref_sign(x):
    return np.where(x >= 0, 1.0, -1.0)


def ref_window(x, clip=1.0):
    return np.where(np.abs(x) <= clip, 1.0, 0.0)


def ref_approx(x):
    return np.where(np.abs(x) <= 1, 2 - 2 * np.abs(np.clip(x, -1, 1)), 0.0)


def ref_swish(x, beta=5.0):
    # Clipped where float64's cosh would overflow; the derivative is 0 from there on.
    bx = np.clip(beta * x, -700, 700)
    return beta * (2 - bx * np.tanh(bx / 2)) / (1 + np.cosh(bx))


def ref_ede(x, t=1.0):
    # cosh^-2 is 1 - tanh^2 without its cancellation.
    return max(1 / t, 1) * t / np.cosh(np.clip(t * x, -350, 350)) ** 2


def ref_reste(x, o=1.0):
    a = np.abs(x)
    power = np.clip(a, TENTH, 1.5) ** ((1 - o) / o) / o
    return np.where(a > 1.5, 0, np.where(a > TENTH, power, TENTH ** (1 / o) / TENTH))


def ref_heaviside(x):
    return np.where(x > 0, 1.0, 0.0)


def ref_ternary(x, d=TWENTIETH):
    return np.where(x >= d, 1.0, np.where(x <= -d, -1.0, 0.0))


def ref_dorefa(x, bits=2):
    return np.round(np.clip(x, 0, 1) * (2**bits - 1)) / (2**bits - 1)


def ref_unit(x):
    return np.where((x >= 0) & (x <= 1), 1.0, 0.0)


# id: (estimator, positional parameters, reference value, reference derivative)
CASES = {
    "ste": (signs.ste_sign, (), ref_sign, ref_window),
    "ste-1.5": (signs.ste_sign, (1.5,), ref_sign, lambda x: ref_window(x, 1.5)),
    "ste-none": (signs.ste_sign, (None,), ref_sign, np.ones_like),
    "approx": (signs.approx_sign, (), ref_sign, ref_approx),
    "swish": (signs.swish_sign, (), ref_sign, ref_swish),
    "swish-1": (signs.swish_sign, (1.0,), ref_sign, lambda x: ref_swish(x, 1.0)),
    "ede": (signs.ede_sign, (), ref_sign, ref_ede),
    "ede-2^-10": (signs.ede_sign, (2**-10,), ref_sign, lambda x: ref_ede(x, 2**-10)),
    "ede-10": (signs.ede_sign, (10.0,), ref_sign, lambda x: ref_ede(x, 10.0)),
    "reste": (signs.reste_sign, (), ref_sign, ref_reste),
    "reste-3": (signs.reste_sign, (3.0,), ref_sign, lambda x: ref_reste(x, 3.0)),
    "heaviside": (signs.ste_heaviside, (), ref_heaviside, ref_window),
    "ternary": (signs.ste_ternary, (), ref_ternary, ref_window),
    "ternary-1": (signs.ste_ternary, (1.0, None), lambda x: ref_ternary(x, 1.0),
                  np.ones_like),
    "dorefa": (signs.dorefa, (), ref_dorefa, ref_unit),
    "dorefa-4": (signs.dorefa, (4,), lambda x: ref_dorefa(x, 4), ref_unit),
}  # fmt: skip
ESTIMATORS = [
    signs.ste_sign,
    signs.approx_sign,
    signs.swish_sign,
    signs.ede_sign,
    signs.reste_sign,
    signs.magnitude_aware_sign,
    signs.ste_heaviside,
    signs.ste_ternary,
    signs.dorefa,
]
ODD = [e for e in ESTIMATORS if e not in (signs.ste_heaviside, signs.dorefa)]
# Estimators of one entry at a time, so that one entry's value tells nothing of others.
POINTWISE = [e for e in ESTIMATORS if e is not signs.magnitude_aware_sign]
ANNEALED = [
    (signs.ste_sign, "clip_value"),
    (signs.swish_sign, "beta"),
    (signs.ede_sign, "t"),
    (signs.reste_sign, "o"),
    (signs.magnitude_aware_sign, "clip_value"),
    (signs.ste_heaviside, "clip_value"),
    (signs.ste_ternary, "clip_value"),
    (signs.ste_ternary, "threshold"),
]


def name(value):
    return getattr(value, "__name__", None)


def points(dtype):
    """Return special values of both signs, and a grid, in `dtype`."""
    edges = np.array(EDGES + NEAR_ONE)
    x = np.concatenate([edges, -edges, np.linspace(-3, 3, 62)])
    with np.errstate(over="ignore"):  # 1e30 is inf in float16
        return jnp.asarray(x.astype(dtype))


@functools.cache  # so that tests share what is compiled
def value_and_slope(estimator, *params, **kwargs):
    """Return a jitted function of x that gives the value and the derivative."""

    @jax.jit
    def run(x):
        value, vjp = jax.vjp(lambda x: estimator(x, *params, **kwargs), x)
        return value, vjp(jnp.ones_like(value))[0]

    return run


# Most tests use this shape, so that each function is compiled once for them all.
LENGTH = 8
RUNS = {estimator: value_and_slope(estimator) for estimator in ESTIMATORS}


def pullback(estimator):
    return jax.jit(lambda x, cotangent: jax.vjp(estimator, x)[1](cotangent)[0])


PULLBACKS = {estimator: pullback(estimator) for estimator in ESTIMATORS}
CLIPPED = jax.jit(jax.grad(lambda x, clip: signs.ste_sign(x, clip).sum()))


def vectors(limit=None):
    value = st.floats(
        None if limit is None else -limit,
        limit,
        width=32,
        allow_nan=False,
        allow_subnormal=False,  # XLA's CPU backend flushes them
    )
    entries = st.lists(value, min_size=LENGTH, max_size=LENGTH)
    return entries.map(lambda entries: np.array(entries, np.float32))


hypothesis_settings = settings(deadline=None, derandomize=True, max_examples=40)


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_equal_numpy(case, dtype):
    estimator, params, ref_value, ref_slope = CASES[case]
    x = points(dtype)
    exact = np.asarray(x, np.float64)

    value, slope = value_and_slope(estimator, *params)(x)

    assert value.dtype == slope.dtype == dtype
    value, slope = np.asarray(value, np.float64), np.asarray(slope, np.float64)
    chex.assert_tree_all_finite((value, slope))
    np.testing.assert_allclose(value, ref_value(exact), rtol=RTOL[dtype], atol=0)
    np.testing.assert_allclose(slope, ref_slope(exact), RTOL[dtype], ATOL[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("shape", [(6, 4), (3, 3, 2, 4)])
def test_magnitude_aware_sign_equals_numpy(shape, dtype):
    x = np.random.default_rng(0).normal(size=shape)
    x.flat[:4] = [0.0, -0.0, 1.0, -1.0]
    x = jnp.asarray(x.astype(dtype))
    exact = np.asarray(x, np.float64)
    scale = np.abs(exact).reshape(-1, shape[-1]).mean(0)

    value, slope = RUNS[signs.magnitude_aware_sign](x)

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
    value, slope = RUNS[signs.magnitude_aware_sign](x)
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


@pytest.mark.parametrize("clip", [1.0, 0.3])
def test_window_bound_is_inclusive_and_judged_in_float32(clip):
    # The bfloat16 nearest to 0.3 lies above 0.3 and is outside, although 0.3 rounds
    # to it; 1.0 is exact and inside.
    x = jnp.array([clip, -clip], jnp.bfloat16)
    _, slope = value_and_slope(signs.ste_sign, clip)(x)
    assert (np.asarray(slope) == (clip == 1.0)).all()
    _, slope = value_and_slope(signs.ste_sign, clip)(jnp.float32(clip))
    assert slope == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_sign(dtype):
    x = jnp.array([0.0, -0.0, 2.0, -2.0, jnp.inf, -jnp.inf, jnp.nan], dtype)
    value, slope = value_and_slope(signs.sign)(x)
    assert value.dtype == dtype
    expected = [1.0, 1.0, 1.0, -1.0, 1.0, -1.0, np.nan]
    np.testing.assert_array_equal(np.asarray(value, np.float64), expected)
    np.testing.assert_array_equal(np.asarray(slope, np.float64), np.zeros(7))


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name)
def test_nan_stays_nan_alone(estimator, dtype):
    # On one axis magnitude_aware_sign makes each entry its own filter.
    x = points(dtype).at[3].set(jnp.nan)
    value, slope = RUNS[estimator](x)
    expected = np.arange(x.size) == 3
    np.testing.assert_array_equal(np.isnan(value), expected)
    np.testing.assert_array_equal(np.isnan(slope), expected)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name)
def test_nan_gradient_survives_zero_cotangent(estimator):
    nans = np.full(LENGTH, np.nan, np.float32)
    assert np.isnan(PULLBACKS[estimator](nans, np.zeros_like(nans))).all()


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name)
@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_jit_equals_eager(estimator, dtype):
    x = points(dtype)
    np.testing.assert_array_equal(RUNS[estimator](x)[0], estimator(x))


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name)
def test_vmap_equals_loop(estimator):
    x = jax.random.normal(jax.random.key(0), (3, 4, 2))
    looped = zip(*map(RUNS[estimator], x), strict=True)
    for got, want in zip(jax.vmap(RUNS[estimator])(x), looped, strict=True):
        np.testing.assert_array_equal(got, jnp.stack(want))


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name)
def test_scan_equals_loop(estimator):
    x = jax.random.normal(jax.random.key(1), (3, 4, 2))

    @jax.jit
    @jax.grad
    def scanned(x):
        step = lambda total, row: (total + estimator(row).sum(), None)  # noqa: E731
        return jax.lax.scan(step, 0.0, x)[0]

    expected = jnp.stack([RUNS[estimator](row)[1] for row in x])
    np.testing.assert_allclose(scanned(x), expected, RTOL[jnp.float32])


@pytest.mark.parametrize(("estimator", "param"), ANNEALED)
def test_parameters_are_traced_and_get_zero_gradient(estimator, param):
    x = jnp.linspace(-1.9, 2.1, LENGTH).reshape(4, 2)
    traces = []

    @jax.jit
    def grads(x, value):
        traces.append(value.dtype)
        loss = lambda x, value: estimator(x, **{param: value}).sum()  # noqa: E731
        return estimator(x, **{param: value}), *jax.grad(loss, (0, 1))(x, value)

    first = grads(x, 1.0)
    for value in (2.0, jnp.bfloat16(2)):
        *got, param_grad = grads(x, value)
        assert param_grad == 0
        for a, b in zip(got, value_and_slope(estimator, **{param: 2})(x), strict=True):
            np.testing.assert_allclose(a, b, RTOL[jnp.float32])
    assert any((a != b).any() for a, b in zip(first[:2], got, strict=True))
    # 1.0 and 2.0 share a trace; an array is a different type of argument.
    assert traces == [jnp.float32, jnp.bfloat16]


def test_vmap_over_a_parameter():
    x, t = jnp.linspace(-1, 1, 5), jnp.array([0.5, 2.0, 8.0])
    slope = jax.jit(
        jax.vmap(jax.grad(lambda t, x: signs.ede_sign(x, t).sum(), 1), (0, None))
    )
    expected = [ref_ede(np.asarray(x, np.float64), float(value)) for value in t]
    np.testing.assert_allclose(slope(t, x), expected, RTOL[jnp.float32])


@pytest.mark.parametrize("estimator", [signs.sign, *ESTIMATORS], ids=name)
@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_wrong_dtype_is_a_type_error(estimator, dtype):
    with pytest.raises(TypeError, match=rf"`x` must be .* got x.dtype={dtype}"):
        estimator(jnp.ones((2, 2), dtype))


@pytest.mark.parametrize(("estimator", "param"), ANNEALED)
@pytest.mark.parametrize("value", [-1.0, float("nan"), np.float32("inf")])
def test_bad_number_is_a_value_error(estimator, param, value):
    with pytest.raises(ValueError, match=rf"`{param}` must be finite .* got .*{value}"):
        estimator(jnp.ones(2), **{param: value})


@pytest.mark.parametrize(
    ("estimator", "param", "value"),
    [(e, p, 0) for e, p in ANNEALED if p != "threshold"]
    + [(signs.reste_o, "o_end", 0)],
)
def test_zero_is_a_value_error(estimator, param, value):
    with pytest.raises(ValueError, match=rf"`{param}` must be finite and .* got 0\."):
        estimator(jnp.ones(2), **{param: value})


@pytest.mark.parametrize(("estimator", "param"), ANNEALED)
def test_array_parameter_is_a_value_error(estimator, param):
    with pytest.raises(ValueError, match=rf"`{param}` must be a scalar, .* \(2,\)"):
        estimator(jnp.ones(2), **{param: jnp.ones(2)})


@pytest.mark.parametrize("bits", [0, -1, 33, 2.0, True, "2"])
def test_bad_bits_is_a_value_error(bits):
    with pytest.raises(ValueError, match=rf"`bits` must be an integer .* got '?{bits}"):
        signs.dorefa(jnp.ones(2), bits)


@hypothesis_settings
@given(vectors())
def test_any_input_gives_finite_gradients(x):
    for estimator in POINTWISE:
        value, slope = RUNS[estimator](x)
        chex.assert_tree_all_finite((value, slope))
        assert (np.abs(value) <= 1).all()
        if estimator is not signs.swish_sign:  # the only one with negative tails
            assert (slope >= 0).all()


@hypothesis_settings
@given(vectors(limit=4.0))
def test_gradients_are_even(x):
    for estimator in ODD:
        np.testing.assert_array_equal(RUNS[estimator](x)[1], RUNS[estimator](-x)[1])


@hypothesis_settings
@given(vectors(limit=4.0), vectors(limit=100.0))
def test_gradient_is_cotangent_times_slope(x, cotangent):
    for estimator in ESTIMATORS:
        grad = PULLBACKS[estimator](x, cotangent)
        np.testing.assert_array_equal(grad, cotangent * RUNS[estimator](x)[1])


@hypothesis_settings
@given(vectors(limit=4.0), st.floats(0.125, 4.0, width=32))
def test_window_is_where_the_bound_says(x, clip):
    slope = CLIPPED(x, np.float32(clip))
    np.testing.assert_array_equal(slope, np.abs(x) <= np.float32(clip))


@pytest.mark.parametrize("dtype", [None, jnp.float32])
def test_ede_t_is_even_in_log_t(dtype):
    progress = np.linspace(0, 1, 9)
    got = jax.jit(signs.ede_t)(jnp.asarray(progress, dtype))
    np.testing.assert_allclose(got, np.geomspace(1e-3, 10, 9), RTOL[jnp.float32])


@pytest.mark.parametrize("o_end", [1.0, 3.0, 5.0])
def test_reste_o_follows_the_published_formula(o_end):
    progress = np.linspace(0, 1, 9)
    expected = 1 + (1 - np.cos(np.pi * progress / 2)) * (o_end - 1)
    got = jax.jit(signs.reste_o)(progress, o_end)
    np.testing.assert_allclose(got, expected, RTOL[jnp.float32])


@pytest.mark.parametrize("schedule", [signs.ede_t, signs.reste_o], ids=name)
def test_schedules_clip_progress(schedule):
    got = jax.jit(schedule)(jnp.array([-1.0, 2.0]))
    np.testing.assert_array_equal(got, jax.jit(schedule)(jnp.array([0.0, 1.0])))


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_strict_promotion_is_clean(dtype):
    x = jax.ShapeDtypeStruct((2, 2), dtype)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for estimator in ESTIMATORS:
            assert jax.eval_shape(RUNS[estimator], x) == (x, x)
        for schedule in (signs.ede_t, signs.reste_o):
            progress = jax.ShapeDtypeStruct((), dtype)
            assert jax.eval_shape(schedule, progress).dtype == jnp.float32


@signs.surrogate
def bell_sign(x, width=1.0):
    return jnp.exp(-((x / width) ** 2))


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_a_sign_of_ones_own_keeps_the_rules(dtype):
    x = points(dtype)
    value, slope = value_and_slope(bell_sign, 0.5)(x)
    np.testing.assert_array_equal(value, signs.sign(x))
    assert (value.dtype, slope.dtype) == (x.dtype, x.dtype)
    expected = bell_sign.__wrapped__(x.astype(jnp.float32), 0.5).astype(dtype)
    np.testing.assert_array_equal(slope, jax.jit(lambda s: s)(expected))
    nan = jnp.full(2, jnp.nan, dtype)
    assert np.isnan(bell_sign(nan)).all()


def test_a_sign_of_ones_own_is_known_as_one_and_annealed():
    assert bell_sign.__name__ == "bell_sign"
    assert signs.is_sign(bell_sign)
    assert signs.is_sign(functools.partial(bell_sign, width=2.0))
    assert not signs.is_sign(bell_sign.__wrapped__)
    traces = []

    @jax.jit
    def gradient(x, width):
        traces.append(None)
        return jax.grad(lambda x, width: bell_sign(x, width=width), (0, 1))(x, width)

    for width in (1.0, 2.0):
        slope, of_width = gradient(1.0, width)
        assert slope == pytest.approx(math.exp(-1 / width**2), rel=1e-6)
        assert of_width == 0
    assert len(traces) == 1


def test_bad_slopes_are_refused():
    with pytest.raises(TypeError, match="`slope` must be a function, got 3"):
        signs.surrogate(3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'height'"):
        bell_sign(1.0, height=2.0)
    with pytest.raises(TypeError, match="must be a real floating-point array"):
        bell_sign(jnp.arange(3))
