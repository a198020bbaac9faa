import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sgdat_jax as sj
import shared_runs
from sgdat_jax.experiments import registry

pytestmark = pytest.mark.usefixtures("compiled_quickly")


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


_DESCRIBED = [
    ("sgdat", {}, sj.sgdat()),
    ("sgdat", {"threshold": 0.1, "momentum": 0.5}, sj.sgdat(1e-4, 0.1, momentum=0.5)),
    ("sgdt", {}, sj.sgdt(1e-4, 1e-8)),
    ("sgdt", {"learning_rate": 0.25, "threshold": 0.5}, sj.sgdt(0.25, 0.5)),
    (
        "sgdt",
        {"momentum": 0.5, "threshold": 0.0},
        sj.latent(optax.sgd(1e-4, momentum=0.5), at_zero="positive"),
    ),
    ("sgd", {}, sj.latent(optax.sgd(1e-4), at_zero="positive")),
    (
        "sgd",
        {"learning_rate": 0.5, "momentum": 0.5},
        sj.latent(optax.sgd(0.5, momentum=0.5), at_zero="positive"),
    ),
    ("adam", {}, sj.latent(optax.adam(1e-3), at_zero="positive")),
    ("lion", {}, sj.latent(optax.lion(1e-4), at_zero="positive")),
    (
        "lion",
        {"learning_rate": 0.75},
        sj.latent(optax.lion(0.75), at_zero="positive"),
    ),
    (
        "adam_adaptive",
        {},
        sj.latent(optax.adam(1e-3), clip=None, adaptive_threshold=1e-3),
    ),
    (
        "adam_adaptive",
        {"learning_rate": 0.75, "threshold": 0.5},
        sj.latent(optax.adam(0.75), clip=None, adaptive_threshold=0.5),
    ),
    (
        "lion_adaptive",
        {},
        sj.latent(optax.lion(1e-4), clip=None, adaptive_threshold=1e-4),
    ),
    (
        "lion_adaptive",
        {"learning_rate": 0.75, "threshold": 0.5},
        sj.latent(optax.lion(0.75), clip=None, adaptive_threshold=0.5),
    ),
    ("bop2nd_order", {"gamma": 0.5, "sigma": 0.25}, sj.bop2nd_order(0.5, 0.25)),
    ("boat", {"eta": 0.5}, sj.boat(0.5)),
    ("prob_bop", {"gamma": 0.5}, sj.prob_bop(0.5, steps_per_epoch=2)),
    ("diode", {"learning_rate": 0.5}, sj.diode(0.5)),
]


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    _DESCRIBED,
    ids=[f"{name} {given}" for name, given, _ in _DESCRIBED],
)
def test_names_and_hyperparameters_describe_optimizers(name, given, expected):
    start = jnp.where(jnp.arange(8) % 2 == 0, 1.0, -1.0)
    ends = []
    for tx in (registry.binary_optimizer(name, given, steps_per_epoch=2), expected):
        params, state, update = start, tx.init(start), jax.jit(tx.update)
        for step in range(3):
            # The fourth weight, which begins at -1, never has a gradient.
            gradient = jnp.cos(jnp.arange(8.0) + step).at[3].set(0)
            updates, state = update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        ends.append((params, state))
    shared_runs.assert_bit_equal(*ends)


def test_constants_of_normalization_are_the_published_ones():
    assert registry.NORMALIZATIONS == {
        "dataset": None,
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "tiny_imagenet": ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
    }
