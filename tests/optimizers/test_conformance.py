"""What every binary optimizer keeps to inside Optax and Flax: one row per case."""

import functools
import inspect

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import sgdat_jax as sj
from cases import (
    CASES,
    STEPS,
    Trainer,
    assert_equal,
    assert_same_training,
    differ,
    every_case,
    gradients,
    injected,
    plain,
    readings,
    start,
)
from sgdat_jax import testing

pytestmark = pytest.mark.usefixtures("compiled_quickly")

# XLA may contract a clipping factor into the sum that follows it: one rounding less in
# each of few steps.
CLIP_RTOL = 1e-6
# From jax 0.11 on XLA contracts MultiSteps' mean into the sum that follows it.
MEAN_RTOL = 1e-6


def test_every_public_optimizer_is_in_the_table():
    made = optax.GradientTransformationExtraArgs
    public = {
        value
        for value in (getattr(sj, name) for name in sj.__all__)
        if inspect.isfunction(value)
        and inspect.signature(value).return_annotation is made
    }
    of_others = {sj.partition_binary, sj.flip_rule, sj.restart_every}
    assert {case.public for case in CASES} == public - of_others


# The others ask less than the tests of scans, donation and NaN below.
CHECKS = [
    testing.check_weights_stay_binary,
    testing.check_state_keeps_its_form,
    testing.check_arguments_of_update,
    testing.check_partition_takes_it,
]


@every_case
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_users_can_check(case, check):
    check(case.make())


@every_case
def test_the_table_is_not_trivial(case):
    params, state = plain(case).train()
    assert differ(params, start())
    assert max(n.max() for n in jax.tree.leaves(sj.flip_counts(state))) > 1
    for name, value in case.scalars.items():
        assert value != case.kwargs[name]


@every_case
def test_gradients_may_be_clipped_before(case):
    clip = optax.clip_by_global_norm(1.0)
    params, state = Trainer(optax.chain(clip, case.make())).train()
    expected = start()
    expected_state = case.make().init(expected)
    for t in range(STEPS):
        clipped, _ = clip.update(gradients(t), optax.EmptyState())
        expected, expected_state = plain(case).step(expected, expected_state, clipped)
    assert differ(state[-1], plain(case).train()[1])
    assert_equal(params, expected)
    rtol = max(CLIP_RTOL, case.rtol)
    assert_equal(readings(state), readings(expected_state), rtol)


@every_case
def test_multi_steps_take_the_mean_gradient(case):
    multi = Trainer(optax.MultiSteps(case.make(), 2).gradient_transformation())
    mean = jax.tree.map(lambda x, y: (x + y) / 2, gradients(0), gradients(1))
    once = plain(case).step(start(), case.make().init(start()), mean)
    twice = multi.train(steps=2)
    assert_same_training(case, twice, once, MEAN_RTOL)
    # Between two steps nothing moves.
    assert_same_training(
        case, multi.train(steps=1), (start(), case.make().init(start()))
    )
    assert_same_training(case, multi.train(steps=3), twice)


@every_case
def test_schedules_that_are_constant_equal_numbers(case):
    schedules = {k: optax.constant_schedule(case.kwargs[k]) for k in case.scalars}
    scheduled = Trainer(case.make(**schedules)).train()
    assert_same_training(case, scheduled, plain(case).train())


@every_case
def test_schedules_are_given_the_step_as_an_array(case):
    seen = []

    def schedule(value):
        return lambda step: seen.append(step) or value

    tx = case.make(**{name: schedule(case.kwargs[name]) for name in case.scalars})
    tx.update(start(), tx.init(start()), start())
    assert seen
    assert {(type(step), step.dtype.name) for step in seen} == {
        (type(jnp.int32(0)), "int32")
    }


@every_case
def test_injected_schedules_equal_schedules(case):
    schedules = {
        name: optax.linear_schedule(case.kwargs[name], value, STEPS)
        for name, value in case.scalars.items()
    }
    scheduled = Trainer(case.make(**schedules)).train()
    assert differ(scheduled, plain(case).train())
    assert_same_training(case, Trainer(case.inject(**schedules)).train(), scheduled)


@every_case
def test_injected_numbers_are_not_rounded_to_float16(case):
    # CPUs with float16 arithmetic of their own, such as Intel's since 2023, round the
    # sum of a product differently where its factor is a number of the program.
    trained, expected = (
        kind(case).train(dtype="float16") for kind in (injected, plain)
    )
    assert_same_training(case, trained, expected, rtol=1e-6)


@every_case
def test_injected_hyperparams_changed_by_hand_take_effect(case):
    state = injected(case).tx.init(start())
    for name, value in case.scalars.items():
        state.hyperparams[name] = jnp.float32(value)
    changed = injected(case).train(state=state)
    assert_same_training(case, changed, Trainer(case.make(**case.scalars)).train())
    assert differ(changed[1], injected(case).train()[1])


@every_case
def test_apply_if_finite_keeps_nan_out(case):
    careful = Trainer(optax.apply_if_finite(case.make(), 3))
    params, state = careful.train()
    assert_same_training(case, (params, state), plain(case).train())
    spoilt = gradients(0) | {"b": {"c": jnp.full(16, jnp.nan)}}
    after, after_state = careful.step(params, state, spoilt)
    assert_equal(after, params)
    assert_equal(after_state.inner_state, state.inner_state)
    assert int(after_state.total_notfinite) == 1


BINARY = {"a": "binary", "b": {"c": "binary"}}
IS_BINARY = {"a": True, "b": {"c": True}, "real": False}


ADAM = optax.adam(1e-3)


@functools.cache
def adam_step():
    """What Adam does to the real-valued weights, beside binary ones or alone."""
    weights = jnp.linspace(-1.0, 1.0, 5)
    updates, _ = jax.jit(ADAM.update)(weights, ADAM.init(weights))
    return weights, weights + updates


def partitioned(case):
    labels = BINARY | {"real": "real"}
    return optax.partition({"binary": case.make(), "real": ADAM}, labels)


def masked(case):
    others = jax.tree.map(lambda is_binary: not is_binary, IS_BINARY)
    return optax.chain(optax.masked(case.make(), IS_BINARY), optax.masked(ADAM, others))


@every_case
@pytest.mark.parametrize("split", [partitioned, masked])
def test_partition_and_mask_leave_the_others_alone(case, split):
    weights, expected = adam_step()
    split = Trainer(split(case))
    params = start() | {"real": weights}
    state = split.tx.init(params)
    params, state = split.step(params, state, gradients(0) | {"real": weights})
    assert_equal(params.pop("real"), expected)
    assert_same_training(case, (params, state), plain(case).train(steps=1))
    assert sj.flip_counts(state)["real"] == optax.MaskedNode()


@every_case
def test_all_wrappers_at_once_change_nothing(case):
    transforms = {"binary": case.inject(), "real": optax.sgd(1.0)}
    chain = optax.chain(optax.clip(100.0), optax.partition(transforms, BINARY))
    multi = optax.MultiSteps(optax.apply_if_finite(chain, 3), 1)
    trainer = Trainer(multi.gradient_transformation())
    assert_same_training(case, trainer.train(), plain(case).train())


@every_case
def test_nnx_optimizer_changes_nothing_and_holds_the_state(case):
    class Model(nnx.Module):
        def __init__(self):
            params = start()
            self.a = sj.BinaryParam(params["a"])
            self.b = nnx.Dict(c=sj.BinaryParam(params["b"]["c"]))

    model = Model()
    optimizer = nnx.Optimizer(model, case.make(), wrt=sj.BinaryParam)
    step = nnx.jit(lambda model, optimizer, grads: optimizer.update(model, grads))
    for t in range(STEPS):
        grads = nnx.state(model)
        nnx.replace_by_pure_dict(grads, gradients(t))
        step(model, optimizer, grads)
    trained = nnx.state(model), optimizer.opt_state
    assert_same_training(case, trained, plain(case).train())


@every_case
def test_map_params_tells_state_per_weight_from_the_rest(case):
    tx, params = case.make(), start()
    kinds = optax.tree.map_params(
        tx,
        lambda leaf: "weight",
        tx.init(params),
        transform_non_params=lambda leaf: "other",
    )
    for kind, leaf in zip(
        jax.tree.leaves(kinds), jax.tree.leaves(tx.init(params)), strict=True
    ):
        assert kind == ("weight" if leaf.ndim else "other")
