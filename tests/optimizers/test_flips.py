"""Flips, silence, oscillation and margins, on trees and states with known answers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sgdat_jax as sj

pytestmark = pytest.mark.usefixtures("compiled_quickly")

MASKED = optax.MaskedNode()
NOTHING = [{}, {"a": MASKED}, None]


def assert_shares(ratio, total, per_leaf):
    assert isinstance(ratio, sj.FlipRatio)
    assert ratio.total.dtype == jnp.float32
    assert ratio.total == jnp.float32(total)
    expected = jax.tree.map(jnp.float32, per_leaf)
    chex.assert_trees_all_equal(ratio.per_leaf, expected, strict=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_flip_ratio_of_leaves_and_of_all(dtype):
    updates = {
        "a": jnp.array([0, 2, 0, -2], dtype),
        "b": {"c": jnp.zeros((3, 4), dtype), "real": MASKED},
    }
    ratio = jax.jit(sj.flip_ratio)(updates)
    assert_shares(ratio, 2 / 16, {"a": 0.5, "b": {"c": 0.0, "real": MASKED}})


def test_flip_ratio_of_many_bfloat16_weights_is_not_rounded_by_their_dtype():
    updates = jnp.where(jnp.arange(1000) < 300, 2, 0).astype(jnp.bfloat16)
    assert sj.flip_ratio(updates).total == jnp.float32(300) / 1000


def test_flip_ratio_is_the_share_of_weights_that_change():
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.choice([-1.0, 1.0], 100))
    tx = sj.sgdat()
    state, update = tx.init(params), jax.jit(tx.update)
    shares = []
    for _ in range(3):
        updates, state = update(jnp.asarray(rng.standard_normal(100)), state, params)
        after = optax.apply_updates(params, updates)
        shares.append(float(sj.flip_ratio(updates).total))
        assert np.float32(np.mean(after != params)) == np.float32(shares[-1])
        params = after
    assert min(shares) > 0


def test_flip_ratio_of_a_real_valued_start_counts_changes_of_sign():
    params = jnp.array([0.9, 0.01, -0.5, -1.9, 1.9, 0.3, -0.3, 1e-3])
    flips = jnp.array([0, 0, 0, 0, 0, 1, 1, 1])
    tx = sj.sgdat()
    against = jnp.where(params >= 0, 1.0, -1.0) * jnp.where(flips == 1, 1, -1)
    updates, _ = jax.jit(tx.update)(against, tx.init(params), params)
    assert sj.flip_ratio(updates).total == 3 / 8


def test_silent_ratio_of_leaves_and_of_all():
    counts = {"a": jnp.array([0, 1, 0, 7], jnp.int16), "b": jnp.ones(12, jnp.int16)}
    ratio = jax.jit(sj.silent_ratio)(counts | {"real": MASKED})
    assert_shares(ratio, 2 / 16, {"a": 0.5, "b": 0.0, "real": MASKED})


def test_silent_ratio_reads_what_flip_counts_returns():
    params = jnp.ones(4)
    tx = sj.sgdat()
    state = tx.init(params)
    assert sj.silent_ratio(sj.flip_counts(state)).total == 1
    _, state = jax.jit(tx.update)(jnp.array([1.0, 1.0, 0.0, -1.0]), state, params)
    assert sj.silent_ratio(sj.flip_counts(state)).total == 0.5


@pytest.mark.parametrize(("more_than", "share"), [(0, 0.75), (2, 0.25), (3, 0.0)])
@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int16])
def test_oscillating_ratio_counts_the_growth(more_than, share, dtype):
    before = {"a": jnp.array([0, 5, 100, 3], dtype), "real": MASKED}
    after = {"a": jnp.array([2, 6, 103, 3], dtype), "real": MASKED}
    ratio = sj.oscillating_ratio(before, after, more_than=more_than)
    assert_shares(ratio, share, {"a": share, "real": MASKED})


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_nothing_oscillates_beyond_what_a_counter_holds(dtype):
    before, after = jnp.zeros(2, dtype), jnp.array([1, 126], dtype)
    for more_than, share in ((125, 0.5), (200, 0.0), (40_000, 0.0)):
        ratio = sj.oscillating_ratio(before, after, more_than=more_than)
        assert ratio.total == share


def test_threshold_margins_are_latents_in_units_of_their_threshold():
    params = jnp.array([1.0, -1.0, 1.0, -1.0])
    tx = sj.sgdat(threshold=0.25)
    state = tx.init(params)._replace(
        latent=jnp.array([0.5, -0.25, 3.0, 0.0]),
        signed_count=jnp.array([2, -3, 1, -5], jnp.int16),
    )
    expected = [2.0, 0.5, np.inf, 0.0]
    margins = jax.jit(sj.threshold_margins)(state)
    np.testing.assert_array_equal(margins, np.float32(expected), strict=True)


def test_threshold_margins_are_infinite_without_a_threshold():
    params = jnp.ones(2)
    tx = sj.sgdat(threshold=0.0)
    _, state = jax.jit(tx.update)(jnp.array([1.0, 0.0]), tx.init(params), params)
    np.testing.assert_array_equal(sj.threshold_margins(state), [np.inf, np.inf])


def test_margins_divide_by_no_threshold_of_zero():
    params, tx = jnp.ones(2), sj.sgdat()
    with jax.debug_nans(True):
        margins = sj.threshold_margins(tx.init(params))
    np.testing.assert_array_equal(margins, [np.inf, np.inf])


def test_the_share_of_no_weights_is_zero():
    empty = jnp.ones((0, 3))
    assert_shares(sj.flip_ratio({"a": empty}), 0.0, {"a": 0.0})
    updates = {"a": empty, "b": jnp.array([0.0, -2.0])}
    assert_shares(sj.flip_ratio(updates), 0.5, {"a": 0.0, "b": 0.5})


def test_margins_and_shares_of_a_partitioned_model():
    model = sj.BinaryLinear(2, 3, use_bias=True, rngs=nnx.Rngs(0))
    tx = sj.partition_binary(model, binary=sj.sgdat(1.0, 0.5), real=optax.sgd(1.0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    params = nnx.state(model, nnx.Param)
    against = jax.tree.map(lambda w: w * jnp.float32(1), params)
    updates, _ = jax.jit(tx.update)(against, tx.init(params), params)
    assert sj.flip_ratio(sj.select_binary(model, updates)).total == 1
    optimizer.update(model, against)
    margins = sj.threshold_margins(optimizer.opt_state)
    np.testing.assert_array_equal(margins["kernel"][...], np.full((2, 3), 2.0))
    assert margins["bias"] == MASKED
    assert sj.silent_ratio(sj.flip_counts(optimizer.opt_state)).total == 0


@pytest.mark.parametrize("tree", NOTHING)
def test_trees_without_leaves_are_refused(tree):
    for call in (
        sj.flip_ratio,
        sj.silent_ratio,
        lambda tree: sj.oscillating_ratio(tree, tree, more_than=1),
    ):
        with pytest.raises(ValueError) as caught:
            call(tree)
        assert str(caught.value) == f"The tree must hold binary weights, got {tree!r}."


def test_margins_need_a_binary_optimizers_state():
    with pytest.raises(ValueError) as caught:
        sj.threshold_margins(optax.sgd(1.0).init(jnp.ones(2)))
    assert str(caught.value) == (
        "`opt_state` holds no binary optimizer's `latent`: got a state of type tuple."
    )


def test_the_last_bin_has_16384_flips_and_more():
    counts = jnp.array([8191, 8192, 16383, 16384, 32766], jnp.int16)
    shares = sj.flip_histogram(counts).total
    assert shares.shape == (16,)
    chex.assert_trees_all_close(shares[-3:], jnp.array([0.2, 0.4, 0.4]))
