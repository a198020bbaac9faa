"""Convolutions on all cores, and memory that is kept."""

import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import sgdat_jax as sj
from sgdat_jax import cpu


@pytest.fixture(autouse=True)
def fresh():
    cpu._are_known.cache_clear()
    yield
    cpu._are_known.cache_clear()


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
    assert "ynn_fusion" not in programs[1]  # from jaxlib 0.10.1 on it is in the other
    # Sums of signs are integers, which are exact in whatever order.
    np.testing.assert_array_equal(*(run(x, kernel) for run in of.values()))


def test_the_installed_jaxlib_knows_the_options():
    # Without them nothing fails, and a training step takes half as long again.
    assert sj.compiler_options() == cpu._OPTIONS, jax.lib.__version__


def test_no_options_for_other_devices(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert sj.compiler_options() == {}


def test_no_options_where_jaxlib_has_none_such(monkeypatch):
    monkeypatch.setattr(cpu, "_OPTIONS", {"xla_cpu_unheard_of": ""})
    assert sj.compiler_options() == {}


# How often a process gets fresh pages tells whether freed memory is kept.
PAGES = 8192  # of 4 KiB in 32 MiB
# Not of NumPy, which asks for huge pages.
SCRIPT = """
import resource, sys
import sgdat_jax as sj
if sys.argv[1] == "kept":
    assert sj.keep_freed_memory()
for turn in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(b"x") * 2**25
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is of glibc")
@pytest.mark.parametrize("how", ["kept", "given back"])
def test_memory_is_used_again(how):
    environment = {"GLIBC_TUNABLES": "", "PATH": ""}  # huge pages would be few
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    first, *later = map(int, done.stdout.split())
    assert first > 0.9 * PAGES
    for faults in later:
        assert faults < 100 if how == "kept" else faults > 0.9 * PAGES


def test_the_former_name_works():
    from sgdat_jax import host_memory

    assert host_memory.keep_freed_memory is sj.keep_freed_memory
