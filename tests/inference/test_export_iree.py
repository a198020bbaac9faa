"""The form of sums and convolutions that IREE compiles well: the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sgdat_jax import bits, inference
from sgdat_jax.inference.export import iree, networks, words

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def random_words(rng, *shape):
    return jnp.asarray(rng.integers(0, 2**32, shape, np.uint32))


def test_what_is_for_a_named_processor_is_not_run_here():
    for target, cpu, runs in (
        (None, None, True),
        (None, "host", True),
        (iree.host(), None, True),
        (iree.host(), "diamondrapids", False),  # its first instruction would be fatal
        (None, "diamondrapids", False),
        ("riscv64", None, False),
    ):
        assert iree.runs_here(networks.Options(target, cpu)) is runs


def test_an_unknown_processor_is_named_with_the_nearest():
    pytest.importorskip("iree.compiler")
    function = inference.Function(lambda _, x: jnp.sqrt(x), [], {})
    network = networks.Network(function, (4,), np.dtype(np.float32))
    for target, cpu, nearest in (
        ("aarch64-linux-gnu", "cortex-a777", "cortex-a77"),
        ("x86_64-linux-gnu", "znver44", "znver4"),
    ):
        with pytest.raises(
            ValueError, match=f"`cpu` must be .* for {target}, .* is '{nearest}'"
        ):
            iree.content(network, networks.Options(target, cpu))


@pytest.mark.parametrize("features", [70, pytest.param(96, marks=pytest.mark.whole)])
@pytest.mark.parametrize(
    "geometry",
    [
        bits.Geometry((1, 1), ((1, 1), (1, 1)), (1, 1)),
        bits.Geometry((2, 1), ((0, 2), (1, 0)), (1, 2)),
        bits.Geometry((1, 1), ((0, 0), (0, 0)), (1, 1)),
    ],
)
def test_sums_equal_those_of_the_other_form(geometry, features):
    rng = np.random.default_rng(0)
    signs = rng.normal(size=(2, 7, 6, features)), rng.normal(size=(3, 3, features, 5))
    x, kernel = (
        bits.pack(jnp.asarray(one, jnp.float32), axis)
        for one, axis in zip(signs, (-1, -2), strict=True)
    )
    # Compiled as a whole: each operation by itself takes longer.
    expected, sums = (
        jax.jit(form, static_argnums=(2, 3))(x, kernel, features, geometry)
        for form in (bits.sums_of_words, words.sums)
    )
    np.testing.assert_array_equal(sums, expected)


@pytest.mark.whole
def test_sums_of_matrices():
    rng = np.random.default_rng(0)
    x, kernel = random_words(rng, 3, 40), random_words(rng, 40, 5)
    expected = bits.sums_of_words(x, kernel, 1280, bits.Geometry())
    sums = jax.jit(words.sums, static_argnums=(2, 3))
    np.testing.assert_array_equal(sums(x, kernel, 1280, bits.Geometry()), expected)


@pytest.mark.whole
def test_convolutions_of_few_channels():
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 5))
    geometry = {
        "window_strides": (2, 1),
        "padding": ((1, 1), (0, 2)),
        "rhs_dilation": (1, 2),
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    }
    expected = lax.conv_general_dilated(x, kernel, **geometry)
    np.testing.assert_allclose(
        words.convolve(x, kernel, **geometry), expected, rtol=1e-5, atol=1e-5
    )
