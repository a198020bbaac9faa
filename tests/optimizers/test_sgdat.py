"""SGDAT against its NumPy transcription, at the edges, and with bad input."""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sgdat_jax as sj
from reference import Sgdat

STEPS = 5
# Float32 rounds each of few operations per step by 2**-24 of what has gone into a
# latent weight so far, and each hyperparameter once: 32 roundings bound STEPS steps.
LATENT_TOLERANCE = 32 * 2.0**-24
# XLA flushes subnormal float32 numbers to zero.
TINY = 2.0**-120

settings = hypothesis.settings(deadline=None, derandomize=True, max_examples=40)

# What changes the compiled program; all other hyperparameters are traced.
STRUCTURES = {
    "plain": {},
    "momentum": {"momentum": 0.9, "dampening": 0.0},
    "nesterov decay": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.0},
    "restart": {"momentum": 0.9, "weight_decay": 0.0, "reset_flips_every": 2},
}
SHAPES = [(), (3, 2)]

gradient = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5]),
    st.floats(-4.0, 4.0, width=32),
    st.sampled_from([2.0**-140, -(2.0**-100), 1e-20, -1e20, 2.0**100]),
)
numbers = {
    "learning_rate": st.sampled_from([1.0, 1e-4, 0.01, 0.0]),
    "threshold": st.sampled_from([0.0, 1e-7, 1e-3, 0.5, 100.0]),
    "momentum": st.floats(0.01, 0.99),  # a number 0 means none, which no tracer can
    "dampening": st.floats(0.0, 0.99),
    "weight_decay": st.sampled_from([0.1, 0.01, 1.0, 0.0]),
    "reset_flips_every": st.integers(1, STEPS + 1),
}


@st.composite
def runs(draw, structure):
    names = {"learning_rate", "threshold"} | structure.keys() - {"nesterov"}
    shape = draw(st.sampled_from(SHAPES))
    weights = draw(hnp.arrays(np.float32, shape, elements=st.sampled_from([-1.0, 1.0])))
    gradients = draw(hnp.arrays(np.float32, (STEPS, *shape), elements=gradient))
    hyperparameters = {name: draw(numbers[name]) for name in sorted(names)}
    return hyperparameters, weights, gradients


@functools.partial(jax.jit, static_argnames="nesterov")
def update(gradients, state, params, hyperparameters, nesterov):
    tx = sj.sgdat(**hyperparameters, nesterov=nesterov)
    updates, state = tx.update(gradients, state, params)
    return optax.apply_updates(params, updates), state


@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
@settings
@hypothesis.given(data=st.data())
def test_equals_the_reference(structure, data):
    hyperparameters, weights, gradients = data.draw(runs(structure))
    nesterov = structure.get("nesterov", False)
    reference = Sgdat(weights, nesterov=nesterov, **hyperparameters)
    momentum = hyperparameters.get("momentum")
    params = jnp.asarray(weights)
    # 0.5 stands for any momentum: a traced one always has a buffer.
    state = sj.sgdat(momentum=None if momentum is None else 0.5).init(params)
    traced = {
        name: jnp.asarray(value, jnp.int32 if type(value) is int else jnp.float32)
        for name, value in hyperparameters.items()
    }
    # A bound on all that went into a latent weight, and whether rounding cannot have
    # decided any flip of it yet. Weights are independent of each other.
    gone_in, scale = np.zeros(weights.shape), np.zeros(weights.shape)
    sure = np.ones(weights.shape, bool)
    for g in gradients:
        before, flips_before = np.asarray(params), np.asarray(sj.flip_counts(state))
        params, state = update(jnp.asarray(g), state, params, traced, nesterov=nesterov)
        reference.step(g)

        gone_in += np.abs(g.astype(np.float64)) + hyperparameters.get("weight_decay", 0)
        scale += 2 * hyperparameters["learning_rate"] * gone_in
        error = LATENT_TOLERANCE * scale + TINY * (scale > 0)
        latent = np.asarray(sj.latent_weights(state), np.float64)
        weights, flips = np.asarray(params), np.asarray(sj.flip_counts(state))
        threshold_error = LATENT_TOLERANCE * hyperparameters["threshold"] * reference.n
        sure &= (scale == 0) | (np.abs(reference.margin) > error + threshold_error)

        assert np.all(np.abs(weights) == 1)
        # The decay pulls at the weight, so the latent follows only while that is sure.
        assert np.all(np.abs(latent - reference.m)[sure] <= error[sure])
        np.testing.assert_array_equal(weights[sure], reference.w[sure])
        np.testing.assert_array_equal(flips[sure], reference.n[sure])
        # For all weights, the update is the rule on the latents that it computed.
        restart = hyperparameters.get("reset_flips_every")
        if restart and (reference.t - 1) % restart == 0:
            flips_before = np.zeros_like(flips_before)
        np.testing.assert_array_equal(flips - flips_before, weights != before)
        assert np.all(np.sign(latent)[weights != before] == weights[weights != before])


@settings
@hypothesis.given(
    # XLA takes subnormal numbers for zero.
    latent=hnp.arrays(
        np.float32, 8, elements=st.floats(-2, 2, width=32, allow_subnormal=False)
    ),
    flips=hnp.arrays(np.int16, 8, elements=st.integers(0, 4)),
    weights=hnp.arrays(np.float32, 8, elements=st.sampled_from([-1.0, 1.0])),
    threshold=st.sampled_from([0.0, 0.25, 0.5]),
)
def test_flips_exactly_where_the_inequality_holds(latent, flips, weights, threshold):
    # Multiples of 1/4 meet the threshold exactly, where nothing may flip.
    latent[::2] = np.round(4 * latent[::2]) / 4
    params = jnp.asarray(weights)
    state = sj.sgdat().init(params)
    signed_count = jnp.asarray(weights * (flips + 1), jnp.int16)
    state = state._replace(latent=jnp.asarray(latent), signed_count=signed_count)
    hyperparameters = {
        "learning_rate": jnp.float32(1),
        "threshold": jnp.float32(threshold),
    }
    after, state = update(jnp.zeros(8), state, params, hyperparameters, nesterov=False)
    beyond = np.abs(latent) > threshold * flips
    expected = np.where(beyond, np.sign(latent), weights)
    np.testing.assert_array_equal(after, expected)
    np.testing.assert_array_equal(sj.flip_counts(state), flips + (expected != weights))
    np.testing.assert_array_equal(sj.latent_weights(state), latent)


def train(tx, params, gradients):
    """Returns the parameters and the state after each step, the start included."""
    step, state = jax.jit(tx.update), tx.init(params)
    history = [(params, state)]
    for g in gradients:
        updates, state = step(jnp.asarray(g, jnp.float32), state, params)
        params = optax.apply_updates(params, updates)
        history.append((params, state))
    return history


def test_sign_of_zero_is_plus_one_at_the_start():
    state = sj.sgdat().init(jnp.array([0.0, -0.0, 1e-30, -1e-30]))
    np.testing.assert_array_equal(state.signed_count, [1, 1, 1, -1])


def test_zero_gradients_move_nothing():
    params = jnp.array([1.0, -1.0])
    after, state = train(sj.sgdat(), params, np.zeros((3, 2)))[-1]
    np.testing.assert_array_equal(after, params)
    np.testing.assert_array_equal(sj.flip_counts(state), [0, 0])


def test_restart_sets_counts_and_momentum_to_zero_and_keeps_latents():
    tx = sj.sgdat(1.0, 0.0, momentum=0.5, reset_flips_every=2)
    gradients = np.array([[8.0], [-32.0], [0.0], [0.0]])
    states = [state for _, state in train(tx, jnp.ones(1), gradients)]
    flips = [int(sj.flip_counts(state)[0]) for state in states]
    assert flips == [0, 1, 2, 0, 0]
    assert [float(state.momentum[0]) for state in states] == [0, 8, -28, 0, 0]
    latents = [float(sj.latent_weights(state)[0]) for state in states]
    assert latents == [0, -8, 20, 20, 20]


@pytest.mark.parametrize(("dtype", "limit"), [("int8", 126), ("int16", 32766)])
@pytest.mark.parametrize("weight", [-1.0, 1.0])
def test_saturated_counts_stay_and_the_weight_still_flips(dtype, limit, weight):
    tx = sj.sgdat(1.0, 0.0, count_dtype=dtype)
    params = jnp.array([weight])
    state = tx.init(params)
    state = state._replace(signed_count=(state.signed_count * limit).astype(dtype))
    reference = Sgdat(np.array([weight]), 1.0, 0.0, max_flips=limit)
    reference.n[:] = limit - 1
    step = jax.jit(tx.update)
    for t, count in enumerate([limit - 1, limit, limit, limit]):
        assert sj.flip_counts(state).dtype == dtype
        np.testing.assert_array_equal(sj.flip_counts(state), [count])
        np.testing.assert_array_equal(reference.n, [count])
        np.testing.assert_array_equal(params, [weight * (-1) ** t])
        np.testing.assert_array_equal(params, reference.w)
        gradient = params * (1 + 2 * (t > 0))  # beyond zero to the other side
        reference.step(np.asarray(gradient))
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)


@pytest.mark.parametrize("no_momentum", [None, 0, 0.0, np.float32(0)])
def test_no_momentum_has_no_buffer(no_momentum):
    assert sj.sgdat(momentum=no_momentum).init(jnp.ones(3)).momentum is None


def test_momentum_has_a_buffer_like_the_latents():
    state = sj.sgdat(momentum=0.9).init(jnp.ones(3, jnp.bfloat16))
    assert state.momentum.shape == (3,)
    assert state.momentum.dtype == jnp.float32


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({}, 6),
        ({"count_dtype": jnp.int8}, 5),
        ({"momentum": 0.9}, 10),
        ({"count_dtype": "int8", "latent_dtype": jnp.bfloat16}, 3),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_state_bytes_per_weight(kwargs, expected, dtype):
    params = jax.ShapeDtypeStruct((1000,), dtype)
    state = jax.eval_shape(sj.sgdat(**kwargs).init, params)
    per_weight = [leaf for leaf in jax.tree.leaves(state) if leaf.shape]
    assert sum(leaf.dtype.itemsize for leaf in per_weight) == expected


def test_latents_of_double_precision_parameters_are_double():
    with jax.enable_x64(True):
        params = jnp.array([1.0, -1.0], jnp.float64)
        tx = sj.sgdat(1e-3, 1e-6)
        gradients = np.random.default_rng(0).normal(size=(20, 2))
        step, state = jax.jit(tx.update), tx.init(params)
        reference = Sgdat(np.array([1.0, -1.0]), 1e-3, 1e-6)
        for g in gradients:
            updates, state = step(jnp.asarray(g), state, params)
            params = optax.apply_updates(params, updates)
            reference.step(g)
    assert params.dtype == np.float64
    np.testing.assert_array_equal(params, reference.w)
    latents = sj.latent_weights(state)
    assert latents.dtype == np.float64
    # One rounding per step, of values below 0.1; XLA contracts it, NumPy does not.
    np.testing.assert_allclose(latents, reference.m, rtol=0, atol=1e-16)


def test_schedules_are_read_at_the_step_before_counting():
    rates = jnp.array([1.0, 10.0, 100.0])
    levels = jnp.array([0.5, 0.25, 0.125])
    tx = sj.sgdat(lambda count: rates[count], lambda count: levels[count])
    history = train(tx, jnp.ones(1), np.ones((3, 1)))
    latents = [float(sj.latent_weights(state)[0]) for _, state in history]
    assert latents == [0, -1, -11, -111]
    # The threshold of step 0 is there before it, then each step's own; one flip each.
    states = [state for _, state in history]
    assert [float(state.threshold) for state in states] == [0.5, 0.5, 0.25, 0.125]
    found = [float(sj.thresholds(state)[0]) for state in states]
    assert found == [0, 0.5, 0.25, 0.125]
    assert [int(state.count) for state in states] == [0, 1, 2, 3]


def test_a_nan_gradient_leaves_the_weight():
    history = train(sj.sgdat(), jnp.array([1.0, -1.0]), [[np.nan, np.nan], [1.0, -1.0]])
    params, state = history[-1]
    np.testing.assert_array_equal(params, [1.0, -1.0])
    assert np.isnan(sj.latent_weights(state)).all()
