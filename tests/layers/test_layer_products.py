"""Outputs of the layers: equality with nnx, and exact sums of +-1 products."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import layer_cases
from sgdat_jax import inference
from sgdat_jax.layers import BinaryConv, BinaryLinear

pytestmark = pytest.mark.usefixtures("compiled_quickly")

PLAIN = {"input_quantizer": None, "kernel_quantizer": None}
# alpha is a mean, which XLA and NumPy sum in different orders.
XNOR_RTOL = 1e-6


def assert_equal_layers(binary, plain, x):
    """Equal initial values, outputs and gradients, bit for bit."""
    for name, value in nnx.to_pure_dict(nnx.state(plain)).items():
        chex.assert_trees_all_equal(
            nnx.to_pure_dict(nnx.state(binary))[name], value, strict=True
        )
    y, (grads, x_grad) = layer_cases.value_and_grads(binary, x)
    plain_y, (plain_grads, plain_x_grad) = layer_cases.value_and_grads(plain, x)
    chex.assert_trees_all_equal(y, plain_y, strict=True)
    chex.assert_trees_all_equal(x_grad, plain_x_grad, strict=True)
    for name, grad in nnx.to_pure_dict(plain_grads).items():
        assert np.any(np.asarray(grad, np.float32) != 0)
        chex.assert_trees_all_equal(nnx.to_pure_dict(grads)[name], grad, strict=True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_bias": True, "bias_init": layer_cases.normal_init},
        {"dtype": jnp.bfloat16, "use_bias": True},
        {"param_dtype": jnp.bfloat16},
        {"kernel_init": layer_cases.normal_init, "precision": "highest"},
    ],
    ids=lambda options: " ".join(options) or "default",
)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 5)])
def test_linear_without_quantizers_equals_nnx(options, shape):
    options = {"use_bias": False, **options}
    x = layer_cases.normal(*shape)
    binary = BinaryLinear(5, 6, rngs=nnx.Rngs(0), **PLAIN, **options)
    plain = nnx.Linear(5, 6, rngs=nnx.Rngs(0), **options)
    assert_equal_layers(binary, plain, x)


@pytest.mark.parametrize("case", layer_cases.CONVS)
def test_conv_without_quantizers_equals_nnx(case):
    sizes, options, shape = layer_cases.CONVS[case]
    options = {"use_bias": False, **options}
    if case not in layer_cases.INITS:
        options["kernel_init"] = layer_cases.normal_init
    x = layer_cases.normal(*shape)
    binary = BinaryConv(
        *sizes,
        conv_general_dilated=jax.lax.conv_general_dilated,
        rngs=nnx.Rngs(0),
        **PLAIN,
        **options,
    )
    plain = nnx.Conv(*sizes, rngs=nnx.Rngs(0), **options)
    assert_equal_layers(binary, plain, x)


def same_pads(size, kernel, stride, dilation, lower=False):
    """Pads after which the output has ceil(size / stride) entries."""
    total = max(
        (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0
    )
    short, long = total // 2, total - total // 2
    return (long, short) if lower else (short, long)


def reference_conv(x, kernel, strides, dilation, pads, pad_value, groups):
    """The convolution of (n, *spatial, c) by its definition, one output at a time."""
    x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=pad_value)
    *window, c_in, c_out = kernel.shape
    reach = [(k - 1) * d for k, d in zip(window, dilation, strict=True)]
    steps = zip(x.shape[1:-1], reach, strides, strict=True)
    spatial = [(size - r - 1) // s + 1 for size, r, s in steps]
    y = np.zeros((len(x), *spatial, c_out))
    for place, out in itertools.product(np.ndindex(*spatial), range(c_out)):
        first = out // (c_out // groups) * c_in
        for tap in np.ndindex(*window):
            at = zip(place, strides, tap, dilation, strict=True)
            where = tuple(p * s + t * d for p, s, t, d in at)
            patch = x[(slice(None), *where)][:, first : first + c_in]
            y[(slice(None), *place, out)] += patch @ kernel[(*tap, slice(None), out)]
    return y


@pytest.mark.parametrize("pad_value", [0, 1, -1])
@pytest.mark.parametrize("case", layer_cases.PADDED)
def test_conv_of_signs_is_the_exact_sum_of_integers(case, pad_value):
    sizes, options, shape = layer_cases.CONVS[case]
    options = {**options, "use_bias": False, "pad_value": pad_value}
    conv = BinaryConv(
        *sizes, kernel_init=layer_cases.sign_init, rngs=nnx.Rngs(0), **options
    )
    x = layer_cases.normal(*shape)
    y = nnx.jit(lambda conv, x: conv(x))(conv, x)

    kernel = np.asarray(conv.kernel[...])
    rank = kernel.ndim - 2
    strides, dilation = (
        np.broadcast_to(options.get(name, 1), rank)
        for name in ("strides", "kernel_dilation")
    )
    padding = options.get("padding", "SAME")
    if padding == "CAUSAL":
        pads = [((kernel.shape[0] - 1) * dilation[0], 0)]
    elif isinstance(padding, str):
        geometry = zip(shape[1:-1], kernel.shape, strides, dilation, strict=False)
        pads = [same_pads(*g, lower=padding == "SAME_LOWER") for g in geometry]
    else:
        pads = [(p, p) if isinstance(p, int) else p for p in padding]
    signs_of_x = np.sign(x)
    groups = options.get("feature_group_count", 1)
    expected = reference_conv(
        signs_of_x, kernel, strides, dilation, pads, pad_value, groups
    )
    np.testing.assert_array_equal(np.asarray(y), expected)
    if pad_value:
        # A binary product: every output is a sum of as many +-1 as the kernel has.
        np.testing.assert_array_equal(np.asarray(y) % 2, kernel[..., 0].size % 2)


@pytest.mark.parametrize("padding", ["CIRCULAR", "REFLECT"])
def test_pads_taken_from_the_inputs_are_signs(padding):
    conv = BinaryConv(
        3,
        4,
        (3, 3),
        padding=padding,
        kernel_init=layer_cases.sign_init,
        rngs=nnx.Rngs(0),
    )
    x = layer_cases.normal(2, 6, 5, 3)
    mode = {"CIRCULAR": "wrap", "REFLECT": "reflect"}[padding]
    padded = np.pad(np.sign(x), [(0, 0), (1, 1), (1, 1), (0, 0)], mode)
    kernel = np.asarray(conv.kernel[...])
    expected = reference_conv(padded, kernel, (1, 1), (1, 1), [(0, 0)] * 2, 0, 1)
    np.testing.assert_array_equal(conv(x), expected)


@pytest.mark.parametrize("pad_value", [0, 1, -1])
def test_quantizer_does_not_see_the_pads(pad_value):
    conv = BinaryConv(1, 1, 3, padding="CAUSAL", pad_value=pad_value, rngs=nnx.Rngs(0))
    conv.kernel[...] = jnp.ones((3, 1, 1))
    y = conv(jnp.full((4, 1), -0.5))
    np.testing.assert_array_equal(y[:, 0], [2 * pad_value - 1, pad_value - 2, -3, -3])


def test_bfloat16_sums_below_256_are_exact():
    options = {
        "dtype": jnp.bfloat16,
        "kernel_init": layer_cases.sign_init,
        "rngs": nnx.Rngs(0),
    }
    layer = BinaryLinear(255, 32, **options)
    conv = BinaryConv(28, 16, (3, 3), pad_value=-1, **options)
    x, image = layer_cases.normal(8, 255), layer_cases.normal(2, 5, 5, 28)
    for module, inputs in ((layer, x), (conv, image)):
        y = nnx.jit(lambda module, x: module(x))(module, inputs)
        assert y.dtype == jnp.bfloat16
        module.dtype = jnp.float32
        np.testing.assert_array_equal(np.asarray(y, np.float32), module(inputs))


@pytest.mark.parametrize(
    ("kind", "inputs_dtype"), [("linear", jnp.bfloat16), ("conv", jnp.float32)]
)
def test_wide_sums_of_bfloat16_products_are_exact(kind, inputs_dtype):
    # Mostly +1, so that sums exceed 256, where bfloat16 has not all integers.
    biased = abs(layer_cases.normal(4, 6, 6, 96)) - 0.2
    options = {"rngs": nnx.Rngs(0), "kernel_init": nnx.initializers.ones_init()}
    if kind == "conv":
        layer = BinaryConv(96, 8, (3, 3), strides=2, pad_value=1, **options)
        x = jnp.asarray(biased, inputs_dtype)
    else:
        layer = BinaryLinear(96 * 36, 8, **options)
        x = jnp.asarray(biased.reshape(4, -1), inputs_dtype)
    y, (grads, x_grad) = layer_cases.value_and_grads(layer, x)
    layer.dtype, layer.preferred_element_type = jnp.bfloat16, jnp.float32
    wide_y, (wide_grads, wide_x_grad) = layer_cases.value_and_grads(layer, x)

    assert np.abs(y).max() > 256
    assert np.any(y != y.astype(jnp.bfloat16).astype(jnp.float32))
    chex.assert_trees_all_equal(wide_y, y.astype(jnp.float32), strict=True)
    pairs = ((x_grad, wide_x_grad), (grads.kernel[...], wide_grads.kernel[...]))
    for exact, rounded in pairs:
        assert rounded.dtype == exact.dtype
        exact, rounded = np.asarray(exact, np.float32), np.asarray(rounded, np.float32)
        # The incoming gradient, the outgoing and the exact one: each rounded by 2**-9.
        assert np.abs(rounded - exact).max() <= 3 * 2**-9 * np.abs(exact).max()
        assert np.abs(exact).max() > 0


@pytest.mark.parametrize("pad_value", [0, 1, -1])
def test_int8_signs_are_summed_in_int32(pad_value):
    # Mostly +1, so that sums exceed int8's.
    x = abs(layer_cases.normal(2, 3, 3, 288)) - 0.2
    conv = BinaryConv(288, 8, (3, 3), pad_value=pad_value, rngs=nnx.Rngs(0))
    dense = BinaryLinear(288, 8, rngs=nnx.Rngs(0))
    for layer in (conv, dense):
        layer.kernel[...] = abs(layer_cases.normal(*layer.kernel.shape)) - 0.2
        expected = layer(x)
        assert np.abs(expected).max() > 128
        chex.assert_trees_all_equal(
            inference.fold(layer, "int8")(x), expected, strict=True
        )


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_xnor_scales_each_channel_by_its_mean_magnitude(groups, dtype):
    options = {
        "dtype": dtype,
        "feature_group_count": groups,
        "kernel_init": layer_cases.normal_init,
        "use_bias": True,
        "bias_init": layer_cases.normal_init,
    }
    x = layer_cases.normal(2, 5, 5, 4)
    scaled = BinaryConv(4, 6, (3, 3), output_scale="xnor", rngs=nnx.Rngs(0), **options)
    unscaled = BinaryConv(4, 6, (3, 3), rngs=nnx.Rngs(0), **options)
    alpha = np.abs(np.asarray(scaled.kernel[...])).mean(axis=(0, 1, 2))
    assert alpha.shape == (6,)
    bias = np.asarray(scaled.bias[...])
    unscaled.bias[...] = jnp.zeros(6)
    expected = np.asarray(unscaled(x), np.float32) * alpha + bias
    y = nnx.jit(lambda layer, x: layer(x))(scaled, x)
    assert y.dtype == dtype
    rtol = XNOR_RTOL if dtype == jnp.float32 else 2e-2  # three roundings of 2**-8
    np.testing.assert_allclose(
        np.asarray(y, np.float32), expected, rtol=rtol, atol=rtol
    )
