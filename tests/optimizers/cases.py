"""The table of every binary optimizer, and what the tests of all of them share.

A new optimizer joins by a row in `CASES`. Gradients are eighths and most rates powers
of two, so that few products are rounded and comparisons can be to the bit.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sgdat_jax as sj

DTYPES = ["float32", "bfloat16", "float16"]
STEPS = 4


@dataclasses.dataclass(frozen=True, eq=False)  # so that it can be a cache's key
class Case:
    """An optimizer and what differs between optimizers."""

    name: str
    public: Callable[..., optax.GradientTransformationExtraArgs]  # what users import
    factory: Callable[..., optax.GradientTransformationExtraArgs]
    kwargs: dict[str, Any]
    scalars: dict[str, float]  # hyperparameters that take schedules, and other values
    static: tuple[str, ...] = ()  # arguments that inject_hyperparams must leave alone
    rtol: float = 0.0  # of states, between programs that XLA may round differently

    def make(self, **overrides):
        return self.factory(**self.kwargs | overrides)

    def inject(self, **overrides):
        factory = optax.inject_hyperparams(
            self.factory, static_args=self.static, hyperparam_dtype=jnp.float32
        )
        return factory(**self.kwargs | overrides)


def latent_sgd(learning_rate, threshold):
    return sj.latent(optax.sgd(learning_rate), threshold=threshold)


def adaptive_adam(learning_rate, threshold, layout="exact"):
    inner = optax.adam(learning_rate, b1=0.5)  # so that weights flip in few steps
    return sj.latent(inner, clip=None, adaptive_threshold=threshold, layout=layout)


ADAM = {"learning_rate": 1e-3, "threshold": 1e-5}
ADAM_SCALARS = {"learning_rate": 3e-3, "threshold": 1e-6}
# Adam rounds each of few sums and quotients, which cancel in part.
ADAM_RTOL = 1e-4
COMPACT = {"layout": "compact"}
# Of two numbers that differ in their last bit, one may be rounded up and one down.
COMPACT_RTOL = 2.0**-15
SGDAT = {"learning_rate": 1e-4, "threshold": 2e-5}
SGDAT_SCALARS = {"learning_rate": 3e-4, "threshold": 1e-7}
SGD = {"learning_rate": 2.0**-13, "threshold": 2.0**-16}
SGD_SCALARS = {"learning_rate": 2.0**-11, "threshold": 2.0**-20}
BOP = {"gamma": 2.0**-2, "threshold": 2.0**-5}
BOP_SCALARS = {"gamma": 2.0**-1, "threshold": 2.0**-8}
CASES = [
    Case("sgdat", sj.sgdat, sj.sgdat, SGDAT, SGDAT_SCALARS),
    Case(
        "sgdat momentum",
        sj.sgdat,
        sj.sgdat,
        SGDAT | {"momentum": 0.9},
        SGDAT_SCALARS,
    ),
    Case(
        "sgdat nesterov decay",
        sj.sgdat,
        sj.sgdat,
        SGDAT | {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-2},
        SGDAT_SCALARS,
    ),
    Case(
        "sgdat reset int8",
        sj.sgdat,
        sj.sgdat,
        SGDAT | {"reset_flips_every": 2, "count_dtype": jnp.int8},
        SGDAT_SCALARS,
        static=("count_dtype",),
    ),
    Case("sgdt", sj.sgdt, sj.sgdt, SGD, SGD_SCALARS),
    Case("latent sgd", sj.latent, latent_sgd, SGD, SGD_SCALARS),
    Case(
        "latent adam adaptive",
        sj.latent,
        adaptive_adam,
        ADAM,
        ADAM_SCALARS,
        rtol=ADAM_RTOL,
    ),
    Case("bop", sj.bop, sj.bop, BOP, BOP_SCALARS),
    Case(
        "bop2nd_order",
        sj.bop2nd_order,
        sj.bop2nd_order,
        BOP | {"sigma": 2.0**-3},
        BOP_SCALARS | {"sigma": 2.0**-2},
    ),
    Case(
        "boat",
        sj.boat,
        sj.boat,
        {"eta": 2.0**-3, "weight_decay": 2.0**-4},
        {"eta": 2.0**-1, "weight_decay": 2.0**-2},
    ),
    Case(
        "prob_bop",
        sj.prob_bop,
        sj.prob_bop,
        BOP | {"steps_per_epoch": 2},
        BOP_SCALARS,
        static=("steps_per_epoch", "alpha", "seed"),
    ),
    Case(
        "diode",
        sj.diode,
        sj.diode,
        {"learning_rate": 2.0**-1, "b1": 2.0**-1, "b2": 2.0**-1},
        {"learning_rate": 2.0**-2},
        static=("seed",),
    ),
    Case(
        "sgdat reset compact",
        sj.sgdat,
        sj.sgdat,
        SGDAT | COMPACT | {"reset_flips_every": 2},
        SGDAT_SCALARS,
        rtol=COMPACT_RTOL,
    ),
    Case(
        "sgdat momentum compact",
        sj.sgdat,
        sj.sgdat,
        SGDAT | COMPACT | {"momentum": 0.9},
        SGDAT_SCALARS,
        rtol=COMPACT_RTOL,
    ),
    Case(
        "latent adam compact",
        sj.latent,
        adaptive_adam,
        ADAM | COMPACT,
        ADAM_SCALARS,
        rtol=ADAM_RTOL,
    ),
    Case("bop compact", sj.bop, sj.bop, BOP | COMPACT, BOP_SCALARS),
]
every_case = pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name) for case in CASES]
)
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
    """What can be read from a state for each weight, however it is wrapped."""
    found = [sj.flip_counts(state)]
    for read in (sj.latent_weights, sj.thresholds):
        with contextlib.suppress(ValueError):  # some rules have no such thing
            found.append(read(state))
    return found


def assert_equal(actual, expected, rtol=0.0):
    """Asserts equal leaves: shapes, dtypes, and values to the bit unless within rtol.

    The trees may be nested otherwise: a wrapped state, a dictionary and an `nnx.State`.
    Weights, flip counts and steps are whole numbers and equal either way.
    """
    actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
    assert expected
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    if rtol:
        chex.assert_trees_all_close(actual, expected, rtol=rtol)
    else:
        chex.assert_trees_all_equal(actual, expected)


def assert_same_training(case, trained, expected, rtol=0.0):
    """Asserts equal weights, and equal readings of states that may be wrapped."""
    assert_equal(trained[0], expected[0])
    rtol = max(case.rtol, rtol)
    assert_equal(readings(trained[1]), readings(expected[1]), rtol)


def differ(first, second):
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return any(not np.array_equal(a, b) for a, b in pairs)


def avals(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)
