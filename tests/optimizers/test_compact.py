"""The compact layout: its words, and its steps beside those of the exact layout."""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sgdat_jax as sj
import shared_runs
from sgdat_jax.optimizers import binary, compact, words
from sgdat_jax.training import checkpoint, states
from sgdat_jax.training.devices import parallel

pytestmark = pytest.mark.usefixtures("compiled_quickly")

settings = hypothesis.settings(deadline=None, derandomize=True, max_examples=100)
COUNTERS = np.arange(256, dtype=np.uint32)
FLIPS = (COUNTERS // 2).astype(np.int64)
WEIGHTS = np.where(COUNTERS % 2, 1, -1)
SIGNED = (WEIGHTS * (FLIPS + 1)).astype(np.int16)

pack, unpack = jax.jit(words.pack), jax.jit(words.unpack)


def rounded(latent):
    """To 16 significant bits, ties to even, in NumPy alone."""
    mantissa, exponent = np.frexp(np.asarray(latent, np.float64))
    with np.errstate(over="ignore"):
        nearest = np.ldexp(np.round(mantissa * 2**16), exponent - 16)
        return nearest.astype(np.float32)


# XLA takes subnormal numbers for zero in arithmetic, so none are asked for.
any_latents = hnp.arrays(
    np.float32, 256, elements=st.floats(width=32, allow_subnormal=False)
)


@settings
@hypothesis.given(latent=any_latents)
def test_words_hold_rounded_latents_and_every_counter(latent):
    packed = pack(latent, COUNTERS)
    assert packed.dtype == jnp.uint32
    found, counters = unpack(packed)
    np.testing.assert_array_equal(found, rounded(latent))
    np.testing.assert_array_equal(np.signbit(found), np.signbit(latent))
    np.testing.assert_array_equal(counters, COUNTERS)
    np.testing.assert_array_equal(pack(found, counters), packed)


def test_values_of_16_significant_bits_are_kept():
    latent = np.float32(np.arange(2**15, 2**16)) * np.float32(2.0**-30)
    counters = np.zeros(latent.shape, np.uint32)
    np.testing.assert_array_equal(unpack(pack(latent, counters))[0], latent)


# Quiet ones, as arithmetic makes them.
@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00001, 0xFFC00000])
def test_nan_stays_nan_and_leaves_the_counter_alone(bits):
    latent = np.full(256, bits, np.uint32).view(np.float32)
    found, counters = unpack(pack(latent, COUNTERS))
    assert np.isnan(found).all()
    np.testing.assert_array_equal(counters, COUNTERS)


def test_counters_say_what_signed_counts_say():
    counters, signed = jnp.asarray(COUNTERS), jnp.asarray(SIGNED)
    np.testing.assert_array_equal(binary.counter(signed), COUNTERS)
    np.testing.assert_array_equal(binary.counter(counters), COUNTERS)
    np.testing.assert_array_equal(binary.flip_count(counters), FLIPS)
    for dtype in ("float32", "bfloat16", "float16"):
        weights = binary.weight(counters, dtype)
        np.testing.assert_array_equal(weights, binary.weight(signed, dtype))
        assert weights.dtype == dtype
    restarted = binary.restart_count(counters)
    np.testing.assert_array_equal(
        restarted, binary.counter(binary.restart_count(signed))
    )
    np.testing.assert_array_equal(
        binary.adaptive_threshold(counters, 0.3), binary.adaptive_threshold(signed, 0.3)
    )


def test_flip_counts_beyond_127_become_127():
    signed = jnp.array([127, 128, 129, 32767, -128, -129, -32767], jnp.int16)
    counters = binary.counter(signed)
    np.testing.assert_array_equal(
        binary.flip_count(counters), [126, *[127] * 3, *[127] * 3]
    )
    np.testing.assert_array_equal(binary.weight(counters, "float32"), np.sign(signed))


def test_counters_flip_as_signed_counts_and_stay_at_127():
    counters = binary.flip_beyond(COUNTERS, -WEIGHTS.astype(np.float32), 0.5)
    np.testing.assert_array_equal(binary.weight(counters, "float32"), -WEIGHTS)
    np.testing.assert_array_equal(
        binary.flip_count(counters), np.minimum(FLIPS + 1, words.MAX_FLIPS)
    )


@pytest.mark.parametrize("latent", [0.0, -0.0, 0.25, -0.25, 0.5, -0.5, np.nan, np.inf])
def test_ties_leave_the_weight_and_flips_need_the_other_sign(latent):
    # Of flip counts below 127, beyond which signed counts go on.
    counters, signed = (jnp.asarray(a[:254]) for a in (COUNTERS, SIGNED))
    latents = jnp.full(254, latent, jnp.float32)
    for threshold in (0.0, 0.25):
        np.testing.assert_array_equal(
            binary.flip_beyond(counters, latents, threshold),
            binary.counter(binary.flip_beyond(signed, latents, threshold)),
        )


def latent_sgd(layout):
    return sj.latent(optax.sgd(0.5, momentum=0.5), threshold=0.25, layout=layout)


RULES = {
    "sgdat": functools.partial(sj.sgdat, 0.5, 0.25),
    "sgdat decay reset": functools.partial(
        sj.sgdat, 0.5, 0.25, weight_decay=0.5, reset_flips_every=3
    ),
    "sgdat momentum": functools.partial(sj.sgdat, 0.5, 0.25, momentum=0.5),
    "sgdt": functools.partial(sj.sgdt, 2.0**-9, 2.0**-8),
    "latent sgd": latent_sgd,
    "bop": functools.partial(sj.bop, 0.25, 0.125),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def take_steps(tx, params, gradients):
    """Yields parameters and state after each step."""

    @jax.jit
    def step(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for gradient in gradients:
        params, state = step(params, state, gradient)
        yield params, state


def signs(shape, dtype="float32"):
    return jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], shape), dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@every_rule
def test_equals_the_exact_layout_where_nothing_is_rounded(rule, dtype):
    # Few bits go in, and each product adds few: 16 hold all sums of so many steps.
    few = 4 if rule in (RULES["bop"], RULES["sgdat momentum"], latent_sgd) else 40
    rng = np.random.default_rng(1)
    gradients = jnp.asarray(rng.integers(-9, 10, (few, 500)) / 8, dtype)
    runs = [
        take_steps(rule(layout=layout), signs(500, dtype), gradients)
        for layout in ("compact", "exact")
    ]
    before, flips = signs(500, dtype), np.zeros(500)
    for (params, state), (expected, exact) in zip(*runs, strict=True):
        assert params.dtype == dtype
        flips, before = flips + (before != params), params
        np.testing.assert_array_equal(params, expected)
        np.testing.assert_array_equal(sj.flip_counts(state), sj.flip_counts(exact))
        for field in ("latent", "mu", "thresholds"):
            if hasattr(exact, field):
                held = getattr(state.unpacked, field)
                np.testing.assert_array_equal(held, getattr(exact, field))
    assert (flips > 1).any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@every_rule
def test_a_step_is_the_exact_one_and_then_rounded(rule, dtype):
    exact = rule(layout="exact")
    params = signs(500, dtype)
    state = exact.init(params)
    field = "mu" if hasattr(state, "mu") else "latent"
    gradients = jax.random.normal(jax.random.key(0), (20, 500), dtype)
    update = jax.jit(exact.update)
    for found, compacted in take_steps(rule(layout="compact"), params, gradients):
        updates, state = update(gradients[int(state.count)], state, params)
        params = optax.apply_updates(params, updates)
        state = state._replace(**{field: jnp.asarray(rounded(getattr(state, field)))})
        np.testing.assert_array_equal(found, params)
        held = compacted.unpacked
        np.testing.assert_array_equal(getattr(held, field), getattr(state, field))
        np.testing.assert_array_equal(
            sj.flip_counts(compacted), sj.flip_counts(state).astype(np.int32)
        )


def test_thresholds_stop_growing_at_127_flips_and_weights_go_on():
    tx = sj.sgdat(1.0, 1.0, layout="compact")
    # Far enough each time, whatever the threshold.
    gradients = jnp.where(jnp.arange(140) % 2, -1.0, 1.0)[:, None] * 2.0**10
    gradients = gradients.at[0].divide(2)
    *_, (_, state) = steps = list(take_steps(tx, jnp.ones(1), gradients))
    assert [float(p[0]) for p, _ in steps] == [-1.0, 1.0] * 70
    assert int(sj.flip_counts(state)[0]) == words.MAX_FLIPS
    assert float(sj.thresholds(state)[0]) == words.MAX_FLIPS


def test_zero_gradients_and_zero_latents_move_nothing():
    tx = sj.sgdat(layout="compact")
    params = jnp.array([1.0, -1.0, -0.0, 0.5])
    gradients = jnp.array([0.0, -0.0, 0.0, -0.0])
    *_, (after, state) = take_steps(tx, params, [gradients] * 3)
    np.testing.assert_array_equal(after, [1.0, -1.0, 1.0, 1.0])
    np.testing.assert_array_equal(sj.flip_counts(state), np.zeros(4))
    np.testing.assert_array_equal(sj.latent_weights(state), np.zeros(4))


def test_latents_start_at_the_parameters_if_asked_to():
    for dtype in ("bfloat16", "float32"):  # bfloat16 has 8 significant bits
        params = jax.random.normal(jax.random.key(0), (100,), dtype)
        state = sj.sgdat(start="params", layout="compact").init(params)
        latents = sj.latent_weights(state)
        np.testing.assert_array_equal(latents, rounded(params.astype("float32")))
        if dtype == "bfloat16":
            np.testing.assert_array_equal(latents, params.astype("float32"))


@pytest.mark.parametrize(
    ("rule", "bytes_per_weight"),
    [
        (sj.sgdat(layout="compact"), 4),
        (sj.sgdat(momentum=0.5, layout="compact"), 8),
        (sj.sgdt(layout="compact"), 4),
        (sj.latent(optax.sgd(0.5), layout="compact"), 4),
        (sj.latent(optax.adam(0.5), layout="compact"), 12),
        (sj.bop(layout="compact"), 4),
    ],
)
def test_bytes_of_the_state(rule, bytes_per_weight):
    state = jax.eval_shape(rule.init, jax.ShapeDtypeStruct((1024,), "float32"))
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert held // 1024 == bytes_per_weight


def test_states_are_saved_and_go_on_to_the_bit(tmp_path):
    tx, params = sj.sgdat(1e-2, 1e-3, momentum=0.9, layout="compact"), signs(300)
    gradients = jax.random.normal(jax.random.key(1), (6, 300))
    steps = list(take_steps(tx, params, gradients))

    def run(step, params, opt_state):
        zero = jnp.int32(0)
        return states.TrainState(
            jnp.int32(step), jnp.uint32(0), params, {}, opt_state, zero, None
        )

    with checkpoint.Saver(tmp_path, keep=1) as saver:
        saver.save(checkpoint.Checkpoint(run(3, *steps[2]), {}))
    like = run(0, params, tx.init(params))
    restored = checkpoint.restore(tmp_path, like).state
    assert isinstance(restored.opt_state, compact.CompactState)
    params, state = restored.params, restored.opt_state
    for gradient in gradients[3:]:
        updates, state = jax.jit(tx.update)(gradient, state, params)
        params = optax.apply_updates(params, updates)
    shared_runs.assert_bit_equal((params, state), steps[-1])


@pytest.mark.usefixtures("eight_devices")
def test_eight_devices_hold_an_eighth_of_the_words_each():
    layout = parallel.lay_out(jax.devices()[:8], sharded=True)
    tx, params = sj.sgdat(1e-2, 1e-3, layout="compact"), signs((64, 32))
    gradients = jax.random.normal(jax.random.key(2), (3, 64, 32))

    @jax.jit
    def step(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return layout.settle((params, state))

    split = params, tx.init(params)
    for gradient in gradients:
        split = step(*split, gradient)
    held = parallel.bytes_per_device(split[1].words, 8, sharded=True)
    assert held == 4 * params.size // 8
    assert split[1].words.addressable_shards[0].data.size == params.size // 8
    *_, alone = take_steps(tx, params, gradients)
    shared_runs.assert_bit_equal(split, alone)


@pytest.mark.parametrize("factory", [sj.sgdat, latent_sgd, sj.sgdt, sj.bop])
def test_unknown_layouts_are_refused(factory):
    with pytest.raises(ValueError) as caught:
        factory(layout="tight")
    assert str(caught.value) == (
        "`layout` must be 'exact' or 'compact', got 'tight'; the nearest is 'exact'."
    )


@pytest.mark.parametrize(
    "factory", [sj.sgdat, functools.partial(sj.latent, optax.sgd(1.0))]
)
@pytest.mark.parametrize(
    ("name", "value"), [("count_dtype", "int8"), ("latent_dtype", "bfloat16")]
)
def test_what_words_have_no_room_for_is_refused_by_name(factory, name, value):
    with pytest.raises(ValueError) as caught:
        factory(layout="compact", **{name: value})
    assert str(caught.value) == (
        f"`{name}` must be None with layout='compact', whose words have 24 bits for a "
        f"latent weight and 7 for a flip count, got {value!r}."
    )
