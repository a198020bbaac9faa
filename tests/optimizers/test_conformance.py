"""What every binary optimizer keeps to inside Optax, JAX and Flax: one row per case.

A new optimizer joins by a row in `CASES`. All comparisons are to the bit unless they
name a tolerance.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import sgdat_jax as sj

DTYPES = ["float32", "bfloat16", "float16"]
STEPS = 4
# XLA may contract a clipping factor into the sum that follows it: one rounding less in
# each of few steps.
CLIP_RTOL = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)  # so that it can be a cache's key
class Case:
    """An optimizer and what differs between optimizers."""

    name: str
    factory: Callable[..., optax.GradientTransformationExtraArgs]
    kwargs: dict[str, Any]
    scalars: dict[str, float]  # hyperparameters that take schedules, and other values
    static: tuple[str, ...] = ()  # arguments that inject_hyperparams must leave alone

    def make(self, **overrides):
        return self.factory(**self.kwargs | overrides)

    def inject(self, **overrides):
        factory = optax.inject_hyperparams(
            self.factory, static_args=self.static, hyperparam_dtype=jnp.float32
        )
        return factory(**self.kwargs | overrides)


SGDAT = {"learning_rate": 1e-4, "threshold": 2e-5}
SGDAT_SCALARS = {"learning_rate": 3e-4, "threshold": 1e-7}
CASES = [
    Case("sgdat", sj.sgdat, SGDAT, SGDAT_SCALARS),
    Case("sgdat momentum", sj.sgdat, SGDAT | {"momentum": 0.9}, SGDAT_SCALARS),
    Case(
        "sgdat nesterov decay",
        sj.sgdat,
        SGDAT | {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-2},
        SGDAT_SCALARS,
    ),
    Case(
        "sgdat reset int8",
        sj.sgdat,
        SGDAT | {"reset_flips_every": 2, "count_dtype": jnp.int8},
        SGDAT_SCALARS,
        static=("count_dtype",),
    ),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def start(dtype="float32"):
    rng = np.random.default_rng(0)
    return {
        "a": jnp.asarray(rng.choice([-1.0, 1.0], (8, 3)), dtype),
        "b": {"c": jnp.asarray(rng.choice([-1.0, 1.0], 16), dtype)},
    }


@functools.cache
def gradients(step, dtype="float32"):
    """Gradients in eighths, so that means of two are exact; some of them are zero."""
    rng = np.random.default_rng(100 + step)
    return jax.tree.map(
        lambda p: jnp.asarray(rng.integers(-9, 10, p.shape) / 8, dtype), start()
    )


class Trainer:
    """A transformation with its compiled update."""

    def __init__(self, tx):
        self.tx = tx
        self.update = jax.jit(tx.update)

    def step(self, params, state, grads):
        updates, state = self.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def train(self, steps=STEPS, dtype="float32", params=None, state=None):
        params = start(dtype) if params is None else params
        state = self.tx.init(params) if state is None else state
        for t in range(steps):
            params, state = self.step(params, state, gradients(t, dtype))
        return params, state


# Compiled once for all tests, since compilation is most of their time.
@functools.cache
def plain(case):
    return Trainer(case.make())


@functools.cache
def injected(case):
    return Trainer(case.inject())


def readings(state):
    return [sj.latent_weights(state), sj.flip_counts(state), sj.thresholds(state)]


def assert_equal(actual, expected):
    """Asserts equal leaves: values to the bit, shapes and dtypes."""
    actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
    assert len(actual) == len(expected) > 0
    for got, want in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want), strict=True)


def assert_same_training(trained, expected):
    """Asserts equal weights, and equal readings of states that may be wrapped."""
    assert_equal(trained[0], expected[0])
    assert_equal(readings(trained[1]), readings(expected[1]))


def differ(first, second):
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return any(not np.array_equal(a, b) for a, b in pairs)


def avals(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


@every_case
def test_the_table_is_not_trivial(case):
    params, state = plain(case).train()
    assert differ(params, start())
    assert max(n.max() for n in jax.tree.leaves(sj.flip_counts(state))) > 1
    for name, value in case.scalars.items():
        assert value != case.kwargs[name]


# --- Optax's wrappers -----------------------------------------------------------------


@every_case
def test_unknown_extra_args_are_accepted(case):
    tx, params, grads = case.make(), start(), gradients(0)
    state = tx.init(params)
    extra = jax.jit(lambda g, s, p: tx.update(g, s, p, value=1.0, unknown=None))
    assert_equal(extra(grads, state, params), plain(case).update(grads, state, params))


@every_case
def test_gradients_may_be_clipped_before(case):
    clip = optax.clip_by_global_norm(1.0)
    params, state = Trainer(optax.chain(clip, case.make())).train()
    expected = start()
    expected_state = case.make().init(expected)
    for t in range(STEPS):
        clipped, _ = clip.update(gradients(t), optax.EmptyState())
        expected, expected_state = plain(case).step(expected, expected_state, clipped)
    assert differ(readings(state)[0], readings(plain(case).train()[1])[0])
    assert_equal(params, expected)
    assert_equal(sj.flip_counts(state), sj.flip_counts(expected_state))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=CLIP_RTOL),
        sj.latent_weights(state),
        sj.latent_weights(expected_state),
    )


@every_case
def test_multi_steps_take_the_mean_gradient(case):
    multi = Trainer(optax.MultiSteps(case.make(), 2).gradient_transformation())
    mean = jax.tree.map(lambda x, y: (x + y) / 2, gradients(0), gradients(1))
    once = plain(case).step(start(), case.make().init(start()), mean)
    twice = multi.train(steps=2)
    assert_same_training(twice, once)
    # Between two steps nothing moves.
    assert_same_training(multi.train(steps=1), (start(), case.make().init(start())))
    assert_same_training(multi.train(steps=3), twice)


@every_case
def test_schedules_that_are_constant_equal_numbers(case):
    schedules = {k: optax.constant_schedule(case.kwargs[k]) for k in case.scalars}
    assert_equal(Trainer(case.make(**schedules)).train(), plain(case).train())


@every_case
def test_injected_schedules_equal_schedules(case):
    schedules = {
        name: optax.linear_schedule(case.kwargs[name], value, STEPS)
        for name, value in case.scalars.items()
    }
    scheduled = Trainer(case.make(**schedules)).train()
    assert differ(scheduled, plain(case).train())
    assert_same_training(Trainer(case.inject(**schedules)).train(), scheduled)


@every_case
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_injected_numbers_equal_numbers(case, dtype):
    assert_same_training(
        injected(case).train(dtype=dtype), plain(case).train(dtype=dtype)
    )


@every_case
def test_injected_hyperparams_changed_by_hand_take_effect(case):
    state = injected(case).tx.init(start())
    for name, value in case.scalars.items():
        state.hyperparams[name] = jnp.float32(value)
    changed = injected(case).train(state=state)
    assert_same_training(changed, Trainer(case.make(**case.scalars)).train())
    assert differ(changed[1], injected(case).train()[1])


@every_case
def test_apply_if_finite_keeps_nan_out(case):
    careful = Trainer(optax.apply_if_finite(case.make(), 3))
    params, state = careful.train()
    assert_same_training((params, state), plain(case).train())
    spoilt = gradients(0) | {"b": {"c": jnp.full(16, jnp.nan)}}
    after, after_state = careful.step(params, state, spoilt)
    assert_equal(after, params)
    assert_equal(after_state.inner_state, state.inner_state)
    assert int(after_state.total_notfinite) == 1


BINARY = {"a": "binary", "b": {"c": "binary"}}
IS_BINARY = {"a": True, "b": {"c": True}, "real": False}


def partitioned(case, adam):
    labels = BINARY | {"real": "real"}
    return optax.partition({"binary": case.make(), "real": adam}, labels)


def masked(case, adam):
    others = jax.tree.map(lambda is_binary: not is_binary, IS_BINARY)
    return optax.chain(optax.masked(case.make(), IS_BINARY), optax.masked(adam, others))


@every_case
@pytest.mark.parametrize("split", [partitioned, masked])
def test_partition_and_mask_leave_the_others_alone(case, split):
    weights, adam = jnp.linspace(-1.0, 1.0, 5), optax.adam(1e-3)
    split = Trainer(split(case, adam))
    params = start() | {"real": weights}
    state = split.tx.init(params)
    params, state = split.step(params, state, gradients(0) | {"real": weights})
    expected, _ = jax.jit(adam.update)(weights, adam.init(weights))
    assert_equal(params.pop("real"), weights + expected)
    assert_same_training((params, state), plain(case).train(steps=1))
    assert sj.flip_counts(state)["real"] == optax.MaskedNode()


@every_case
def test_all_wrappers_at_once_change_nothing(case):
    transforms = {"binary": case.inject(), "real": optax.sgd(1.0)}
    chain = optax.chain(optax.clip(100.0), optax.partition(transforms, BINARY))
    multi = optax.MultiSteps(optax.apply_if_finite(chain, 3), 1)
    trainer = Trainer(multi.gradient_transformation())
    assert_same_training(trainer.train(), plain(case).train())


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
    assert_same_training(trained, plain(case).train())


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


# --- JAX's transformations ------------------------------------------------------------


@every_case
@every_dtype
def test_dtypes_are_a_fixed_point(case, dtype):
    tx, params, grads = case.make(), start(dtype), gradients(0, dtype)
    state = tx.init(params)
    updates, new_state = jax.eval_shape(tx.update, grads, state, params)
    assert avals(new_state) == avals(state)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
    assert avals(updates) == avals(params)


@every_case
@every_dtype
def test_updates_are_zero_or_minus_two_weights(case, dtype):
    params, flipped = start(dtype), 0
    state = case.make().init(params)
    for t in range(STEPS):
        updates, state = plain(case).update(gradients(t, dtype), state, params)
        for u, w in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
            assert bool(jnp.all((u == 0) | (u == -2 * w)))
            flipped += int(jnp.sum(u != 0))
        params = optax.apply_updates(params, updates)
        assert avals(params) == avals(start(dtype))
        for w in jax.tree.leaves(params):
            assert bool(jnp.all(jnp.abs(w) == 1))
    assert flipped > 0


@every_case
@every_dtype
def test_real_valued_starts_become_binary(case, dtype):
    rng = np.random.default_rng(3)
    real = jax.tree.map(
        lambda p: p * jnp.asarray(rng.uniform(0.0, 1.0, p.shape), dtype), start(dtype)
    )
    expected, state = plain(case).train(steps=1, dtype=dtype)
    once, real_state = plain(case).train(steps=1, dtype=dtype, params=real)
    assert_equal(real_state, state)
    ulp = float(jnp.finfo(dtype).eps)
    for got, want in zip(jax.tree.leaves(once), jax.tree.leaves(expected), strict=True):
        distance = np.asarray(got, np.float32) - np.asarray(want, np.float32)
        assert np.abs(distance).max() <= ulp
    twice, _ = plain(case).train(steps=2, dtype=dtype, params=real)
    assert_equal(twice, plain(case).train(steps=2, dtype=dtype)[0])


@every_case
def test_second_call_compiles_nothing(case):
    tx, traces = case.make(), []

    @jax.jit
    def step(params, state, grads):
        traces.append(None)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state = start(), tx.init(start())
    for t in range(3):
        params, state = step(params, state, gradients(t))
    assert len(traces) == 1


@every_case
def test_jitted_equals_eager(case):
    tx, params = case.make(), start()
    state = tx.init(params)
    for t in range(STEPS):
        updates, state = tx.update(gradients(t), state, params)
        params = optax.apply_updates(params, updates)
    assert_equal((params, state), plain(case).train())


@every_case
def test_init_works_on_shapes_alone(case):
    tx = case.make()
    assert avals(jax.eval_shape(tx.init, start())) == avals(tx.init(start()))


@every_case
def test_state_and_parameters_are_carried_by_scan_and_cond(case):
    tx = case.make()

    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def body(carry, inputs):
        skip, grads = inputs
        return jax.lax.cond(skip, lambda c, g: c, step, carry, grads), None

    # Every second gradient is skipped, and takes no part in anything.
    sequence = [gradients(t // 2) for t in range(2 * STEPS)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *sequence)
    skips = jnp.arange(2 * STEPS) % 2 == 1
    carry = start(), tx.init(start())
    scanned, _ = jax.jit(lambda c, xs: jax.lax.scan(body, c, xs))(
        carry, (skips, stacked)
    )
    assert_equal(scanned, plain(case).train())


@every_case
def test_vmap_over_hyperparameters_equals_a_loop(case):
    scalars = {
        name: jnp.array([case.kwargs[name], value], jnp.float32)
        for name, value in case.scalars.items()
    }

    def step(scalars, params, state, grads):
        updates, state = case.make(**scalars).update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step_all = jax.jit(jax.vmap(step, in_axes=(0, 0, 0, None)))
    step_one = jax.jit(step)
    carry = start(), case.make().init(start())
    together = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), carry)
    alone = [carry, carry]
    for t in range(STEPS):
        together = step_all(scalars, *together, gradients(t))
        for i in range(2):
            one = jax.tree.map(lambda values, i=i: values[i], scalars)
            alone[i] = step_one(one, *alone[i], gradients(t))
    assert_equal(together, jax.tree.map(lambda *leaves: np.stack(leaves), *alone))
    assert differ(*alone)


@every_case
def test_parameters_and_state_can_be_donated(case):
    tx = case.make()
    params, state = start(), tx.init(start())

    def update(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(update, donate_argnums=(0, 1))
    held = jax.tree.leaves((params, tx.init(params)))
    pointers = [leaf.unsafe_buffer_pointer() for leaf in held]
    assert len(set(pointers)) == len(pointers)
    donated = jax.tree.leaves(params)
    for t in range(STEPS):
        params, state = step(params, state, gradients(t))
    assert all(leaf.is_deleted() for leaf in donated)
    assert_equal((params, state), plain(case).train())


@every_case
def test_explicit_sharding_is_kept(case):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
    tx = case.make()
    specs = {"a": P("x", None), "b": {"c": P("x")}}

    def shard(tree):
        shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
        return jax.device_put(tree, shardings)

    with jax.set_mesh(mesh):
        params = shard(start())
        state = tx.init(params)
        update = jax.jit(tx.update)
        for t in range(STEPS):
            updates, new_state = update(shard(gradients(t)), state, params)
            for tree in (updates, sj.latent_weights(new_state)):
                assert jax.tree.map(lambda leaf: leaf.sharding.spec, tree) == specs
            assert jax.tree.map(jax.typeof, new_state) == jax.tree.map(
                jax.typeof, state
            )
            params, state = optax.apply_updates(params, updates), new_state
        for leaf in jax.tree.leaves(state):
            assert leaf.ndim == 0 or leaf.sharding.spec[0] == "x"
    assert_equal((params, state), plain(case).train())


@every_case
def test_finds_the_binary_minimum_of_a_parabola(case):
    target = jax.tree.map(lambda g: jnp.where(g > 0, 1.0, -1.0), gradients(7))
    params, state = start(), case.make().init(start())
    assert differ(params, target)
    for _ in range(20):
        grads = jax.tree.map(jnp.subtract, params, target)
        params, state = plain(case).step(params, state, grads)
    assert_equal(params, target)
