"""Going on from real-valued weights, and weights that are frozen."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sgdat_jax as sj
from cases import CASES, plain, start
from sgdat_jax.optimizers import binary

pytestmark = pytest.mark.usefixtures("compiled_quickly")

# Weight decay of SGDAT pulls on every weight, whatever its gradient.
FROZEN = [case for case in CASES if case.name != "sgdat nesterov decay"]
# With a gradient that moves latent weights by about 0.1 in a hundred steps.
STARTING = {
    "sgdat": (sj.sgdat(1e-3, start="params"), 1.0),
    "sgdt": (sj.sgdt(1e-3, start="params"), 1.0),
    "boat": (sj.boat(weight_decay=0.0, start="params"), 1e-3),
    "latent": (sj.latent(optax.adam(1e-3), start="params"), 1.0),
}


@pytest.mark.parametrize("case", FROZEN, ids=lambda case: case.name)
def test_weights_without_a_gradient_stay(case):
    params, state = start(), case.make().init(start())
    zero = jax.tree.map(jnp.zeros_like, params)
    for _ in range(3):
        params, state = plain(case).step(params, state, zero)
    chex.assert_trees_all_equal(params, start())
    assert not any(n.any() for n in jax.tree.leaves(sj.flip_counts(state)))


def test_a_latent_weight_of_zero_can_count_as_positive():
    tx = sj.latent(optax.sgd(1e-3), at_zero="positive")
    params = jnp.array([-1.0, 1.0, -1.0])
    updates, _ = tx.update(jnp.array([0.0, 0.0, 1.0]), tx.init(params), params)
    chex.assert_trees_all_equal(updates, jnp.array([2.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="`at_zero` must be 'keep' or 'positive'"):
        sj.latent(optax.sgd(1e-3), at_zero="negative")


@pytest.mark.parametrize("name", STARTING)
def test_real_valued_weights_keep_their_signs_until_their_gradients_speak(name):
    tx, size = STARTING[name]
    params = jnp.array([-0.7, -0.02, 0.02, 0.7])
    signs, gradients = jnp.sign(params), size * jnp.sign(params)
    state, update = tx.init(params), jax.jit(tx.update)
    chex.assert_trees_all_equal(sj.latent_weights(state), params)
    for step in range(100):
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        if step == 1:
            chex.assert_trees_all_equal(params, signs)
    chex.assert_trees_all_equal(params, jnp.array([-1.0, 1.0, -1.0, 1.0]))


def test_latent_weights_stay_within_their_bound():
    params = jnp.array([1.0, -1.0, 1.0])
    tx = sj.latent(optax.sgd(1.0), clip=0.5)
    _, state = tx.update(jnp.array([10.0, -10.0, 0.25]), tx.init(params), params)
    chex.assert_trees_all_equal(sj.latent_weights(state), jnp.array([-0.5, 0.5, -0.25]))


def test_the_threshold_of_boat_has_this_steps_gradient():
    # After one step |m| is |g| and the threshold sqrt(eta) |g|: 1 holds, 0.9 does not.
    params, gradients = jnp.ones(2), jnp.array([0.5, 2.0])
    for eta, expected in ((1.0, 0.0), (0.9, -2.0)):
        tx = sj.boat(eta=eta, weight_decay=0.0)
        updates, _ = tx.update(gradients, tx.init(params), params)
        chex.assert_trees_all_equal(updates, jnp.full(2, expected))


@pytest.mark.parametrize("make", [sj.sgdat, sj.sgdt, sj.boat])
def test_other_starts_are_refused(make):
    with pytest.raises(
        ValueError, match="`start` must be 'zero' or 'params', got 'one'"
    ):
        make(start="one")


@pytest.mark.parametrize("layout", ["exact", "compact"])
def test_extra_arguments_reach_the_optimizer_within(layout):
    def scaled(updates, state, params=None, *, factor):
        return jax.tree.map(lambda u: factor * u, updates), state

    inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, scaled)
    tx, params = sj.latent(inner, clip=None, layout=layout), jnp.ones(2)
    _, state = tx.update(params, tx.init(params), params, factor=3.0)
    np.testing.assert_array_equal(sj.latent_weights(state), [3.0, 3.0])


def test_a_rule_of_ones_own_takes_extra_arguments_if_it_says_so():
    def step(updates, state, *, value):
        counts = binary.flip_beyond(state.signed_count, updates, value)
        return state._replace(signed_count=counts)

    init, params = sj.bop().init, jnp.array([1.0, -1.0])
    tx = sj.flip_rule(init, step, takes_extra_args=True)
    updates, _ = tx.update(jnp.array([-0.5, -0.25]), init(params), params, value=0.3)
    np.testing.assert_array_equal(updates, [-2.0, 0.0])
    deaf = sj.flip_rule(init, lambda updates, state: state)
    deaf.update(params, init(params), params, value=0.3)
    with pytest.raises(TypeError, match="`step` must be a function, got None"):
        sj.flip_rule(init, None)
