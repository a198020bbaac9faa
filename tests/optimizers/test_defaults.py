"""The defaults of the binary optimizers, by what they do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sgdat_jax as sj
import shared_runs

pytestmark = pytest.mark.usefixtures("compiled_quickly")

# The published settings, as the docstrings have them.
DEFAULTS = {
    sj.sgdat: {"learning_rate": 1e-4, "threshold": 1e-7},
    sj.sgdt: {"learning_rate": 1e-4, "threshold": 1e-8},
    sj.bop: {"gamma": 1e-4, "threshold": 1e-8},
    sj.bop2nd_order: {
        "gamma": 1e-7,
        "sigma": 1e-3,
        "threshold": 1e-6,
        "eps": 1e-10,
        "bias_correction": False,
    },
    sj.boat: {"eta": 0.1, "weight_decay": 1e-3},
    sj.prob_bop: {"gamma": 1e-4, "threshold": 1e-8, "alpha": 0.5, "seed": 0},
    sj.diode: {"learning_rate": 1e-4, "b1": 0.99, "b2": 0.9999, "seed": 0},
    sj.latent: {"clip": 1.0, "threshold": 0.0, "start": "zero"},
}
REQUIRED = {
    sj.prob_bop: {"steps_per_epoch": 2},
    sj.latent: {"inner": optax.sgd(1.0)},
}


@pytest.mark.parametrize("factory", DEFAULTS, ids=lambda factory: factory.__name__)
def test_defaults_are_the_published_settings(factory):
    rng = np.random.default_rng(0)
    # Of all sizes, so that some lie on each side of any threshold.
    sizes = 10.0 ** rng.uniform(-6, 0.5, (4, 4000))
    gradients = jnp.asarray(sizes * rng.choice([-1, 1], sizes.shape), jnp.float32)
    start = jnp.asarray(rng.choice([-1.0, 1.0], 4000), jnp.float32)
    ends = []
    for given in ({}, DEFAULTS[factory]):
        tx = factory(**REQUIRED.get(factory, {}), **given)
        params, state, update = start, tx.init(start), jax.jit(tx.update)
        for g in gradients:
            updates, state = update(g, state, params)
            params = optax.apply_updates(params, updates)
        ends.append((params, state))
    shared_runs.assert_bit_equal(*ends)
