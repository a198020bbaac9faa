"""A step of an optimizer on a TPU: one pass over memory, of known bytes."""

import functools
import math

import jax
import jax.numpy as jnp
import optax
import pytest

import sgdat_jax as sj
import tpus
from benchmarks import hlo

pytestmark = [pytest.mark.tpu_compile, pytest.mark.usefixtures("without_cache")]

# Whole tiles in every dtype, so that nothing is filled up.
SHAPES = {"conv": (3, 3, 512, 512), "dense": (8192, 1024)}
WEIGHTS = sum(map(math.prod, SHAPES.values()))

# Bytes of state per weight; weights, gradient and the new weights come on top.
RULES = {
    "sgdat": (sj.sgdat, 4 + 2),
    "sgdat, int8 counts": (functools.partial(sj.sgdat, count_dtype="int8"), 4 + 1),
    "sgdat, momentum": (functools.partial(sj.sgdat, momentum=0.9), 8 + 2),
    "sgdat, compact": (functools.partial(sj.sgdat, layout="compact"), 4),
    "latent sgd": (lambda: sj.latent(optax.sgd(1e-2)), 4 + 2),
    "bop": (sj.bop, 4 + 2),
    "adam": (lambda: optax.adam(1e-3), None),  # two moments in the weights' dtype
}


def compiled_step(rule, dtype):
    tx = rule()
    params = {k: jax.ShapeDtypeStruct(v, dtype) for k, v in SHAPES.items()}

    def step(params, state, gradients):
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(tx.init, params)
    return tpus.compile_for(
        tpus.alone(), step, params, state, params, donate_argnums=(0, 1)
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", RULES)
def test_a_step_is_one_pass_per_array(name, dtype):
    rule, held = RULES[name]
    size = jnp.dtype(dtype).itemsize
    compiled = compiled_step(rule, dtype)
    program = tpus.program(compiled)
    assert compiled.memory_analysis().temp_size_in_bytes == 0
    passes = [
        one.opcode
        for found, _ in hlo.executed(program)
        for one in found.values()
        if hlo.elements(one) > WEIGHTS / 100 and not hlo.is_free(one)
    ]
    # What is small enough is fetched ahead into fast memory: the same bytes, once.
    assert set(passes) <= {"fusion", "copy-start", "slice-start"}
    assert passes.count("fusion") == len(SHAPES)
    # Weights and state are read and written, gradients read.
    expected = 3 * size + 2 * (2 * size if held is None else held)
    assert hlo.hbm_bytes(program) / WEIGHTS == pytest.approx(expected, rel=1e-3)


def test_sgdat_moves_less_than_adam_in_float32():
    ours, theirs = (
        hlo.hbm_bytes(tpus.program(compiled_step(RULES[name][0], "float32")))
        for name in ("sgdat, compact", "adam")
    )
    assert ours / theirs == pytest.approx(20 / 28, rel=1e-3)
