"""Every quantizer trains by its name, the annealed ones by their schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import small_runs
from sgdat_jax import signs
from sgdat_jax.models import specs

pytestmark = pytest.mark.usefixtures("compiled_quickly")


_OTHERS = sorted(set(specs.SIGNS) - {"ste_sign", "approx_sign", "swish_sign"})


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "ede_sign" else pytest.mark.whole)
        for name in _OTHERS
    ],
)
def test_every_quantizer_trains(name):
    _, losses = small_runs.train(
        small_runs.alone(), small_runs.ORDER[:12], input_sign=name
    )
    assert np.isfinite(losses).all()
    assert losses[-3:].mean() < losses[0]


def test_progress_goes_from_0_to_1(monkeypatch):
    slope = signs.surrogate(lambda x, p: p * jnp.ones_like(x))
    annealed = signs.annealed(slope, "p", lambda progress: progress)
    monkeypatch.setitem(specs.SIGNS, "rising", annealed)
    start = small_runs.task_and_init(small_runs.alone(), input_sign="rising")[1](
        np.uint32(0)
    )
    kernel = np.asarray(nnx.to_pure_dict(start.params)["dense1"]["kernel"])
    changed = []
    for steps in (1, 2):
        order = small_runs.ORDER[:steps]
        state, _ = small_runs.train(small_runs.alone(), order, input_sign="rising")
        now = np.asarray(nnx.to_pure_dict(state.params)["dense1"]["kernel"])
        changed.append((now != kernel).any())
    assert changed == [False, True]  # the first gradient is 0 below the first sign


def test_schedule_is_that_of_the_paper():
    quantize = specs.SIGNS["ede_sign"]
    assert signs.is_sign(quantize)
    assert quantize.__name__ == "ede_sign"
    x = jnp.linspace(-1.0, 1.0, 9)
    for progress in (0.0, 0.25, 1.0):
        with signs.annealing(progress):
            found = jax.grad(lambda x: quantize(x).sum())(x)
        t = signs.ede_t(progress)
        expected = jax.grad(lambda x, t=t: signs.ede_sign(x, t).sum())(x)
        np.testing.assert_array_equal(found, expected)
    at_the_end = jax.grad(lambda x: quantize(x).sum())(x)
    np.testing.assert_array_equal(at_the_end, found)
