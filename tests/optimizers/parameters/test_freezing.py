"""Weights that stay as they are, while others train as if all did."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sgdat_jax as sj
from sgdat_jax.optimizers.parameters import freezing

pytestmark = pytest.mark.usefixtures("compiled_quickly")

STEPS = 4


class Net(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.backbone = sj.BinaryLinear(8, 8, use_bias=True, rngs=rngs)
        self.head = sj.BinaryLinear(8, 8, use_bias=True, rngs=rngs)


def is_head(tree):
    """A mask of the weights to train."""
    return jax.tree.map_with_path(
        lambda path, _: "head" in jax.tree_util.keystr(path), tree
    )


def is_backbone(tree):
    return jax.tree.map(lambda trained: not trained, is_head(tree))


def sgdat():
    return sj.sgdat(0.1, 0.01)


# What trains the head alone, and what nothing.
SOME = {
    "masked": optax.masked(sgdat(), is_head),
    "chain": optax.chain(sgdat(), optax.masked(optax.set_to_zero(), is_backbone)),
    "partition": optax.partition({True: sgdat(), False: optax.set_to_zero()}, is_head),
    "masked twice": optax.chain(
        optax.masked(sgdat(), is_head), optax.masked(optax.set_to_zero(), is_backbone)
    ),
    "clipped": optax.masked(optax.chain(optax.clip(1e3), sgdat()), is_head),
    "latent": optax.masked(sj.latent(optax.sgd(0.1)), is_head),
}
NONE = {
    "set_to_zero": optax.set_to_zero(),
    "chain": optax.chain(optax.clip(1.0), optax.set_to_zero()),
    "after": optax.chain(sgdat(), optax.set_to_zero()),
    "masked": optax.masked(sgdat(), lambda tree: jax.tree.map(lambda _: False, tree)),
    "partition": optax.partition(
        {"trained": sgdat(), "kept": optax.set_to_zero()},
        lambda tree: jax.tree.map(lambda _: "kept", tree),
    ),
}


def forms():
    params = nnx.state(Net(), nnx.Param)
    return {"state": params, "dictionary": nnx.to_pure_dict(params)}


def train(binary, params):
    """Returns the parameters after each step, by name."""
    tx = sj.partition_binary(Net(), binary=binary, real=optax.adam(1e-2))
    step, state = jax.jit(tx.update), tx.init(params)
    trained = []
    for seed in range(STEPS):
        rng = np.random.default_rng(seed)
        gradients = jax.tree.map(
            lambda p, rng=rng: jnp.asarray(rng.normal(size=p.shape), p.dtype), params
        )
        updates, state = step(gradients, state, params)
        params = optax.apply_updates(params, updates)
        pure = nnx.to_pure_dict(params) if isinstance(params, nnx.State) else params
        trained.append(pure)
    return trained


@pytest.mark.parametrize(
    ("case", "form"), [*((case, "state") for case in SOME), ("masked", "dictionary")]
)
def test_some_weights_keep_their_bits_and_the_others_train(case, form):
    params = forms()[form]
    unfrozen = sj.latent(optax.sgd(0.1)) if case == "latent" else sgdat()
    start = forms()["dictionary"]
    frozen, free = train(SOME[case], params), train(unfrozen, params)
    assert np.any(free[-1]["backbone"]["kernel"] != start["backbone"]["kernel"])
    assert np.any(free[-1]["head"]["kernel"] != start["head"]["kernel"])
    for one, other in zip(frozen, free, strict=True):
        kernel = one["backbone"].pop("kernel")
        chex.assert_trees_all_equal(kernel, start["backbone"]["kernel"], strict=True)
        other["backbone"].pop("kernel")
        chex.assert_trees_all_equal(one, other, strict=True)


@pytest.mark.parametrize(
    ("case", "form"),
    [*((case, "state") for case in NONE), ("set_to_zero", "dictionary")],
)
def test_all_weights_keep_their_bits(case, form):
    params = forms()[form]
    start = forms()["dictionary"]
    frozen, free = train(NONE[case], params), train(sgdat(), params)
    for one, other in zip(frozen, free, strict=True):
        for layer in ("backbone", "head"):
            kernel = one[layer].pop("kernel")
            chex.assert_trees_all_equal(kernel, start[layer]["kernel"], strict=True)
            assert np.any(other[layer].pop("kernel") != kernel)
        chex.assert_trees_all_equal(one, other, strict=True)


def test_freezing_in_an_nnx_optimizer():
    model = Net()
    before = np.asarray(model.backbone.kernel[...])
    tx = sj.partition_binary(model, binary=SOME["masked"], real=optax.sgd(0.1))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    gradients = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, gradients)

    step(model, optimizer)
    np.testing.assert_array_equal(model.backbone.kernel[...], before)
    assert (model.head.kernel[...] == -1).all()
    assert (model.backbone.bias[...] == -0.1).all()
    counts = sj.layers_of(sj.flip_counts(optimizer.opt_state))
    assert list(counts) == ["head"]


@pytest.mark.parametrize(
    "binary", [SOME["masked"], NONE["set_to_zero"]], ids=["some", "none"]
)
def test_init_needs_no_values(binary):
    params = forms()["state"]
    tx = sj.partition_binary(Net(), binary=binary, real=optax.adam(1e-2))
    shapes = jax.eval_shape(tx.init, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, tx.init(params))
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, jax.jit(tx.init)(params))


SGD_LATER = optax.sgd(optax.linear_schedule(0.0, 1.0, 10))


@pytest.mark.parametrize(
    ("binary", "message"),
    [
        (optax.identity(), "got one that flips no weight: its state is EmptyState. To"),
        (SGD_LATER, "got one that flips no weight"),
        (optax.sgd(0.0), "got one that flips no weight"),
        (
            optax.masked(optax.set_to_zero(), is_backbone),
            "got one that flips no weight",
        ),
        (
            optax.partition({True: sgdat(), False: optax.sgd(1.0)}, is_head),
            "got one that moves backbone/kernel otherwise. To freeze weights, give "
            "`optax.set_to_zero()`, `optax.masked(sgdat(), mask)`, or `optax.chain(",
        ),
        (
            optax.partition({True: sgdat(), False: SGD_LATER}, is_head),
            "got one that moves backbone/kernel otherwise",
        ),
        (
            optax.chain(optax.masked(sgdat(), is_head), optax.scale(0.5)),
            "got one that moves backbone/kernel otherwise",
        ),
    ],
    ids=[
        "identity",
        "schedule from 0",
        "rate of 0",
        "half frozen",
        "partition",
        "partition with a schedule",
        "scaled",
    ],
)
def test_what_is_neither_flipped_nor_frozen_is_refused(binary, message):
    tx = sj.partition_binary(Net(), binary=binary, real=optax.adam(1e-3))
    with pytest.raises(ValueError) as caught:
        tx.init(forms()["state"])
    assert message in str(caught.value)


def test_fates_are_told_by_the_program():
    params = {"a": jnp.ones((3, 2)), "b": jnp.ones(5, jnp.bfloat16)}
    tx = optax.partition(
        {"zero": optax.set_to_zero(), "same": optax.identity()},
        {"a": "zero", "b": "same"},
    )
    assert freezing.fates(tx, params) == {("a",): "frozen", ("b",): "passed on"}
    moved = {("a",): "moved", ("b",): "moved"}
    for tx in (optax.sgd(0.0), optax.add_decayed_weights(1.0), sj.sgdat()):
        assert freezing.fates(tx, params) == moved
