import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import sgdat_jax as sj
from sgdat_jax import compilation


@pytest.fixture(autouse=True)
def fresh():
    compilation._are_known.cache_clear()
    yield
    compilation._are_known.cache_clear()


def _convolve(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=numbers
    )


def test_a_cpu_convolves_without_ynnpack_to_the_same_bits():
    keys = jax.random.split(jax.random.key(0), 2)
    x = jnp.sign(jax.random.normal(keys[0], (4, 8, 8, 32)))
    kernel = jnp.sign(jax.random.normal(keys[1], (3, 3, 32, 32)))
    of = {
        options: jax.jit(_convolve, compiler_options=dict(options))
        for options in ((), tuple(sj.compiler_options().items()))
    }
    programs = [run.lower(x, kernel).compile().as_text() for run in of.values()]
    assert ["ynn_fusion" in program for program in programs] == [True, False]
    # Sums of signs are integers, which are exact in whatever order.
    np.testing.assert_array_equal(*(run(x, kernel) for run in of.values()))


def test_the_installed_jaxlib_knows_the_options():
    # Without them nothing fails, and a training step takes half as long again.
    assert sj.compiler_options() == compilation._OPTIONS, jax.lib.__version__


def test_no_options_for_other_devices(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert sj.compiler_options() == {}


def test_no_options_where_jaxlib_has_none_such(monkeypatch):
    monkeypatch.setattr(compilation, "_OPTIONS", {"xla_cpu_unheard_of": ""})
    assert sj.compiler_options() == {}
