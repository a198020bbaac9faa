"""What every binary optimizer keeps to under JAX's transformations: a row per case."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cases import (
    STEPS,
    assert_equal,
    differ,
    every_case,
    every_dtype,
    gradients,
    plain,
    readings,
    start,
)

pytestmark = pytest.mark.usefixtures("compiled_quickly")


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
    chex.assert_trees_all_close(once, expected, rtol=0, atol=ulp)
    twice, _ = plain(case).train(steps=2, dtype=dtype, params=real)
    assert_equal(twice, plain(case).train(steps=2, dtype=dtype)[0])


@every_case
def test_jitted_equals_eager(case):
    tx, params = case.make(), start()
    state = tx.init(params)
    for t in range(STEPS):
        updates, state = tx.update(gradients(t), state, params)
        params = optax.apply_updates(params, updates)
    assert_equal((params, state), plain(case).train(), case.rtol)


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
    assert_equal(scanned, plain(case).train(), case.rtol)


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
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *alone)
    assert_equal(together, stacked, case.rtol)
    assert differ(*alone)


@every_case
def test_donated_steps_are_traced_once(case):
    chex.clear_trace_counter()  # counts by the name of a function
    tx = case.make()
    params, state = start(), tx.init(start())

    def update(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(chex.assert_max_traces(update, n=1), donate_argnums=(0, 1))
    held = jax.tree.leaves((params, tx.init(params)))
    pointers = [leaf.unsafe_buffer_pointer() for leaf in held]
    assert len(set(pointers)) == len(pointers)
    donated = jax.tree.leaves(params)
    for t in range(STEPS):
        params, state = step(params, state, gradients(t))
    assert all(leaf.is_deleted() for leaf in donated)
    assert_equal((params, state), plain(case).train(), case.rtol)


@every_case
def test_explicit_sharding_is_kept(case):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
    tx = case.make()
    specs = {"a": P("x", None), "b": {"c": P("x")}}

    def shard(tree):
        shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
        return jax.device_put(tree, shardings)

    @jax.jit
    def step(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return updates, state, optax.apply_updates(params, updates)

    with jax.set_mesh(mesh):
        params = shard(start())
        state = jax.jit(tx.init)(params)
        for t in range(STEPS):
            updates, new_state, params = step(shard(gradients(t)), state, params)
            for tree in (updates, *readings(new_state)):
                assert jax.tree.map(lambda leaf: leaf.sharding.spec, tree) == specs
            assert jax.tree.map(jax.typeof, new_state) == jax.tree.map(
                jax.typeof, state
            )
            state = new_state
        for leaf in jax.tree.leaves(state):
            assert leaf.ndim == 0 or leaf.sharding.spec[0] == "x"
    assert_equal((params, state), plain(case).train(), case.rtol)


@every_case
def test_finds_the_binary_minimum_of_a_parabola(case):
    target = jax.tree.map(lambda g: jnp.where(g > 0, 1.0, -1.0), gradients(7))
    params, state = start(), case.make().init(start())
    assert differ(params, target)
    for _ in range(20):
        grads = jax.tree.map(jnp.subtract, params, target)
        params, state = plain(case).step(params, state, grads)
    assert_equal(params, target)
