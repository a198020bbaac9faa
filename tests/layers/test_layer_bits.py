"""Layers that count bits on a CPU: when they do, and that nothing changes by it."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import layer_cases
import sgdat_jax as sj
from sgdat_jax import inference
from sgdat_jax.layers import BinaryConv, BinaryConvTranspose, BinaryLinear, products

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def conv(**options):
    options = {"kernel_init": layer_cases.normal_init, **options}
    return BinaryConv(8, 8, (3, 3), rngs=nnx.Rngs(0), **options)


def linear(**options):
    options = {"kernel_init": layer_cases.normal_init, **options}
    return BinaryLinear(256, 8, rngs=nnx.Rngs(0), **options)


X = layer_cases.normal(2, 6, 6, 8)
SHAPES = {conv: (2, 6, 6, 8), linear: (4, 8, 256)}


def counts_bits(layer, x):
    program = jax.jit(lambda x: layer(x)).trace(x).lower(lowering_platforms=("cpu",))
    return "popcnt" in program.as_text()


def of_floats(make, **options):
    """Returns a layer whose products are those of floats."""
    layer = make(**options)
    layer._are_signs = lambda *_: False
    return layer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"input_quantizer": functools.partial(sj.swish_sign, beta=3.0)},
        {"kernel_quantizer": sj.approx_sign, "use_bias": True},
        {"output_scale": "xnor"},
        {"dtype": jnp.bfloat16, "preferred_element_type": jnp.float32},
    ],
    ids=lambda options: " ".join(options) or "default",
)
@pytest.mark.parametrize("make", SHAPES)
def test_values_and_gradients_are_those_of_floats(make, options):
    x = layer_cases.normal(*SHAPES[make])
    layer = make(**options)
    assert counts_bits(layer, x)
    y, (grads, x_grad) = layer_cases.value_and_grads(layer, x)
    expected = layer_cases.value_and_grads(of_floats(make, **options), x)
    expected_y, (expected_grads, expected_x_grad) = expected
    chex.assert_trees_all_equal(y, expected_y, strict=True)
    chex.assert_trees_all_equal(x_grad, expected_x_grad, strict=True)
    assert np.any(x_grad != 0)
    chex.assert_trees_all_equal(grads, expected_grads, strict=True)


@pytest.mark.parametrize(
    ("padding", "pad_value"),
    [
        ("CIRCULAR", 0),
        ("SAME", 0),
        ("SAME", 1),
        (2, -1),
        ([(0, 2), (1, 0)], 0),
        ([(0, 2), (1, 0)], 1),
    ],
)
def test_pads_are_those_of_floats(padding, pad_value):
    options = {"padding": padding, "pad_value": pad_value, "strides": 2}
    x = layer_cases.normal(8, 6, 6, 8)
    layer = conv(**options)
    assert counts_bits(layer, x)
    expected = nnx.jit(lambda layer, x: layer(x))(of_floats(conv, **options), x)
    chex.assert_trees_all_equal(
        nnx.jit(lambda layer, x: layer(x))(layer, x), expected, strict=True
    )


OTHERS = {
    "real inputs": {"input_quantizer": None},
    "unknown quantizer": {"input_quantizer": lambda x: x},
    "scaled kernel": {"kernel_quantizer": sj.magnitude_aware_sign},
    "rounded sums": {"dtype": jnp.bfloat16},
    "groups": {"feature_group_count": 2},
    "mask": {"mask": np.ones((3, 3, 8, 8))},
    "dilated inputs": {"input_dilation": 2, "padding": 1},
    "own convolution": {
        "conv_general_dilated": functools.partial(lax.conv_general_dilated)
    },
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_products_are_of_floats(case):
    assert not counts_bits(conv(**OTHERS[case]), layer_cases.normal(2, 6, 6, 8))


@pytest.mark.parametrize("pad_value", [0, 1, -1])
@pytest.mark.parametrize("dilation", [1, 2])
def test_causal_pads_are_those_of_floats(dilation, pad_value):
    x = layer_cases.normal(4, 9, 96)
    options = {"padding": "CAUSAL", "pad_value": pad_value, "rngs": nnx.Rngs(0)}
    layer = BinaryConv(96, 8, 3, kernel_dilation=dilation, **options)
    assert counts_bits(layer, x)
    before = 2 * dilation
    padded = np.pad(
        np.sign(x), [(0, 0), (before, 0), (0, 0)], constant_values=pad_value
    )
    kernel = np.asarray(layer.kernel[...])
    expected = sum(padded[:, t * dilation :][:, :9] @ kernel[t] for t in range(3))
    np.testing.assert_array_equal(
        nnx.jit(lambda layer, x: layer(x))(layer, x), expected
    )

    packed = inference.fold(layer)
    assert packed.kernel.dtype == jnp.uint32
    np.testing.assert_array_equal(
        nnx.jit(lambda layer, x: layer(x))(packed, x), expected
    )


def test_few_examples_are_multiplied_as_floats():
    assert not counts_bits(linear(), layer_cases.normal(31, 256))
    assert counts_bits(linear(), layer_cases.normal(32, 256))


def test_nan_in_inputs_and_kernels_stays():
    x = layer_cases.normal(2, 6, 6, 8)
    x[1, 2, 3, 4] = np.nan
    layer = conv()
    layer.kernel[...] = layer.kernel[...].at[0, 0, 0, 5].set(jnp.nan)
    y = np.asarray(nnx.jit(lambda layer, x: layer(x))(layer, x))
    assert np.isnan(y[1, 2, 3]).all()
    assert np.isnan(y[0, 3, 3, 5])
    assert not np.isnan(y[0][..., :5]).any()


OPERANDS = {
    "cuda": "(tensor<2x6x6x8xf16>, tensor<3x3x8x8xf16>) -> tensor<2x6x6x8xf16>",
    "tpu": "(tensor<2x6x6x8xbf16>, tensor<3x3x8x8xbf16>) -> tensor<2x6x6x8xf32>",
}


@pytest.mark.parametrize("platform", OPERANDS)
@pytest.mark.parametrize("folded", [False, True], ids=["in training", "folded"])
def test_other_devices_multiply_in_narrow_dtypes(folded, platform):
    layer, x = conv(dtype=jnp.bfloat16, preferred_element_type=jnp.float32), X
    if folded:
        layer = inference.fold(layer)
    program = jax.jit(lambda x: layer(x)).trace(x).lower(lowering_platforms=(platform,))
    assert "popcnt" not in program.as_text()
    lines = program.as_text().splitlines()
    (line,) = (line for line in lines if ".convolution(" in line)
    assert line.endswith(OPERANDS[platform])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_gpu_convolves_folded_layers_in_float16(dtype):
    layer = inference.fold(conv(), dtype)
    program = jax.jit(lambda x: layer(x)).trace(X).lower(lowering_platforms=("cuda",))
    assert OPERANDS["cuda"] in program.as_text()


@pytest.mark.parametrize("make", [BinaryConv, BinaryConvTranspose])
def test_a_gpu_convolves_no_integers(make):
    mask = np.tril(np.ones((3, 3, 8, 8)))
    folded = inference.fold(make(8, 8, (3, 3), mask=mask, rngs=nnx.Rngs(0)), "int8")
    program = jax.jit(lambda x: folded(x)).trace(X).lower(lowering_platforms=("cuda",))
    (line,) = (n for n in program.as_text().splitlines() if ".convolution(" in n)
    assert "xi8>" not in line and "xf32>" in line


# Window, features, and in how many parts float16 holds their sums.
PARTS = [
    ((3, 3), 227, 1),  # 2,043
    ((3, 3), 229, 2),  # 2,061, odd
    ((3, 3), 228, 1),
    ((3, 3), 455, 3),  # of 152 features, and of 151, which are odd
    ((3, 3), 456, 2),  # 4,104
    ((3, 3), 512, 2),
    ((1, 1), 4096, 1),
    ((), 8192, 2),
    ((50, 50), 64, 0),
]


@pytest.mark.parametrize(("window", "features", "parts"), PARTS)
def test_float16_holds_the_sums_of_each_part(window, features, parts):
    assert products._parts((*window, features, 8)) == parts


@pytest.mark.parametrize("features", [455, 512, 600])
def test_gpu_products_do_not_round(features):
    layer = BinaryConv(features, 4, (3, 3), rngs=nnx.Rngs(0))
    # The largest sums there are: of pixels that agree with a kernel everywhere.
    x = np.ones((2, 3, 3, features), np.float32)
    x[1, 1] = -1
    layer.kernel[...] = jnp.ones_like(layer.kernel[...])
    product = functools.partial(
        lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    y = products.multiply_on_gpu(product, jnp.float32, x, layer.kernel[...])
    np.testing.assert_array_equal(y, layer(x))
    assert y.max() == 9 * features


def of_training(platform):
    """Returns the program of a gradient through a layer, before XLA optimizes it."""
    layer = conv(dtype=jnp.bfloat16, preferred_element_type=jnp.float32)
    gradient = jax.jit(jax.grad(lambda x: jnp.square(layer(x)).sum()))
    return gradient.trace(X).lower(lowering_platforms=(platform,)).as_text()


def test_training_on_a_tpu_keeps_sums_as_int16():
    assert "tensor<2x6x6x8xi16>" in of_training("tpu")
    assert "i16>" not in of_training("cpu")
    assert "i16>" not in of_training("cuda")


def test_int16_holds_all_sums():
    sums = jnp.arange(-products._LARGEST, products._LARGEST + 1, dtype=jnp.float32)
    chex.assert_trees_all_equal(products.narrow(sums), sums, strict=True)


def test_on_a_tpu_gradients_tell_of_nan(monkeypatch):
    def on_tpu(*operands, default, tpu=None, **others):
        return (tpu or default)(*operands)

    monkeypatch.setattr(products.lax, "platform_dependent", on_tpu)
    layer = conv()
    images = jnp.asarray(X).at[0, 0, 0, 0].set(jnp.nan)
    value_and_grad = nnx.value_and_grad(lambda layer: layer(images).sum())
    value, gradients = value_and_grad(layer)
    assert jnp.isfinite(value)  # int16 has no NaN
    for gradient in jax.tree.leaves(gradients):
        assert jnp.isnan(gradient).any()  # so that the step is skipped
    assert jnp.isnan(layer(images)).any()  # a prediction is as elsewhere
