"""What `sgdat` refuses, and how it says so."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sgdat_jax as sj

OUT_OF_RANGE = "`{}` must be in [0, {}), got {}."


@pytest.mark.parametrize("name", ["learning_rate", "threshold", "weight_decay"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), -float("inf")])
def test_hyperparameters_are_finite_and_not_negative(name, value):
    message = OUT_OF_RANGE.format(name, "inf", value)
    assert message_of(ValueError, lambda: sj.sgdat(**{name: value})) == message


@pytest.mark.parametrize("name", ["momentum", "dampening"])
@pytest.mark.parametrize("value", [1.0, -0.1, float("nan")])
def test_shares_are_below_one(name, value):
    message = OUT_OF_RANGE.format(name, 1, value)
    assert message_of(ValueError, lambda: sj.sgdat(**{name: value})) == message


def message_of(error, call):
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    return str(caught.value)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"learning_rate": "0.1"},
            "`learning_rate` must be a number or an array of shape (), or a schedule, "
            "got '0.1'.",
        ),
        (
            {"threshold": None},
            "`threshold` must be a number or an array of shape (), or a schedule, "
            "got None.",
        ),
        (
            {"learning_rate": np.ones(2)},
            "`learning_rate` must be a number or an array of shape (), or a schedule, "
            "got array([1., 1.]).",
        ),
        (
            {"momentum": "0.9"},
            "`momentum` must be a number or an array of shape (), or None, got '0.9'.",
        ),
        (
            {"dampening": 1j},
            "`dampening` must be a number or an array of shape (), got 1j.",
        ),
        (
            {"reset_flips_every": 2.5},
            "`reset_flips_every` must be an integer or None, got 2.5.",
        ),
        (
            {"reset_flips_every": True},
            "`reset_flips_every` must be an integer or None, got True.",
        ),
        (
            {"count_dtype": np.uint8},
            "`count_dtype` must be a signed integer of 8 bits or more, got "
            "<class 'numpy.uint8'>.",
        ),
        (
            {"count_dtype": "float32"},
            "`count_dtype` must be a signed integer of 8 bits or more, got 'float32'.",
        ),
        (
            {"count_dtype": "int4"},
            "`count_dtype` must be a signed integer of 8 bits or more, got 'int4'.",
        ),
        (
            {"latent_dtype": "int32"},
            "`latent_dtype` must be real floating-point of 16 bits or more, got "
            "'int32'.",
        ),
        (
            {"latent_dtype": "float8_e4m3fn"},
            "`latent_dtype` must be real floating-point of 16 bits or more, got "
            "'float8_e4m3fn'.",
        ),
    ],
)
def test_hyperparameters_of_the_wrong_kind(kwargs, message):
    assert message_of(TypeError, lambda: sj.sgdat(**kwargs)) == message


@pytest.mark.parametrize("momentum", [None, 0, 0.0])
def test_nesterov_needs_momentum(momentum):
    message = f"`nesterov` needs `momentum`, got nesterov=True, {momentum=}."
    call = functools.partial(sj.sgdat, momentum=momentum, nesterov=True)
    assert message_of(ValueError, call) == message


@pytest.mark.parametrize("steps", [0, -3])
def test_restarts_are_at_least_a_step_apart(steps):
    message = f"`reset_flips_every` must be at least 1, got {steps}."
    call = functools.partial(sj.sgdat, reset_flips_every=steps)
    assert message_of(ValueError, call) == message


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_parameters_are_real_floating_point(dtype):
    params = {"a": jnp.ones(2), "b": [jnp.ones(2, dtype)]}
    expected = (
        f"`params` must be real floating-point arrays, got {dtype} at params['b'][0]."
    )
    assert message_of(TypeError, lambda: sj.sgdat().init(params)) == expected
    assert message_of(TypeError, lambda: jax.jit(sj.sgdat().init)(params)) == expected


PARAMS = {"a": jnp.ones(2), "b": jnp.ones((2, 3))}


def test_update_needs_params():
    tx = sj.sgdat()
    state = tx.init(PARAMS)
    message = message_of(ValueError, lambda: tx.update(PARAMS, state))
    assert message.startswith("`params` must be passed to `update`")
    assert message.endswith("Got params=None.")


@pytest.mark.parametrize("name", ["updates", "params"])
def test_update_needs_the_structure_of_init(name):
    tx = sj.sgdat()
    trees = {"updates": PARAMS, "params": PARAMS} | {name: {"a": PARAMS["a"]}}
    call = functools.partial(tx.update, state=tx.init(PARAMS), **trees)
    assert message_of(ValueError, call) == (
        f"`{name}` must have the structure that `init` saw, got PyTreeDef({{'a': *}}) "
        "instead of PyTreeDef({'a': *, 'b': *})."
    )


@pytest.mark.parametrize("name", ["updates", "params"])
def test_update_needs_the_shapes_of_init(name):
    tx = sj.sgdat()
    # A shape that would broadcast without a word.
    trees = {"updates": PARAMS, "params": PARAMS}
    trees[name] = PARAMS | {"b": jnp.ones((1, 3))}
    call = functools.partial(tx.update, state=tx.init(PARAMS), **trees)
    assert message_of(ValueError, call) == (
        f"`{name}` must have the shapes that `init` saw, got (1, 3) instead of (2, 3) "
        f"at {name}['b']."
    )


def test_updates_are_real():
    tx = sj.sgdat()
    updates = PARAMS | {"b": 1j * PARAMS["b"]}
    call = functools.partial(tx.update, updates, tx.init(PARAMS), PARAMS)
    assert message_of(TypeError, call) == (
        "`updates` must be real arrays, got complex64 at updates['b']."
    )


@pytest.mark.parametrize("start", ["zero", "params"])
def test_parameters_may_be_numbers(start):
    tx = sj.sgdat(start=start)
    gradients = jax.grad(lambda params: 0.5 * params["a"])({"a": 1.0})
    updates, state = tx.update(gradients, tx.init({"a": 1.0}), {"a": 1.0})
    assert updates == {"a": -2.0 if start == "zero" else 0.0}
    assert sj.flip_counts(state) == {"a": 1 if start == "zero" else 0}


def test_states_without_latents_are_told():
    state = optax.adam(1e-3).init(PARAMS)
    for read, field in (
        (sj.latent_weights, "latent"),
        (sj.flip_counts, "signed_count"),
        (sj.thresholds, "thresholds"),
    ):
        assert message_of(ValueError, functools.partial(read, state)) == (
            f"`opt_state` holds no binary optimizer's `{field}`: got a state of type "
            "tuple."
        )
