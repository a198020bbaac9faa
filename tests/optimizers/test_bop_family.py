"""ProbBop, Diode and corrected Bop2ndOrder against the rules, written in NumPy."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sgdat_jax as sj

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SHAPE = (40, 50)
START = np.random.default_rng(0).choice([-1.0, 1.0], SHAPE)


def gradient(step):
    return np.random.default_rng(step + 1).normal(size=SHAPE).astype(np.float32)


def train(tx, steps):
    params, state = jnp.asarray(START, jnp.float32), None
    state, update, weights = tx.init(params), jax.jit(tx.update), []
    for t in range(steps):
        updates, state = update(gradient(t), state, params)
        params = params + updates
        weights.append(np.asarray(params))
    return weights, state


def test_diode_follows_its_rule():
    eta, b1, b2 = 1e-2, 0.9, 0.95
    tx = sj.diode(eta, b1=b1, b2=b2, seed=3)
    first = np.asarray(tx.init(jnp.asarray(START, jnp.float32)).drift, np.float64)
    np.testing.assert_array_equal(np.sign(first), -START)
    assert 0 < np.abs(first).max() < 1e-3
    weights, state = train(tx, 60)
    mu, drift, flips = np.zeros(SHAPE), first, 0
    previous = START
    for t, actual in enumerate(weights):
        mu += (1 - b1) * (gradient(t) - mu)
        drift = drift + (1 - b2) * (eta * np.sign(mu) - drift)
        expected = np.where(drift > 0, -1.0, 1.0)
        # Where an average is within rounding of zero, its sign may be either.
        sure = np.abs(drift) > 1e-6
        np.testing.assert_array_equal(actual[sure], expected[sure])
        flips += np.sum(actual != previous)
        previous = actual
    assert sure.mean() > 0.99
    assert int(sj.flip_counts(state).sum()) == flips > 1000


def test_diode_starts_by_its_seed():
    params = jnp.asarray(START, jnp.float32)
    first, again, other = (
        np.asarray(sj.diode(seed=seed).init(params).drift) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.99


def test_diode_is_plus_one_where_its_average_is_zero():
    tx, params = sj.diode(1.0), jnp.array([1.0, -1.0])
    state = tx.init(params)._replace(drift=jnp.zeros(2))
    updates, state = tx.update(jnp.zeros(2), state, params)
    np.testing.assert_array_equal(params + updates, [1.0, 1.0])
    np.testing.assert_array_equal(sj.flip_counts(state), [0, 1])


@pytest.mark.parametrize("epoch", [1, 2])
def test_prob_bop_flips_surely_by_chance_or_never(epoch):
    gamma, tau, alpha, steps_per_epoch = 1.0, 1.0, 0.5, 3
    tx = sj.prob_bop(gamma, tau, alpha=alpha, steps_per_epoch=steps_per_epoch)
    # With gamma 1 the average is the last gradient, so each step stands alone.
    step = jax.jit(lambda g, s, p: tx.update(g, s, p))
    params = jnp.asarray(START, jnp.float32)
    state = tx.init(params)._replace(count=jnp.int32((epoch - 1) * steps_per_epoch))
    updates, _ = step(jnp.asarray(gradient(0)), state, params)
    flipped = np.asarray(updates) != 0
    middle = 1 - alpha**epoch / 2
    delta = np.abs(gradient(0)) / tau
    against = np.sign(gradient(0)) == START
    band = against & (delta > middle) & (delta < 1 / middle)
    np.testing.assert_array_equal(
        flipped & ~band, against & (delta > 1 / middle) & ~band
    )
    # Four standard deviations of the number of flips in the band.
    expected = 1 - np.exp(-delta[band])
    spread = 4 * np.sqrt(np.sum(expected * (1 - expected)))
    assert band.sum() > 50
    assert abs(flipped[band].sum() - expected.sum()) < spread


def test_prob_bop_draws_anew_at_each_step_and_repeats_by_seed():
    def last(seed):
        return train(sj.prob_bop(1.0, 1.0, steps_per_epoch=9, seed=seed), 3)[0]

    for one, two in zip(last(0), last(0), strict=True):
        np.testing.assert_array_equal(one, two)
    assert any((one != two).any() for one, two in zip(last(0), last(1), strict=True))


@pytest.mark.parametrize("shape", [(4, 3, 5), (1030,)])
def test_prob_bop_flips_two_weights_independently(shape):
    seeds, delta = 4000, 0.9

    def flipped(seed):
        tx = sj.prob_bop(1.0, 1.0, steps_per_epoch=9, seed=seed)
        params = jnp.ones(shape)
        updates, _ = tx.update(jnp.full(shape, delta), tx.init(params), params)
        return updates.ravel()[-60:] != 0

    flips = np.asarray(jax.jit(jax.vmap(flipped))(jnp.arange(seeds)), np.float64)
    chance = 1 - np.exp(-delta)
    # Of 60 means and 1770 correlations, so five standard deviations.
    bound = 5 / np.sqrt(seeds)
    assert np.abs(flips.mean(0) - chance).max() < bound * np.sqrt(chance * (1 - chance))
    correlation = np.corrcoef(flips, rowvar=False) - np.eye(flips.shape[1])
    assert np.abs(correlation).max() < bound


def test_prob_bop_flips_a_single_weight_by_chance():
    def flipped(seed):
        tx, param = sj.prob_bop(1.0, 1.0, steps_per_epoch=9, seed=seed), jnp.float32(1)
        updates, _ = tx.update(jnp.float32(0.9), tx.init(param), param)
        return updates != 0

    seeds, chance = 4000, 1 - np.exp(-0.9)
    share = jax.vmap(flipped)(jnp.arange(seeds)).mean()
    assert abs(share - chance) < 5 * np.sqrt(chance * (1 - chance) / seeds)


@pytest.mark.parametrize("gamma", [1e-7, 1e-2])
def test_corrected_bop2nd_order_follows_its_rule(gamma):
    sigma, tau = 1e-3, 0.5
    tx = sj.bop2nd_order(gamma, sigma, tau, bias_correction=True)
    weights, _ = train(tx, 20)
    w, mu, nu = START, np.zeros(SHAPE), np.zeros(SHAPE)
    for t, actual in enumerate(weights):
        g = gradient(t).astype(np.float64)
        mu += gamma * (g - mu)
        nu += sigma * (g**2 - nu)
        mu_hat = mu / -np.expm1((t + 1) * np.log1p(-gamma))
        nu_hat = nu / -np.expm1((t + 1) * np.log1p(-sigma))
        score = w * mu_hat / (np.sqrt(nu_hat) + 1e-10)
        sure = np.abs(score - tau) > 1e-4
        w = np.where(score > tau, -w, w)
        np.testing.assert_array_equal(actual[sure], w[sure])
        w = actual.astype(np.float64)
    assert (w != START).mean() > 0.1


def test_corrected_bop2nd_order_needs_no_promotion_of_dtypes():
    tx, params = sj.bop2nd_order(bias_correction=True), jnp.ones(4)
    expected = tx.update(params, tx.init(params), params)
    with jax.numpy_dtype_promotion("strict"):
        found = tx.update(params, tx.init(params), params)
    chex.assert_trees_all_equal(found, expected)


def test_eps_of_bop2nd_order_is_added_to_the_root():
    # With both rates 1 the averages are the last gradient's: |g| / (|g| + 1) > 0.5.
    tx, params = sj.bop2nd_order(1.0, 1.0, 0.5, eps=1.0), jnp.ones(4)
    gradients = jnp.array([0.75, 0.875, 1.125, 1.25])
    updates, _ = tx.update(gradients, tx.init(params), params)
    np.testing.assert_array_equal(updates, [0, 0, -2, -2])


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: sj.bop(gamma=-1.0), "gamma"),
        (lambda: sj.bop(gamma=1.5), "gamma"),
        (lambda: sj.bop2nd_order(sigma=float("nan")), "sigma"),
        (lambda: sj.bop2nd_order(eps=-1.0), "eps"),
        (lambda: sj.boat(eta=-0.1), "eta"),
        (lambda: sj.boat(weight_decay=2.0), "weight_decay"),
        (lambda: sj.prob_bop(steps_per_epoch=0), "steps_per_epoch"),
        (lambda: sj.diode(b2=1.0), "b2"),
        (lambda: sj.sgdt(momentum=1.0), "momentum"),
        (lambda: sj.latent(sj.sgdat(), start="random"), "start"),
        (lambda: sj.latent(sj.sgdat(), clip=-1.0), "clip"),
        (lambda: sj.latent(sj.sgdat(), adaptive_threshold=-1.0), "adaptive_threshold"),
    ],
)
def test_bad_hyperparameters_are_named(make, named):
    with pytest.raises(ValueError, match=f"`{named}`"):
        make()


@pytest.mark.parametrize(
    "factory", [sj.diode, functools.partial(sj.prob_bop, steps_per_epoch=9)]
)
def test_seeds_are_integers(factory):
    for seed in (0.5, "0", None):
        with pytest.raises(TypeError, match=f"`seed` must be an integer, got {seed!r}"):
            factory(seed=seed)
    tx, params = factory(seed=-1), jnp.ones(4)
    tx.update(params, tx.init(params), params)
