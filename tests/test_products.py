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


@pytest.mark.parametrize("in_features", [17, 40])
@pytest.mark.parametrize("strides", [1, 2])
def test_signs_are_summed_as_integers_to_the_same_bits(in_features, strides):
    keys = jax.random.split(jax.random.key(in_features), 2)
    x = jnp.sign(jax.random.normal(keys[0], (3, 8, 8, in_features)))
    kernel = jnp.sign(jax.random.normal(keys[1], (3, 3, in_features, 20)))

    def of(signs):
        def loss(x, kernel):
            y = products.conv_general_dilated(
                x,
                kernel,
                (strides, strides),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                signs=signs,
            )
            return (y**2).sum(), y

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))

    text = of(True).lower(x, kernel).as_text()
    assert "xi8>" in text
    assert "xi8>" not in of(False).lower(x, kernel).as_text()
    for ours, theirs in zip(
        jax.tree.leaves(of(True)(x, kernel)),
        jax.tree.leaves(of(False)(x, kernel)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    (_, y), _ = of(True)(x.at[1, 2, 3, 4].set(jnp.nan), kernel)
    assert jnp.isnan(y).any((1, 2, 3)).tolist() == [False, True, False]
    (_, y), _ = of(True)(x, kernel.at[0, 0, 0, 7].set(jnp.nan))
    assert jnp.isnan(y).any((0, 1, 2)).tolist() == [k == 7 for k in range(20)]


def test_few_channels_are_left_in_floats():
    x, kernel = jnp.ones((2, 8, 8, 16)), jnp.ones((3, 3, 16, 16))
    lowered = jax.jit(
        lambda x, kernel: products.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            signs=True,
        )
    ).lower(x, kernel)
    assert "xi8>" not in lowered.as_text()
