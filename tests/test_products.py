import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sgdat_jax import products


def _operands(shape, kernel, dtype=np.float32):
    """Small integers, of whose products sums are exact in whatever order."""
    rng = np.random.default_rng(0)
    return [rng.integers(-3, 4, of).astype(dtype) for of in (shape, kernel)]


def _value_and_gradients(conv, x, kernel, **options):
    numbers = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC")}[x.ndim - 2]

    @jax.jit
    def run(x, kernel):
        options.setdefault("dimension_numbers", numbers)
        y, pullback = jax.vjp(functools.partial(conv, **options), x, kernel)
        return y, *pullback(
            (jnp.arange(y.size) % 5 - 2).reshape(y.shape).astype(y.dtype)
        )

    return run(x, kernel)


@pytest.mark.parametrize(
    ("shape", "kernel", "options"),
    [
        ((2, 6, 5, 9), (3, 3, 9, 4), {"padding": "SAME"}),
        pytest.param(
            (2, 6, 5, 1), (3, 3, 1, 4), {"padding": "SAME"}, marks=pytest.mark.slow
        ),
        ((2, 9, 8, 9), (3, 2, 9, 4), {"padding": "VALID", "window_strides": (2, 3)}),
        pytest.param(
            (2, 9, 8, 9),
            (3, 3, 9, 4),
            {"padding": [(1, 2), (0, 3)]},
            marks=pytest.mark.slow,
        ),
        ((2, 9, 8, 9), (3, 3, 9, 4), {"padding": "SAME", "rhs_dilation": (2, 1)}),
        pytest.param(
            (2, 7, 9),
            (4, 9, 3),
            {"padding": "SAME_LOWER", "window_strides": (2,)},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            (2, 4, 4, 16),
            (1, 1, 16, 8),
            {"padding": "SAME", "window_strides": (2, 2)},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_gradients_equal_those_of_xla(shape, kernel, options):
    options = {"window_strides": (len(shape) - 2) * (1,)} | options
    ours, xla = (
        _value_and_gradients(conv, *_operands(shape, kernel), **options)
        for conv in (products.conv_general_dilated, lax.conv_general_dilated)
    )
    for a, b in zip(ours, xla, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_only_a_cpu_takes_the_shifts(platform):
    x, kernel = _operands((2, 6, 6, 9), (3, 3, 9, 4))
    options = {
        "window_strides": (1, 1),
        "padding": "SAME",
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    }
    gradient = jax.grad(lambda k: products.conv_general_dilated(x, k, **options).sum())
    text = (
        jax.jit(gradient).trace(kernel).lower(lowering_platforms=(platform,)).as_text()
    )
    # Forward pass and kernel gradient, of which a CPU has the first alone.
    assert ("dot_general" in text) == (platform == "cpu")


@pytest.mark.parametrize(
    ("shape", "kernel", "options"),
    [
        ((2, 6, 6, 8), (3, 3, 4, 4), {"feature_group_count": 2}),
        (
            (2, 6, 6, 8),
            (3, 3, 8, 4),
            {"lhs_dilation": (2, 1), "padding": [(1, 1), (1, 1)]},
        ),
        ((2, 6, 6, 8), (3, 3, 8, 4), {"padding": [(-1, 1), (1, 1)]}),
        ((2, 8, 6, 6), (4, 8, 3, 3), {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}),
    ],
)
def test_everything_else_is_left_to_xla(shape, kernel, options):
    options = {"window_strides": (1, 1), "padding": "SAME"} | options
    x, kernel = _operands(shape, kernel)
    graphs = [
        str(
            jax.make_jaxpr(
                functools.partial(
                    conv, **{"dimension_numbers": ("NHWC", "HWIO", "NHWC")} | options
                )
            )(x, kernel)
        )
        for conv in (products.conv_general_dilated, lax.conv_general_dilated)
    ]
    assert graphs[0] == graphs[1]


def test_other_dtypes():
    x, kernel = _operands((2, 6, 6, 9), (3, 3, 9, 4), jnp.bfloat16)
    options = {"window_strides": (1, 1), "padding": "SAME"}
    y, dx, dkernel = _value_and_gradients(
        products.conv_general_dilated, x, kernel, **options
    )
    assert {a.dtype for a in (y, dx, dkernel)} == {jnp.dtype(jnp.bfloat16)}
