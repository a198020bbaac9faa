"""That steps of binary optimizers need no memory beyond parameters and state."""

import jax
import optax
import pytest

import sgdat_jax as sj

WEIGHTS = 1 << 20
CASES = {
    "sgdat": (sj.sgdat(), 6),
    "sgdat int8": (sj.sgdat(count_dtype="int8"), 5),
    "sgdat momentum": (sj.sgdat(momentum=0.9, reset_flips_every=2), 10),
    "sgdt": (sj.sgdt(), 6),
    "latent adam": (sj.latent(optax.adam(1e-3), adaptive_threshold=1e-3), 14),
    "bop": (sj.bop(), 6),
    "bop2nd_order": (sj.bop2nd_order(), 10),
    "boat": (sj.boat(), 10),
    "diode": (sj.diode(), 10),
    "sgdat compact": (sj.sgdat(layout="compact"), 4),
    "sgdat momentum compact": (
        sj.sgdat(momentum=0.9, reset_flips_every=2, layout="compact"),
        8,
    ),
    "sgdt compact": (sj.sgdt(layout="compact"), 4),
    "latent adam compact": (
        sj.latent(optax.adam(1e-3), adaptive_threshold=1e-3, layout="compact"),
        12,
    ),
    "bop compact": (sj.bop(layout="compact"), 4),
}
COMMON = ("sgdat", "sgdat int8", "latent adam", "bop2nd_order", "sgdat compact")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case in COMMON else pytest.mark.slow)
        for case in CASES
    ],
)
@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)]
)
def test_a_step_overwrites_what_it_is_given(case, dtype):
    tx, state_bytes = CASES[case]

    def step(params, state, gradients):
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.ShapeDtypeStruct((WEIGHTS,), dtype)
    state = jax.eval_shape(tx.init, params)
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert held // WEIGHTS == state_bytes
    step_of = jax.jit(step, donate_argnums=(0, 1))
    memory = step_of.lower(params, state, params).compile().memory_analysis()
    # Scalars such as the step count may take a few.
    assert memory.temp_size_in_bytes < 1000
    # Of what it returns, scalars that do not depend on the state are new at most.
    assert memory.output_size_in_bytes - memory.alias_size_in_bytes < 1000
