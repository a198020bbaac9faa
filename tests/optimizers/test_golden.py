"""Bit equality with recorded trajectories of the authors' PyTorch code.

The recordings, and what they leave out, are described beside them in README.md.
"""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sgdat_jax as sj

GOLDEN = Path(__file__).parents[1] / "golden" / "published.npz"
CASES = {
    "sgdat": {},
    "sgdat_large_threshold": {"threshold": 1e-5},
    "sgdat_zero_threshold": {"threshold": 0},
    "sgdat_momentum": {"momentum": 0.9},
    "sgdat_momentum_dampening": {"momentum": 0.9, "dampening": 0.9},
    "sgdat_nesterov": {"momentum": 0.9, "nesterov": True},
    "sgdat_weight_decay": {"weight_decay": 1e-3},
    "sgdat_reset_every_25": {"threshold": 1e-6, "reset_flips_every": 25},
}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def nested(array):
    return {"a": array[..., :10, :], "b": {"c": array[..., 10:, :], "d": None}}


def flat(tree):
    if isinstance(tree, dict):
        return np.concatenate([tree["a"], tree["b"]["c"]], axis=-2)
    return np.asarray(tree)


RUNS = {
    "jit of a nested tree": ("jit", nested),
    "scan of an array": ("scan", np.asarray),
    "eager with an array": ("eager", np.asarray),
}


def run(tx, params, state, gradients, mode):
    """Returns the weights after each step, and the last parameters and state."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    carry = params, state
    if mode == "scan":
        carry, weights = jax.jit(lambda c, gs: jax.lax.scan(step, c, gs))(
            carry, gradients
        )
        return flat(weights), *carry
    one_step = step if mode == "eager" else jax.jit(step)
    weights = []
    for t in range(len(jax.tree.leaves(gradients)[0])):
        carry, params = one_step(carry, jax.tree.map(lambda g: g[t], gradients))  # noqa: B023
        weights.append(flat(params))
    return np.stack(weights), *carry


@pytest.mark.parametrize(
    ("case", "mode", "layout"),
    [
        pytest.param(case, *run, id=f"{case} by {name}")
        for case, (name, run) in itertools.product(CASES, RUNS.items())
        # Eager code is slow: the case that needs most of it stands for all.
        if run[0] != "eager" or case == "sgdat_nesterov"
    ],
)
def test_equals_the_published_code_to_the_bit(golden, case, mode, layout):
    tx = sj.sgdat(**CASES[case])
    start = np.where(golden["w0"] >= 0, 1, -1).astype(np.float32)
    params = jax.tree.map(jnp.asarray, layout(start))
    halves = np.split(golden["grads"], 2)
    expected = np.unpackbits(golden[f"{case}/weights_packed"])
    expected = np.where(expected.reshape(golden["grads"].shape), 1.0, -1.0)

    first, params, state = run(tx, params, tx.init(params), layout(halves[0]), mode)
    mid = flat(sj.latent_weights(state))
    second, _, state = run(tx, params, state, layout(halves[1]), mode)

    np.testing.assert_array_equal(np.concatenate([first, second]), expected)
    np.testing.assert_array_equal(mid, golden[f"{case}/latent_mid"])
    last = flat(sj.latent_weights(state))
    np.testing.assert_array_equal(last, golden[f"{case}/latent_last"])
    flips = flat(sj.flip_counts(state))
    np.testing.assert_array_equal(flips, golden[f"{case}/flips_last"])


# Case, optimizer, and what holds the recorded latent weights or momenta. None where the
# inner optimizer is Optax's, whose sums are rounded once where PyTorch rounds twice.
OTHERS = {
    "sgdt": (sj.sgdt(1e-4, 1e-6), sj.latent_weights),
    "latent_sgd": (sj.latent(optax.sgd(1e-4), at_zero="positive"), sj.latent_weights),
    "latent_sgdm": (sj.latent(optax.sgd(1e-4, 0.9), at_zero="positive"), None),
    "latent_adam": (sj.latent(optax.adam(1e-3), at_zero="positive"), None),
    "bop": (sj.bop(), lambda state: state.mu),
    "bop2nd_order": (sj.bop2nd_order(), lambda state: state.mu),
    "boat": (sj.boat(), sj.latent_weights),
    # SGDAT is latent SGD with an adaptive threshold.
    "sgdat": (
        sj.latent(optax.sgd(1e-4), clip=None, adaptive_threshold=1e-7),
        sj.latent_weights,
    ),
}

# Their one product is Optax's, which XLA adds to without rounding it on CPUs alone.
OPTAX_PRODUCTS = ("sgdt", "latent_sgd", "sgdat")


@pytest.mark.parametrize("case", OTHERS)
def test_other_optimizers_equal_the_published_code(golden, case):
    tx, read = OTHERS[case]
    if jax.default_backend() != "cpu" and case in OPTAX_PRODUCTS:
        read = None
    start = np.where(golden["w0"] >= 0, 1, -1).astype(np.float32)
    params, gradients = jnp.asarray(start), golden["grads"]
    expected = np.unpackbits(golden[f"{case}/weights_packed"])
    expected = np.where(expected.reshape(gradients.shape), 1.0, -1.0)
    state = tx.init(params)
    weights = []
    if case == "bop2nd_order":
        # The published loop shows it zeros at step 1, after which all weights are +1.
        _, state = jax.jit(tx.update)(gradients[0], state, params)
        params = jnp.ones_like(params)
        state = state._replace(signed_count=jnp.ones_like(state.signed_count))
        weights.append(np.asarray(params)[np.newaxis])
    steps = len(weights)
    first, params, state = run(tx, params, state, gradients[steps:100], "jit")
    mid = state
    second, _, last = run(tx, params, state, gradients[100:], "jit")
    np.testing.assert_array_equal(np.concatenate([*weights, first, second]), expected)
    for recorded, held in (("mid", mid), ("last", last)):
        latents = golden[f"{case}/latent_{recorded}"]
        if read is None:
            # Differences of rounding, two orders of magnitude above those measured.
            atol = 1e-4 * np.abs(latents).max()
            np.testing.assert_allclose(sj.latent_weights(held), latents, atol=atol)
        else:
            np.testing.assert_array_equal(read(held), latents)


def test_golden_cases_are_all_here(golden):
    recorded = {key.split("/")[0] for key in golden if "/" in key}
    assert recorded == {*CASES, *OTHERS}
