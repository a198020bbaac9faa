import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import shared_runs
from sgdat_jax.experiments import registry
from sgdat_jax.optimizers import restart

pytestmark = pytest.mark.usefixtures("compiled_quickly")

_PARAMS = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "b": jnp.ones(4)}


def _gradients(step):
    key = jax.random.fold_in(jax.random.key(7), step)
    return jax.tree.map(lambda p: jax.random.normal(key, p.shape), _PARAMS)


def _walk(tx, steps, before=lambda step, state, params: state):
    """Takes steps; ``before`` may change the state."""
    params, state, seen = _PARAMS, tx.init(_PARAMS), []
    update = jax.jit(tx.update)
    for step in range(steps):
        state = before(step, state, params)
        updates, state = update(_gradients(step), state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return seen


@pytest.mark.parametrize(
    ("name", "momentum"), [("adam", None), ("sgd", 0.9), ("sgd", None)]
)
def test_restart_is_a_new_optimizer_each_epoch_whose_schedule_goes_on(name, momentum):
    rate = registry.schedule("cosine", 0.1, steps=12, warmup_steps=2)
    tx = registry.real_optimizer(name, rate, {"momentum": momentum}, restart_every=4)
    plain = registry.real_optimizer(name, rate, {"momentum": momentum})

    def anew(step, state, params):
        # The published script's loop: a new optimizer at the start of each epoch.
        moments, schedule = state
        return (plain.init(params)[0] if step % 4 == 0 else moments), schedule

    got = _walk(tx, 12)
    shared_runs.assert_bit_equal(got, _walk(plain, 12, anew))
    differs = (got[4]["w"] != _walk(plain, 5)[4]["w"]).any()
    assert differs == (name == "adam" or momentum is not None)


@pytest.mark.parametrize(
    ("name", "momentum", "expected"),
    [
        ("adam", None, optax.adam(1e-2)),
        ("sgd", None, optax.sgd(1e-2)),
        ("sgd", 0.9, optax.sgd(1e-2, 0.9)),
    ],
)
def test_without_restart_it_is_optax(name, momentum, expected):
    tx = registry.real_optimizer(name, 1e-2, {"momentum": momentum})
    shared_runs.assert_bit_equal(tx.init(_PARAMS), expected.init(_PARAMS))
    shared_runs.assert_bit_equal(_walk(tx, 3), _walk(expected, 3))


def test_extra_arguments_reach_the_transformation_within():
    def scaled(updates, state, params=None, *, factor):
        return jax.tree.map(lambda u: factor * u, updates), state

    inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, scaled)
    tx = restart.restart_every(inner, 2)
    ones = jax.tree.map(jnp.ones_like, _PARAMS)
    updates, _ = tx.update(ones, tx.init(_PARAMS), _PARAMS, factor=3.0)
    chex.assert_trees_all_equal(updates, jax.tree.map(lambda p: 3 * p, ones))


def test_the_count_keeps_its_dtype_with_64_bits():
    with jax.enable_x64(True):
        tx = restart.restart_every(optax.trace(0.5), np.int64(2))
        before = tx.init(_PARAMS)
        _, after = tx.update(_PARAMS, before, _PARAMS)
    chex.assert_trees_all_equal_dtypes(before, after)


def test_bad_use():
    with pytest.raises(ValueError, match="`steps` must be at least 1, got 0"):
        restart.restart_every(optax.identity(), 0)
    tx = restart.restart_every(optax.trace(0.9), 2)
    with pytest.raises(ValueError, match="restart_every needs `params`"):
        tx.update(_PARAMS, tx.init(_PARAMS))
