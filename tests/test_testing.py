"""Checks for own parts: good ones pass; what is wrong with bad ones is said."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import sgdat_jax as sj
from sgdat_jax import testing

pytestmark = pytest.mark.usefixtures("compiled_quickly")


class SeenState(NamedTuple):
    """A binary optimizer that counts no flips tells its weights by a property."""

    seen: optax.Updates

    @property
    def binary_params(self):
        return self.seen


def obey(change=lambda w, g, flip: jnp.where(flip, -2 * w, jnp.zeros_like(w)), **parts):
    """Flips each weight whose gradient speaks against it; `parts` break it."""

    def init(params):
        return SeenState(jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError("`params` must be passed to `update`.")
        moved = jax.tree.map(lambda w, g: change(w, g, w * g > 0), params, updates)
        return moved, SeenState(updates)

    parts = {"init": init, "update": update} | parts
    return optax.GradientTransformationExtraArgs(**parts)


def without_params(updates, state, params=None, **extra_args):
    return jax.tree.map(jnp.zeros_like, updates), state


def test_an_optimizer_without_flip_counts_passes():
    testing.check_binary_optimizer(obey())


@pytest.mark.parametrize(
    ("tx", "message"),
    [
        (optax.sgd(1.0), "neither 0 nor -2w"),
        (obey(lambda w, g, flip: jnp.where(flip, -1.5 * w, 0 * w)), "neither 0 nor"),
        (obey(lambda w, g, flip: jnp.zeros_like(w)), "no weight flips in 4 steps"),
        (
            obey(init=lambda params: SeenState(jnp.zeros([]))),
            "shapes|structure|Error in|tree",
        ),
        (
            obey(
                init=lambda p: SeenState(
                    jax.tree.map(lambda w: jnp.full(w.shape, 0.0), p)
                )
            ),
            "weak types",
        ),
    ],
    ids=["real", "half a flip", "never", "other state", "weak"],
)
def test_what_is_wrong_with_an_optimizer_is_said(tx, message):
    with pytest.raises(AssertionError, match=message):
        testing.check_binary_optimizer(tx)


def test_a_state_must_not_hold_a_buffer_twice():
    alias = obey(init=lambda params: SeenState(params))
    with pytest.raises(
        AssertionError, match="holds a buffer twice, or one of the param"
    ):
        testing.check_state_can_be_carried(alias)


def test_update_must_ask_for_params():
    careless = obey(update=without_params)
    with pytest.raises(AssertionError, match="must raise ValueError without `params`"):
        testing.check_arguments_of_update(careless)


def test_partition_asks_which_weights_are_trained():
    model = sj.BinaryLinear(4, 2, rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    tx = sj.partition_binary(model, binary=obey(), real=optax.sgd(1.0))
    updates, _ = tx.update(params, tx.init(params), params)
    after = optax.apply_updates(params, updates)
    assert (after["kernel"][...] == -params["kernel"][...]).all()
    with pytest.raises(ValueError, match="one that flips no weight"):
        sj.partition_binary(model, binary=optax.sgd(1.0), real=optax.sgd(1.0)).init(
            params
        )
    with pytest.raises(ValueError, match="`real` must not be a binary optimizer"):
        sj.partition_binary(model, binary=sj.bop(), real=obey()).init(params)


@pytest.mark.parametrize(
    "sign",
    [
        sj.sign,
        sj.ste_sign,
        sj.approx_sign,
        sj.swish_sign,
        functools.partial(sj.ede_sign, t=2.0),
        functools.partial(sj.reste_sign, o=2.0),
        sj.kernel_sign,
        sj.surrogate(lambda x: jnp.exp(-jnp.abs(x))),
    ],
)
def test_signs_pass(sign):
    testing.check_sign(sign)


@pytest.mark.parametrize(
    ("sign", "message"),
    [
        (lambda x: jnp.sign(x), "is not known as a sign"),
        (sj.ste_ternary, "is not known as a sign"),
        (sj.surrogate(lambda x: 1 / x), "finite"),
    ],
    ids=["unmarked", "ternary", "infinite slope"],
)
def test_what_is_wrong_with_a_sign_is_said(sign, message):
    with pytest.raises(AssertionError, match=message):
        testing.check_sign(sign)


class Doubled(sj.BinaryLinear):
    """A layer of one's own."""

    def __call__(self, inputs):
        return 2 * super().__call__(inputs)


class Uncounted(nnx.Module):
    def __init__(self):
        self.kernel = sj.BinaryParam(jnp.ones(3))

    def __call__(self, x):
        return x * jnp.expand_dims(self.kernel[...], 0)


def test_layers_pass_and_what_is_wrong_is_said():
    testing.check_binary_layer(Doubled(64, 32, rngs=nnx.Rngs(0)), (64,))
    with pytest.raises(AssertionError, match="`summarize` counts no operations"):
        testing.check_binary_layer(Uncounted(), (3,))
    with pytest.raises(AssertionError, match="no BinaryParam"):
        testing.check_binary_layer(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), (3,))


@pytest.mark.parametrize(
    "make",
    [sj.sgdat, sj.sgdt, sj.bop, sj.bop2nd_order, sj.boat, sj.prob_bop, sj.diode],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_optimizers_work_under_strict_promotion(make, dtype):
    params = {"kernel": jnp.array([1.0, -1.0], dtype)}
    tx = make(steps_per_epoch=3) if make is sj.prob_bop else make()
    with jax.numpy_dtype_promotion("strict"):
        state = jax.eval_shape(tx.init, params)
        updates, after = jax.eval_shape(tx.update, params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_networks_work_under_strict_promotion(dtype):
    with jax.numpy_dtype_promotion("strict"):
        shape = jax.eval_shape(
            lambda x: sj.models.DigitsNet(dtype=dtype, rngs=nnx.Rngs(0))(x),
            jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32),
        )
    assert (shape.shape, shape.dtype) == ((2, 10), jnp.float32)
