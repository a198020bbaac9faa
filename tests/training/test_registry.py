import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sgdat_jax as sj
from sgdat_jax.training import registry


def test_schedules_are_those_of_optax():
    steps = jnp.arange(60)
    expected = optax.warmup_cosine_decay_schedule(0.0, 0.3, 10, 50)
    rate = registry.schedule("cosine", 0.3, 50, warmup_steps=10)
    np.testing.assert_allclose(
        jax.vmap(rate)(steps), jax.vmap(expected)(steps), rtol=1e-6
    )
    constant = registry.schedule("constant", 0.3, 50, warmup_steps=10)
    values = np.asarray(jax.vmap(constant)(steps))
    np.testing.assert_allclose(values[:11], 0.03 * np.arange(11), rtol=1e-6)
    assert (values[10:] == np.float32(0.3)).all()


@pytest.mark.parametrize(
    ("name", "rate"), [("sgdat", "learning_rate"), ("bop", "gamma")]
)
def test_binary_schedule_is_of_the_rate(name, rate):
    params = {"kernel": jnp.where(jnp.arange(8) % 2 == 0, 1.0, -1.0)}
    gradients = {"kernel": jnp.ones(8)}
    given = {rate: 0.5}
    tx = registry.binary_optimizer(name, given, schedule="cosine", steps=4)
    factory = getattr(sj, name)
    expected = factory(**{rate: optax.cosine_decay_schedule(0.5, 4)})
    states = tx.init(params), expected.init(params)
    for _ in range(3):
        states = (
            tx.update(gradients, states[0], params)[1],
            expected.update(gradients, states[1], params)[1],
        )
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("boat", {}, "boat has no rate for `binary_schedule`, got 'cosine'"),
        ("sgdat", {"learning_rate": -1.0}, "`learning_rate` must be in"),
    ],
)
def test_binary_schedule_that_makes_no_sense(name, given, message):
    with pytest.raises(ValueError, match=message):
        registry.binary_optimizer(name, given, schedule="cosine")


@pytest.mark.parametrize("name", sorted(registry.OPTIMIZERS.keys() - {"boat"}))
def test_every_optimizer_with_a_rate_takes_a_schedule(name):
    tx = registry.binary_optimizer(name, {}, schedule="cosine", steps=10)
    params = {"kernel": jnp.where(jnp.arange(8) % 2 == 0, 1.0, -1.0)}
    gradients = {"kernel": jnp.ones(8)}
    updates, _ = jax.jit(tx.update)(gradients, tx.init(params), params)
    # Weights above zero flip, or stay for now; none goes against its gradient.
    assert set(updates["kernel"][0::2].tolist()) <= {0.0, -2.0}
    assert set(updates["kernel"][1::2].tolist()) == {0.0}
