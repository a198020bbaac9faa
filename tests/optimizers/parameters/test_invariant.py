"""check_binary finds weights that are no longer -1 and +1, whoever changed them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sgdat_jax as sj

pytestmark = pytest.mark.usefixtures("compiled_quickly")


class Net(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(8, 8, rngs=rngs)
        self.hidden = sj.BinaryLinear(8, 8, use_bias=True, rngs=rngs)
        self.last = sj.BinaryLinear(8, 8, rngs=rngs)


def sgdat():
    return sj.sgdat(0.1, 0.001)


# Some flip rule is inside each, and something outside that changes its updates.
BROKEN = {
    "scale": optax.chain(sgdat(), optax.scale(0.9)),
    "weight decay": optax.chain(sgdat(), optax.add_decayed_weights(-0.01)),
    "schedule_free": optax.contrib.schedule_free(sgdat(), 1.0),
    "lookahead": None,
    "adam": None,
}
SOUND = {
    "alone": sgdat(),
    "clipped": optax.chain(optax.clip_by_global_norm(1.0), sgdat()),
    "inside latent": sj.latent(
        optax.chain(optax.sgd(0.1), optax.add_decayed_weights(-0.01))
    ),
    "accumulated": optax.MultiSteps(sgdat(), 2).gradient_transformation(),
    "finite": optax.apply_if_finite(sgdat(), 3),
}


def gradients(params, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params
    )


def train(tx, params, steps=4):
    state, update = tx.init(params), jax.jit(tx.update)
    for step in range(steps):
        updates, state = update(gradients(params, step), state, params)
        params = optax.apply_updates(params, updates)
    return params


def train_by(name):
    model = Net()
    params = nnx.state(model, nnx.Param)
    if name == "adam":
        return train(optax.adam(1e-2), params)
    if name == "lookahead":
        # It has two sets of parameters: the slow ones are averages.
        tx = optax.lookahead(sgdat(), sync_period=2, slow_step_size=0.5)
        both = optax.LookaheadParams.init_synced(nnx.state(model, sj.BinaryParam))
        state = tx.init(both)
        for step in range(4):
            grads = gradients(both.fast, step)
            updates, state = tx.update(grads, state, both)
            both = optax.apply_updates(both, updates)
        return both.slow
    tx = sj.partition_binary(model, binary=BROKEN[name], real=optax.adam(1e-2))
    return train(tx, params)


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_weights_is_found(name):
    params = train_by(name)
    kernel = np.abs(np.asarray(params["hidden"]["kernel"][...]))
    wrong = kernel[kernel != 1]
    with pytest.raises(ValueError) as caught:
        sj.check_binary(params)
    assert str(caught.value) == (
        f"`params` must be -1 and +1 where they are binary, got {wrong.size} of 64 "
        f"weights at hidden/kernel that are not, of magnitudes from {wrong.min():.6g} "
        f"to {wrong.max():.6g}. What scales, decays or averages updates belongs inside "
        "`latent`, or to the optimizer of the real-valued parameters."
    )


@pytest.mark.parametrize("name", SOUND)
def test_sound_weights_pass(name):
    model = Net()
    tx = sj.partition_binary(model, binary=SOUND[name], real=optax.adam(1e-2))
    start = nnx.state(model, nnx.Param)
    params = train(tx, start)
    assert np.any(params["hidden"]["kernel"][...] != start["hidden"]["kernel"][...])
    sj.check_binary(params)


def test_wrappers_around_the_real_optimizer_are_sound():
    model = Net()
    for real in (
        optax.chain(optax.adam(1e-2), optax.add_decayed_weights(-0.1)),
        optax.contrib.schedule_free_adamw(1e-2),
        optax.contrib.mechanize(optax.sgd(1.0)),
    ):
        tx = sj.partition_binary(model, binary=sgdat(), real=real)
        sj.check_binary(train(tx, nnx.state(model, nnx.Param)))


def test_every_form_of_the_parameters():
    model = Net()
    state = nnx.state(model, nnx.Param)
    pure = nnx.to_pure_dict(state)
    linen = {"params": {"a": jnp.ones(2)}, "binary_params": {"b": jnp.ones(2)}}
    for params, of in ((model, None), (state, None), (pure, model), (linen, None)):
        sj.check_binary(params, of)
        sj.check_binary(jax.tree.map(np.asarray, params), of)
    pure["last"]["kernel"] = pure["last"]["kernel"].at[0].set(jnp.nan)
    with pytest.raises(ValueError, match=r"got 8 of 64 weights at last/kernel .* nan"):
        sj.check_binary(pure, model)
    linen["binary_params"]["b"] *= 0
    with pytest.raises(ValueError, match=r"at binary_params/b .* from 0 to 0"):
        sj.check_binary(linen)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_dtype(dtype):
    layer = sj.BinaryLinear(4, 2, param_dtype=dtype, rngs=nnx.Rngs(0))
    sj.check_binary(layer)
    layer.kernel[...] = layer.kernel[...].at[0, 0].set(1.01)
    with pytest.raises(ValueError, match=r"got 1 of 8 weights at kernel .* from 1.0"):
        sj.check_binary(layer)


def test_nothing_to_check_is_an_error():
    with pytest.raises(ValueError, match="got none in dict; for bare arrays, give"):
        sj.check_binary({"kernel": jnp.ones(2)})
    layer = sj.BinaryLinear(4, 2, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="outside of compiled functions"):
        jax.jit(sj.check_binary)(nnx.state(layer))


@pytest.mark.usefixtures("eight_devices")
def test_split_weights_are_checked_whole():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    kernel = jax.device_put(jnp.ones((16, 2)), jax.NamedSharding(mesh, jax.P("x")))
    layer = sj.BinaryLinear(16, 2, rngs=nnx.Rngs(0))
    layer.kernel.set_value(kernel)
    sj.check_binary(layer)
    layer.kernel.set_value(kernel.at[-1].set(0.5))
    with pytest.raises(ValueError, match="got 2 of 32 weights"):
        sj.check_binary(layer)
