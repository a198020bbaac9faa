"""Bop and Bop2ndOrder against their rules, written in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sgdat_jax as sj

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def train(tx, params, gradients):
    """Returns the parameters after each step."""
    state, update, history = tx.init(params), jax.jit(tx.update), []
    for g in gradients:
        updates, state = update(jnp.asarray(g, jnp.float32), state, params)
        params = optax.apply_updates(params, updates)
        history.append(np.asarray(params))
    return history


def test_bop_flips_only_beyond_its_threshold():
    # Averages 0.25, 0.625, 0.3125 and -0.34375, by hand.
    gradients = [[0.5], [1.0], [0.0], [-1.0]]
    weights = train(sj.bop(gamma=0.5, threshold=0.25), jnp.ones(1), gradients)
    assert [float(w[0]) for w in weights] == [1, -1, -1, 1]


def test_bop2nd_order_flips_only_beyond_its_threshold():
    # With sigma 1 the deviation is the gradient's size: scores 0.25, 0.375 and -0.3125.
    tx = sj.bop2nd_order(gamma=0.5, sigma=1.0, threshold=0.25, eps=1.0)
    weights = train(tx, jnp.ones(1), [[1.0], [1.0], [-2.0], [-1.0]])
    assert [float(w[0]) for w in weights] == [1, -1, -1, 1]


def rate(t):
    return 0.4 / (1 + t)


def level(t):
    return 0.02 * (1 + t)


@pytest.mark.parametrize(
    ("gamma", "threshold"),
    [(0.1, 0.05), (rate, level), (0.1, level), (rate, 0.05)],
    ids=["numbers", "schedules", "schedule of threshold", "schedule of gamma"],
)
@pytest.mark.parametrize("second", [False, True], ids=["bop", "bop2nd_order"])
def test_weights_follow_the_rule(gamma, threshold, second):
    rng = np.random.default_rng(0)
    w = start = rng.choice([-1.0, 1.0], (30, 20))
    gradients = rng.normal(size=(15, 30, 20)).astype(np.float32)
    m, v, flips = np.zeros(w.shape), np.zeros(w.shape), 0
    sure = np.ones(w.shape, bool)
    eps, sigma = 0.25, lambda t: 0.5 / (1 + t)
    tx = sj.bop(gamma, threshold)
    if second:
        tx = sj.bop2nd_order(gamma, sigma, threshold, eps=eps)
    history = train(tx, jnp.asarray(start, jnp.float32), gradients)
    for t, (g, params) in enumerate(zip(gradients, history, strict=True)):
        now, tau = (x(t) if callable(x) else x for x in (gamma, threshold))
        m = (1 - now) * m + now * g
        v = v + sigma(t) * (g.astype(np.float64) ** 2 - v)
        score = w * (m / (np.sqrt(v) + eps) if second else m)
        # Float32 rounds averages of gradients of size 1 by less than this.
        sure &= np.abs(score - tau) > 1e-5
        before, w = w, np.where(score > tau, -w, w)
        flips += (w != before).sum()
        np.testing.assert_array_equal(params[sure], w[sure])
    assert sure.mean() > 0.98
    assert flips > w.size / 4
