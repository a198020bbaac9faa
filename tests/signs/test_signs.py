"""Tests of the sign estimators against plain NumPy float64 transcriptions."""

import functools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgdat_jax import signs
from sign_cases import (
    ANNEALED,
    ATOL,
    CASES,
    DTYPES,
    ESTIMATORS,
    ODD,
    POINTWISE,
    RTOL,
    name,
    points,
    ref_ede,
    value_and_slope,
)

pytestmark = pytest.mark.usefixtures("compiled_quickly")

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
    with pytest.raises(
        ValueError, match=rf"`{param}` must be in .* inf\), got {value}"
    ):
        estimator(jnp.ones(2), **{param: value})


@pytest.mark.parametrize(
    ("estimator", "param", "value"),
    [(e, p, 0) for e, p in ANNEALED if p != "threshold"]
    + [(signs.reste_o, "o_end", 0)],
)
def test_zero_is_a_value_error(estimator, param, value):
    with pytest.raises(
        ValueError, match=rf"`{param}` must be in [\[(]\d, inf\), got 0\."
    ):
        estimator(jnp.ones(2), **{param: value})


@pytest.mark.parametrize(("estimator", "param"), ANNEALED)
def test_array_parameter_is_a_value_error(estimator, param):
    with pytest.raises(ValueError, match=rf"`{param}` must be a scalar, .* \(2,\)"):
        estimator(jnp.ones(2), **{param: jnp.ones(2)})


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


@pytest.mark.parametrize(
    "slope",
    [
        functools.partial(bell_sign.__wrapped__, width=2.0),
        lambda z, *, width=2.0: bell_sign.__wrapped__(z, width),
        lambda z, width=2.0, /: bell_sign.__wrapped__(z, width),
    ],
    ids=["partial", "keyword", "position"],
)
def test_slopes_get_their_arguments_as_they_take_them(slope):
    x, quantize = jnp.array([-1.0, 0.5]), signs.surrogate(slope)
    value, gradient = jax.vjp(quantize, x)
    np.testing.assert_array_equal(value, signs.sign(x))
    np.testing.assert_array_equal(gradient(jnp.ones(2))[0], slope(x))


def test_a_sign_of_ones_own_takes_its_input_by_name():
    by_name = signs.surrogate(lambda z: z)
    np.testing.assert_array_equal(by_name(z=-jnp.ones(2)), -jnp.ones(2))


@pytest.mark.parametrize("value", ["1", None, 1j])
def test_parameters_that_are_no_numbers_are_named(value):
    message = f"`beta` must be a number or an array of shape (), got {value!r}."
    with pytest.raises(TypeError, match=re.escape(message)):
        signs.swish_sign(jnp.ones(2), beta=value)


_quantize = signs.annealed(signs.ede_sign, "t", signs.ede_t)


@pytest.mark.parametrize(
    "inner",
    [
        jax.jit(_quantize),
        jax.checkpoint(_quantize),
        lambda x: jax.lax.cond(True, _quantize, jnp.sin, x),
    ],
    ids=["jit", "checkpoint", "cond"],
)
def test_programs_within_are_traced_anew_for_another_progress(inner):
    def step(progress, x):
        def loss(x):
            with signs.annealing(progress):
                return inner(x).sum()

        return jax.grad(loss)(x)

    for program in (step, lambda *operands: step(*operands)):
        for progress, slope in ((0.0, 1.0), (1.0, 10.0)):
            # Two programs, each with a traced progress of its own.
            assert jax.jit(program)(progress, jnp.zeros(1)) == slope
    assert jax.grad(lambda x: inner(x).sum())(jnp.zeros(1)) == 10.0


def test_bad_slopes_are_refused():
    with pytest.raises(TypeError, match="`slope` must be a function, got 3"):
        signs.surrogate(3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'height'"):
        bell_sign(1.0, height=2.0)
    with pytest.raises(TypeError, match="must be a real floating-point array"):
        bell_sign(jnp.arange(3))


@pytest.mark.parametrize(
    ("quantizer", "bits"),
    [
        *((sign, 1) for sign in (signs.sign, signs.ste_sign, signs.swish_sign)),
        (bell_sign, 1),
        (signs.magnitude_aware_sign, 1),
        (signs.ste_heaviside, 1),
        (signs.ste_ternary, 2),
        (signs.dorefa, 2),
        (functools.partial(signs.dorefa, mode="weights"), 2),
        (functools.partial(signs.dorefa, bits=3, mode="weights"), 3),
        (jnp.tanh, None),
        (None, None),
    ],
)
def test_precision_is_that_of_the_values(quantizer, bits):
    assert signs.precision(quantizer) == bits


def test_precision_of_a_quantizer_of_ones_own():
    def thirds(x):
        return jnp.round(3 * x) / 3

    thirds.precision = 5
    assert signs.precision(functools.partial(thirds)) == 5
