"""Products by bits: to the bit those of floats, and of NumPy's integers."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import lax

from sgdat_jax import bits, cpu

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def signs(*shape, seed=0):
    return np.random.default_rng(seed).choice([-1.0, 1.0], shape).astype(np.float32)


def conv(geometry):
    """Returns the convolution of floats of a geometry of two axes."""
    return functools.partial(
        lax.conv_general_dilated,
        window_strides=geometry.strides,
        padding=geometry.pads,
        rhs_dilation=geometry.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def by_bits(multiply, geometry):
    return jax.jit(functools.partial(bits.product, multiply, geometry, "float32"))


ONE = bits.Geometry((1, 1), ((1, 1), (1, 1)), (1, 1))


@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 40), -1), ((64, 5), 0), ((2, 31, 3), 1)]
)
def test_pack_sets_the_bits_of_negative_signs(shape, axis):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x.flat[:4] = 0.0, -0.0, np.nan, -np.inf
    words = jax.jit(bits.pack, static_argnums=1)(x, axis)
    missing = -shape[axis] % 32
    widths = [(0, missing if i == axis % x.ndim else 0) for i in range(x.ndim)]
    octets = np.packbits(np.pad(x < 0, widths), axis, bitorder="little")
    octets = np.moveaxis(octets, axis, -1)
    expected = np.ascontiguousarray(octets).view("<u4")
    np.testing.assert_array_equal(np.moveaxis(words, axis, -1), expected)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_unpack_returns_what_was_packed(axis, dtype):
    x = signs(33, 32, 5)
    unpacked = bits.unpack(bits.pack(jnp.asarray(x), axis), x.shape[axis], axis, dtype)
    assert unpacked.dtype == dtype
    np.testing.assert_array_equal(np.asarray(unpacked, np.float32), x)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 7, 18, 64])
def test_count_bits_counts_all_of_them(number):
    words = np.random.default_rng(number).integers(0, 2**32, (number, 50), np.uint32)
    words[:, 0], words[:, 1] = 0, 2**32 - 1
    counts = jax.jit(bits.count_bits)(list(words))
    assert counts.dtype == jnp.int32
    expected = np.unpackbits(words.view(np.uint8).reshape(number, 50, 4), axis=2)
    np.testing.assert_array_equal(counts, expected.sum((0, 2), dtype=np.int32))


CONVS = {
    "plain": ((2, 5, 6, 33), (3, 3, 33, 4), ONE),
    "strides": ((2, 7, 6, 8), (3, 3, 8, 5), ONE._replace(strides=(2, 3))),
    "dilation": ((1, 9, 8, 40), (3, 2, 40, 3), ONE._replace(dilation=(3, 2))),
    "uneven pads": ((1, 4, 5, 8), (2, 3, 8, 3), ONE._replace(pads=((3, 0), (0, 2)))),
    "negative pads": (
        (1, 7, 6, 8),
        (3, 1, 8, 3),
        ONE._replace(pads=((-1, 2), (-2, -1))),
    ),
    "no pads": ((1, 4, 4, 8), (3, 3, 8, 3), ONE._replace(pads=((0, 0), (0, 0)))),
    "no outputs": ((1, 2, 4, 8), (5, 3, 8, 3), ONE),
    "one entry": (
        (2, 4, 4, 300),
        (1, 1, 300, 9),
        bits.Geometry((2, 2), ((0, 0),) * 2, (1, 1)),
    ),
    "several steps": ((1, 4, 3, 640), (3, 3, 640, 8), ONE),
    "steps of unequal words": ((1, 3, 3, 480), (3, 3, 480, 520), ONE),
}


@pytest.mark.parametrize("case", CONVS)
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_convolution_is_that_of_floats(case, is_packed):
    x_shape, kernel_shape, geometry = CONVS[case]
    x, kernel = signs(*x_shape), signs(*kernel_shape, seed=1)
    expected = jax.jit(conv(geometry))(x, kernel)
    operand = bits.pack(jnp.asarray(kernel), -2) if is_packed else kernel
    sums = by_bits(conv(geometry), geometry)(x, operand)
    assert sums.dtype == expected.dtype
    np.testing.assert_array_equal(sums, expected)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize(("features", "outputs"), [(5, 2), (96, 8), (2100, 7)])
def test_a_matrix_product_is_that_of_integers(batch, features, outputs):
    x, kernel = signs(*batch, features), signs(features, outputs, seed=1)
    sums = by_bits(jnp.matmul, bits.Geometry())(x, kernel)
    np.testing.assert_array_equal(sums, x.astype(int) @ kernel.astype(int))


def test_large_sums_are_exact_integers():
    words = bits.pack(-jnp.ones((1, 70_000)))
    kernel = bits.pack(jnp.ones((70_000, 2)), 0)
    sums = jax.jit(bits.sums_of_words, static_argnums=(2, 3))(
        words, kernel, 70_000, bits.Geometry()
    )
    np.testing.assert_array_equal(sums, [[-70_000, -70_000]])


@hypothesis.settings(deadline=None, max_examples=15, derandomize=True)
@hypothesis.given(st.data())
def test_any_geometry_gives_the_convolution_of_floats(data):
    def pair(low, high):
        return data.draw(st.tuples(*[st.integers(low, high)] * 2))

    geometry = bits.Geometry(pair(1, 3), (pair(-1, 3), pair(-1, 3)), pair(1, 3))
    size, window = pair(2, 8), pair(1, 4)
    features, outputs = pair(1, 70)
    x = signs(2, *size, features)
    kernel = signs(*window, features, outputs, seed=1)
    expected = jax.jit(conv(geometry))(x, kernel)
    sums = by_bits(conv(geometry), geometry)(x, kernel)
    np.testing.assert_array_equal(sums, expected)


@pytest.mark.parametrize("where", ["inputs", "kernel", "both"])
def test_nan_spreads_as_in_a_product_of_floats(where):
    x, kernel = signs(3, 6, 6, 40), signs(3, 3, 40, 8, seed=1)
    if where != "kernel":
        x[1, 0, 2, 33] = np.nan
    if where != "inputs":
        kernel[0, 1, 7, 5] = np.nan
    expected = jax.jit(conv(ONE))(x, kernel)
    sums = by_bits(conv(ONE), ONE)(x, kernel)
    assert 0 < np.isnan(sums).mean() < 1
    np.testing.assert_array_equal(sums, expected)


def test_nan_spreads_through_a_packed_kernel():
    x, kernel = signs(3, 40), signs(40, 8, seed=1)
    x[1, 39] = np.nan
    sums = by_bits(jnp.matmul, bits.Geometry())(x, bits.pack(jnp.asarray(kernel), 0))
    np.testing.assert_array_equal(sums, x @ kernel)


def test_models_side_by_side_have_the_sums_of_each():
    x, kernel = signs(2, 4, 5, 5, 16), signs(2, 3, 3, 16, 8, seed=1)
    x[1, 0, 0, 0, 0] = np.nan  # makes a branch of one model alone
    together = jax.jit(
        jax.vmap(functools.partial(bits.product, conv(ONE), ONE, "float32"))
    )
    alone = by_bits(conv(ONE), ONE)
    # One branch for all of them, not both for each.
    assert together.lower(x, kernel).as_text().count("stablehlo.case") == 1
    for i, sums in enumerate(together(x, kernel)):
        np.testing.assert_array_equal(sums, alone(x[i], kernel[i]))


@pytest.mark.parametrize("in_vectors", [False, True])
def test_sums_are_those_of_floats_on_any_processor(in_vectors, monkeypatch):
    monkeypatch.setattr(cpu, "counts_bits_in_vectors", lambda: in_vectors)
    chance = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(np.where(chance.normal(size=shape) < 0, -1.0, 1.0), jnp.float32)
        for shape in ((2, 5, 6, 70), (3, 3, 70, 9))
    )
    geometry = bits.Geometry((1, 2), ((1, 1), (0, 1)), (1, 1))
    words = bits.pack(x), bits.pack(kernel, axis=-2)
    sums = bits.sums_of_words(*words, 70, geometry)
    expected = lax.conv_general_dilated(
        x,
        kernel,
        geometry.strides,
        geometry.pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_array_equal(sums, expected)
