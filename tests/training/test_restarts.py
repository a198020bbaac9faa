"""The paper's recipes restart what the published training script restarts."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sgdat_jax.experiments import configs, methods, recipes, setup

_GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
_STEPS_PER_EPOCH = 25
_RECORDED = {"sgd_star": "sgd", "sgdm_star": "sgdm"}  # others under their own name
# Restarts change nothing where an optimizer holds nothing but its latent weights, or
# where the script keeps its averages beside the weights.
_ALIKE = {"sgd_star", "sgd", "sgdt", "bop", "bop2nd_order"}
_KEEP = {"restart_binary_every_epoch": False, "reset_flips_every_epoch": False}


@pytest.fixture(scope="module")
def published():
    with np.load(_GOLDEN / "published.npz") as file:
        return {name: file[name] for name in ("w0", "grads")}


@pytest.fixture(scope="module")
def restarts():
    with np.load(_GOLDEN / "restarts.npz") as file:
        return dict(file)


def _recipe(method, **changes):
    settings = recipes.RECIPES[f"cifar10-binarynet-{method}"] | changes
    return configs.TrainConfig(**settings)


def _train(settings, published, steps=200):
    """Returns the weights after each step of a recipe's optimizer."""
    start = np.where(published["w0"] >= 0, 1, -1).astype(np.float32)
    params = {"binary_params": {"kernel": jnp.asarray(start)}}
    tx = setup.create_optimizer(
        settings, params, _STEPS_PER_EPOCH, settings.hyperparameters()
    )

    def step(carry, gradient):
        params, opt_state = carry
        gradients = {"binary_params": {"kernel": gradient}}
        updates, opt_state = tx.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
        return (params, opt_state), params["binary_params"]["kernel"]

    take = jax.jit(step)
    carry, weights = (params, tx.init(params)), []
    for gradient in published["grads"][:steps]:
        if settings.optimizer == "bop2nd_order" and not weights:
            (_, opt_state), _ = take(carry, gradient)
            carry = _all_positive(params, opt_state)
            weights.append(np.ones_like(start))
            continue
        carry, kernel = take(carry, gradient)
        weights.append(np.asarray(kernel))
    return np.stack(weights)


def _all_positive(params, opt_state):
    """Sets weights to +1, as the published Bop2ndOrder does at its first step."""
    opt_state = jax.tree.map(
        lambda leaf: jnp.abs(leaf) if leaf.dtype == jnp.int16 else leaf, opt_state
    )
    return jax.tree.map(jnp.ones_like, params), opt_state


@pytest.mark.parametrize("method", methods.PAPER)
def test_weights_are_those_of_the_published_loop(method, published, restarts):
    recorded = np.unpackbits(restarts[_RECORDED.get(method, method)])
    expected = np.where(recorded.reshape(published["grads"].shape), 1.0, -1.0)
    weights = _train(_recipe(method), published)
    np.testing.assert_array_equal(weights, expected)
    kept = _train(_recipe(method, **_KEEP), published, steps=50)
    first_epoch = slice(None, _STEPS_PER_EPOCH)
    np.testing.assert_array_equal(kept[first_epoch], expected[first_epoch])
    assert (kept != expected[:50]).any() == (method not in _ALIKE)


def test_every_optimizer_of_latent_weights_restarts_its_moments(published):
    # What has no row in the paper keeps to the same rule.
    for settings in (
        {"optimizer": "lion"},
        {"optimizer": "adam_adaptive"},
        {"optimizer": "lion_adaptive"},
        {"optimizer": "sgdt", "momentum": 0.9},
    ):
        kept, restarted = (
            _train(
                configs.TrainConfig(**settings, restart_binary_every_epoch=restart),
                published,
                steps=30,
            )
            for restart in (False, True)
        )
        np.testing.assert_array_equal(kept[:25], restarted[:25])
        assert (kept[25] != restarted[25]).any(), settings


def test_the_schedule_goes_on(published):
    # A rate of zero at the end moves nothing, however often the moments restart.
    settings = configs.TrainConfig(
        optimizer="adam",
        binary_schedule="cosine",
        restart_binary_every_epoch=True,
        epochs=2,
    )
    weights = _train(settings, published, steps=60)
    assert (weights[48] != weights[0]).any()
    np.testing.assert_array_equal(weights[50:], weights[[49] * 10])
