"""Gradients that are looked up: to the bit those of XLA where no sum is rounded."""

import functools
import os
import pathlib
import subprocess
import sys

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import strategies
from jax import lax

import sgdat_jax as sj
from sgdat_jax import bits, cpu, lookups
from sgdat_jax.lookups import gradients, native

pytestmark = [
    pytest.mark.skipif(not native._can(), reason="needs AVX2 and a C++ compiler"),
    pytest.mark.usefixtures("allowed"),
]


@pytest.fixture(autouse=True)
def allowed(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(gradients, "_FEWEST_PRODUCTS", 0)
    assert sj.look_up_gradients()
    assert native.is_ready()
    yield
    sj.look_up_gradients(False)


def convolve(geometry, x, kernel):
    return lax.conv_general_dilated(
        x,
        kernel,
        geometry.strides,
        geometry.pads,
        rhs_dilation=geometry.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def made(x_shape, kernel_shape, geometry, seed=0):
    """Returns signs, and integers as cotangent, whose sums are exact in any order."""
    rng = np.random.default_rng(seed)
    x, kernel = (
        jnp.asarray(rng.choice([-1.0, 1.0], shape), jnp.float32)
        for shape in (x_shape, kernel_shape)
    )
    sums = jax.eval_shape(functools.partial(convolve, geometry), x, kernel)
    return x, kernel, jnp.asarray(rng.integers(-9, 10, sums.shape), jnp.float32)


@jax.jit(static_argnums=0)
def by_xla(geometry, x, kernel, cotangent):
    return jax.vjp(functools.partial(convolve, geometry), x, kernel)[1](cotangent)


def check(x_shape, kernel_shape, geometry, seed=0):
    x, kernel, cotangent = made(x_shape, kernel_shape, geometry, seed)
    to_x, to_kernel = by_xla(geometry, x, kernel, cotangent)
    found = lookups.to_kernel(x, cotangent, kernel_shape, geometry)
    chex.assert_trees_all_equal(found, to_kernel, strict=True)
    if max(geometry.strides) == 1:
        found = lookups.to_inputs(kernel, cotangent, x_shape, geometry)
        chex.assert_trees_all_equal(found, to_x, strict=True)


SAME = bits.Geometry((1, 1), ((1, 1), (1, 1)), (1, 1))


CASES = [
    ((2, 8, 8, 32), (3, 3, 32, 32), SAME),
    ((3, 5, 33, 20), (3, 3, 20, 13), SAME),  # more than one word of columns
    ((1, 20, 70, 16), (3, 3, 16, 8), SAME),
    ((5, 3, 3, 160), (3, 3, 160, 320), SAME),
    ((2, 4, 4, 48), (1, 1, 48, 7), bits.Geometry((1, 1), ((0, 0),) * 2, (1, 1))),
    ((2, 9, 12, 33), (5, 5, 33, 70), bits.Geometry((1, 1), ((2, 2),) * 2, (1, 1))),
    ((2, 9, 9, 17), (3, 3, 17, 9), SAME._replace(strides=(2, 2))),
    ((2, 9, 30, 17), (2, 4, 17, 9), SAME._replace(strides=(2, 3))),
    (
        (2, 12, 12, 33),
        (2, 4, 33, 10),
        bits.Geometry((1, 1), ((0, 2), (5, 3)), (3, 2)),
    ),
    ((1, 1, 1, 1), (1, 1, 1, 1), bits.Geometry((1, 1), ((0, 0),) * 2, (1, 1))),
    ((1, 1, 2, 3), (3, 3, 3, 2), bits.Geometry((1, 1), ((4, 4),) * 2, (1, 1))),
    ((3, 64, 40, 16), (3, 3, 16, 130), SAME),  # inputs in several parts
]


@pytest.mark.parametrize(("x_shape", "kernel_shape", "geometry"), CASES)
def test_they_are_those_of_xla(x_shape, kernel_shape, geometry):
    check(x_shape, kernel_shape, geometry)


sizes = strategies.integers(1, 40)


@pytest.mark.whole
@hypothesis.given(
    batch=strategies.integers(1, 4),
    size=strategies.tuples(sizes, sizes),
    channels=strategies.tuples(sizes, sizes),
    window=strategies.tuples(strategies.integers(1, 4), strategies.integers(1, 4)),
    strides=strategies.tuples(strategies.integers(1, 3), strategies.integers(1, 3)),
    dilation=strategies.tuples(strategies.integers(1, 3), strategies.integers(1, 3)),
    pads=strategies.tuples(*[strategies.integers(0, 4)] * 4),
)
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
def test_they_are_those_of_xla_for_any_geometry(
    batch, size, channels, window, strides, dilation, pads
):
    geometry = bits.Geometry(strides, (pads[:2], pads[2:]), dilation)
    padded = (size[0] + sum(pads[:2]), size[1] + sum(pads[2:]))
    reach = ((w - 1) * d for w, d in zip(window, dilation, strict=True))
    hypothesis.assume(all(r < p for r, p in zip(reach, padded, strict=True)))
    check((batch, *size, channels[0]), (*window, *channels), geometry)


_OF_AVX2 = """
import jax
from sgdat_jax import cpu
cpu.abilities = lambda: {"avx2", "fma"}
import test_gradients as gradients
import sgdat_jax as sj
from sgdat_jax.lookups import native
assert sj.look_up_gradients() and native.is_ready()
assert "-mavx2" in native._flags()
for case in gradients.CASES:
    gradients.check(*case)
print("equal")
"""


@pytest.mark.whole
@pytest.mark.skipif(not {"avx2", "fma"} <= cpu.abilities(), reason="needs AVX2")
def test_vectors_of_256_bits_give_the_same():
    done = subprocess.run(
        [sys.executable, "-c", _OF_AVX2],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).parent,
    )
    assert done.stdout == "equal\n", done.stderr


def in_float64(x, kernel, cotangent):
    """Returns both gradients of `SAME` with a window of 3x3."""
    x, kernel, cotangent = (np.asarray(a, np.float64) for a in (x, kernel, cotangent))
    around = (0, 0), (1, 1), (1, 1), (0, 0)
    height, width = x.shape[1:3]
    to_x, to_kernel = np.zeros(np.pad(x, around).shape), np.zeros(kernel.shape)
    for i, j in np.ndindex(3, 3):
        seen = slice(None), slice(i, i + height), slice(j, j + width)
        to_kernel[i, j] = np.tensordot(
            np.pad(x, around)[seen], cotangent, [(0, 1, 2)] * 2
        )
        to_x[seen] += cotangent @ kernel[i, j].T
    return to_x[:, 1:-1, 1:-1], to_kernel


def test_sums_that_are_rounded_are_as_close_as_those_of_xla():
    x, kernel, cotangent = made((32, 16, 16, 64), (3, 3, 64, 64), SAME)
    cotangent = jax.random.normal(jax.random.key(0), cotangent.shape)
    looked_up = (
        lookups.to_inputs(kernel, cotangent, x.shape, SAME),
        lookups.to_kernel(x, cotangent, kernel.shape, SAME),
    )
    found = zip(by_xla(SAME, x, kernel, cotangent), looked_up, strict=True)
    for both, exact in zip(found, in_float64(x, kernel, cotangent), strict=True):
        of_xla, of_lookups = (np.sqrt(np.mean((array - exact) ** 2)) for array in both)
        assert 0 < of_lookups < 1.5 * of_xla


_DIGEST = """
import os, sys
if sys.argv[1] == "one":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import hashlib, jax, numpy as np
import sgdat_jax as sj
from sgdat_jax import bits, cpu, lookups
assert sj.look_up_gradients() and lookups.native.is_ready()
keys = jax.random.split(jax.random.key(0), 2)
x = jax.numpy.sign(jax.random.normal(keys[0], (13, 16, 16, 40)))
g = jax.random.normal(keys[1], (13, 16, 16, 24))
kernel = jax.numpy.sign(x[:3, :3, 0, :, None] * g[0, 0, 0])
geometry = bits.Geometry((1, 1), ((1, 1), (1, 1)), (1, 1))
found = [lookups.to_kernel(x, g, (3, 3, 40, 24), geometry)]
found += [lookups.to_inputs(kernel, g, x.shape, geometry)]
print(hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in found)).hexdigest())
"""


@pytest.mark.whole
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_threads_change_no_bit():
    digests = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST, threads],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("one", "all", "all")
    }
    assert len(digests) == 1


def test_nan_is_not_lost():
    x, kernel, cotangent = made((2, 8, 8, 40), (3, 3, 40, 8), SAME)
    to_kernel = lookups.to_kernel(
        x.at[1, 3, 4, 35].set(jnp.nan), cotangent, kernel.shape, SAME
    )
    assert jnp.isnan(to_kernel[:, :, 32:]).all()  # features that share its word
    assert jnp.isfinite(to_kernel[:, :, :32]).all()
    to_x = lookups.to_inputs(
        kernel.at[0, 1, 2, 3].set(jnp.nan), cotangent, x.shape, SAME
    )
    assert jnp.isnan(to_x[..., 2]).all()
    assert jnp.isfinite(jnp.delete(to_x, 2, axis=-1)).all()
    cotangent = cotangent.at[0, 0, 0, 5].set(jnp.nan)
    assert jnp.isnan(lookups.to_kernel(x, cotangent, kernel.shape, SAME)).any()
    assert jnp.isnan(lookups.to_inputs(kernel, cotangent, x.shape, SAME)).any()


def test_batches_are_taken_one_by_one():
    geometry = SAME
    made_twice = [made((2, 6, 6, 9), (3, 3, 9, 8), geometry, seed) for seed in (0, 1)]
    x, kernel, cotangent = map(jnp.stack, zip(*made_twice, strict=True))
    to_kernel = jax.vmap(lambda x, g: lookups.to_kernel(x, g, (3, 3, 9, 8), geometry))
    to_x = jax.vmap(lambda k, g: lookups.to_inputs(k, g, (2, 6, 6, 9), geometry))
    found = to_x(kernel, cotangent), to_kernel(x, cotangent)
    expected = jax.vmap(functools.partial(by_xla, geometry))(x, kernel, cotangent)
    chex.assert_trees_all_equal(found, expected, strict=True)


def loss_of(layer, x, weights):
    return (layer(x) * weights).sum()


@pytest.mark.parametrize("strides", [1, 2])
def test_layers_look_them_up(strides):
    layer = sj.BinaryConv(16, 8, (3, 3), strides, rngs=nnx.Rngs(0))
    x, weights = (
        jax.random.randint(jax.random.key(seed), shape, -3, 4).astype("float32")
        for seed, shape in enumerate(
            [(2, 8, 8, 16), (2, 8 // strides, 8 // strides, 8)]
        )
    )
    step = nnx.jit(nnx.grad(loss_of, argnums=(0, 1)))
    program = step.lower(layer, x, weights).as_text()
    assert native.KERNEL_GRADIENT in program
    assert (native.INPUT_GRADIENT in program) == (strides == 1)
    found = step(layer, x, weights)
    sj.look_up_gradients(False)
    step = nnx.jit(nnx.grad(loss_of, argnums=(0, 1)))
    assert native.KERNEL_GRADIENT not in step.lower(layer, x, weights).as_text()
    chex.assert_trees_all_equal(found, step(layer, x, weights), strict=True)


@pytest.mark.whole
def test_second_derivatives_are_those_of_xla():
    layer = sj.BinaryConv(8, 8, (3, 3), rngs=nnx.Rngs(0))
    x = jax.random.randint(jax.random.key(0), (2, 6, 6, 8), -1, 2).astype("float32")

    def penalty(x):
        gradient = jax.grad(lambda x: (layer(x) ** 2).sum())(x)
        return (gradient**2).sum()

    found = jax.grad(penalty)(x)
    sj.look_up_gradients(False)
    chex.assert_trees_all_equal(found, jax.grad(penalty)(x), strict=True)
    assert jnp.any(found != 0)


@pytest.mark.parametrize(
    ("change", "possible"),
    [
        ({}, True),
        ({"dtype": "bfloat16"}, False),
        ({"geometry": bits.Geometry()}, False),
        ({"devices": 8}, False),
        ({"backend": "gpu"}, False),
        ({"fewest": 2**40}, False),
        ({"allowed": False}, False),
    ],
    ids=lambda change: str(change),
)
def test_what_can_be_looked_up(change, possible, monkeypatch):
    arrays = made((2, 6, 6, 8), (3, 3, 8, 8), SAME)
    arrays = [array.astype(change.get("dtype", "float32")) for array in arrays]
    monkeypatch.setattr(jax, "device_count", lambda: change.get("devices", 1))
    monkeypatch.setattr(jax, "default_backend", lambda: change.get("backend", "cpu"))
    monkeypatch.setattr(gradients, "_FEWEST_PRODUCTS", change.get("fewest", 0))
    sj.look_up_gradients(change.get("allowed", True))
    geometry = change.get("geometry", SAME)
    assert lookups.are_possible(*arrays, geometry) == possible
