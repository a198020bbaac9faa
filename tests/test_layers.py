"""BinaryLinear and BinaryConv: equality with nnx, exact +-1 products, gradients."""

import copy
import functools
import importlib
import itertools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from sgdat_jax import layers, signs
from sgdat_jax.layers import BinaryConv, BinaryLinear, BinaryParam

PLAIN = {"input_quantizer": None, "kernel_quantizer": None}
# alpha is a mean, which XLA and NumPy sum in different orders.
XNOR_RTOL = 1e-6


def normal(*shape):
    # NumPy's, for JAX's would be compiled for each shape.
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def normal_init(key, shape, dtype):
    return jnp.asarray(normal(*shape), dtype)


def sign_init(key, shape, dtype):
    return jnp.asarray(np.sign(normal(*shape)), dtype)


# name: (sizes, options, shape of the inputs)
CONVS = {
    "1d": ((3, 4, 3), {}, (2, 7, 3)),
    "1d causal": ((3, 4, 3), {"padding": "CAUSAL", "kernel_dilation": 2}, (2, 9, 3)),
    "strides": ((3, 4, (3, 3)), {"strides": 2, "use_bias": True}, (2, 6, 7, 3)),
    "uneven strides": ((3, 4, (3, 2)), {"strides": (2, 1)}, (2, 6, 5, 3)),
    "dilation": ((3, 4, (3, 3)), {"kernel_dilation": (2, 1)}, (2, 7, 6, 3)),
    "groups": ((6, 4, (3, 3)), {"feature_group_count": 2}, (2, 5, 5, 6)),
    "valid": ((3, 4, (3, 3)), {"padding": "VALID"}, (2, 5, 6, 3)),
    "same lower": ((3, 4, (2, 2)), {"padding": "SAME_LOWER"}, (2, 5, 6, 3)),
    "circular": (
        (3, 4, (4, 3)),
        {"padding": "CIRCULAR", "kernel_dilation": (1, 2)},
        (2, 6, 7, 3),
    ),
    "reflect": ((3, 4, (3, 4)), {"padding": "REFLECT", "strides": 2}, (2, 6, 5, 3)),
    "integer pad": ((3, 4, (3, 3)), {"padding": 2}, (2, 4, 4, 3)),
    "pad per axis": ((3, 4, (3, 3)), {"padding": [1, (0, 2)]}, (2, 4, 4, 3)),
    "bfloat16": (
        (3, 4, (3, 3)),
        {"dtype": jnp.bfloat16, "use_bias": True},
        (2, 5, 5, 3),
    ),
    "bfloat16 params": ((3, 4, (3, 3)), {"param_dtype": jnp.bfloat16}, (2, 5, 5, 3)),
    "no batch": ((3, 4, (3, 3)), {"use_bias": True}, (5, 5, 3)),
    "two batch axes": ((3, 4, (3, 3)), {}, (2, 3, 4, 4, 3)),
    "3d": ((3, 4, (2, 3, 2)), {"strides": (1, 2, 1)}, (1, 4, 5, 4, 3)),
}
# Those whose default initial kernel is tested, too; each new shape compiles for 1 s.
INITS = ("1d", "strides", "groups", "bfloat16 params")
# Where the pads are zeros by nature, so that they may hold another value.
PADDED = (
    "1d",
    "1d causal",
    "strides",
    "uneven strides",
    "dilation",
    "groups",
    "same lower",
    "pad per axis",
    "3d",
)


def assert_same(left, right):
    assert left.dtype == right.dtype
    np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


@nnx.jit
def value_and_grads(layer, x):
    def loss(layer, x):
        y = layer(x)
        # Not linear in y: every output has a gradient of its own.
        return jnp.sum(jnp.sin(y.astype(jnp.float32))), y

    (_, y), grads = nnx.value_and_grad(loss, argnums=(0, 1), has_aux=True)(layer, x)
    return y, grads


def assert_equal_layers(binary, plain, x):
    """Equal initial values, outputs and gradients, bit for bit."""
    for name, value in nnx.to_pure_dict(nnx.state(plain)).items():
        assert_same(nnx.to_pure_dict(nnx.state(binary))[name], value)
    y, (grads, x_grad) = value_and_grads(binary, x)
    plain_y, (plain_grads, plain_x_grad) = value_and_grads(plain, x)
    assert_same(y, plain_y)
    assert_same(x_grad, plain_x_grad)
    for name, grad in nnx.to_pure_dict(plain_grads).items():
        assert np.any(np.asarray(grad, np.float32) != 0)
        assert_same(nnx.to_pure_dict(grads)[name], grad)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_bias": True, "bias_init": normal_init},
        {"dtype": jnp.bfloat16, "use_bias": True},
        {"param_dtype": jnp.bfloat16},
        {"kernel_init": normal_init, "precision": "highest"},
    ],
    ids=lambda options: " ".join(options) or "default",
)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 5)])
def test_linear_without_quantizers_equals_nnx(options, shape):
    options = {"use_bias": False, **options}
    x = normal(*shape)
    binary = BinaryLinear(5, 6, rngs=nnx.Rngs(0), **PLAIN, **options)
    plain = nnx.Linear(5, 6, rngs=nnx.Rngs(0), **options)
    assert_equal_layers(binary, plain, x)


@pytest.mark.parametrize("case", CONVS)
def test_conv_without_quantizers_equals_nnx(case):
    sizes, options, shape = CONVS[case]
    options = {"use_bias": False, **options}
    if case not in INITS:
        options["kernel_init"] = normal_init
    x = normal(*shape)
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
@pytest.mark.parametrize("case", PADDED)
def test_conv_of_signs_is_the_exact_sum_of_integers(case, pad_value):
    sizes, options, shape = CONVS[case]
    options = {**options, "use_bias": False, "pad_value": pad_value}
    conv = BinaryConv(*sizes, kernel_init=sign_init, rngs=nnx.Rngs(0), **options)
    x = normal(*shape)
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
        3, 4, (3, 3), padding=padding, kernel_init=sign_init, rngs=nnx.Rngs(0)
    )
    x = normal(2, 6, 5, 3)
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
    options = {"dtype": jnp.bfloat16, "kernel_init": sign_init, "rngs": nnx.Rngs(0)}
    layer = BinaryLinear(255, 32, **options)
    conv = BinaryConv(28, 16, (3, 3), pad_value=-1, **options)
    x, image = normal(8, 255), normal(2, 5, 5, 28)
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
    biased = abs(normal(4, 6, 6, 96)) - 0.2
    options = {"rngs": nnx.Rngs(0), "kernel_init": nnx.initializers.ones_init()}
    if kind == "conv":
        layer = BinaryConv(96, 8, (3, 3), strides=2, pad_value=1, **options)
        x = jnp.asarray(biased, inputs_dtype)
    else:
        layer = BinaryLinear(96 * 36, 8, **options)
        x = jnp.asarray(biased.reshape(4, -1), inputs_dtype)
    y, (grads, x_grad) = value_and_grads(layer, x)
    layer.dtype, layer.preferred_element_type = jnp.bfloat16, jnp.float32
    wide_y, (wide_grads, wide_x_grad) = value_and_grads(layer, x)

    assert np.abs(y).max() > 256
    assert np.any(y != y.astype(jnp.bfloat16).astype(jnp.float32))
    assert_same(wide_y, y.astype(jnp.float32))
    pairs = ((x_grad, wide_x_grad), (grads.kernel[...], wide_grads.kernel[...]))
    for exact, rounded in pairs:
        assert rounded.dtype == exact.dtype
        exact, rounded = np.asarray(exact, np.float32), np.asarray(rounded, np.float32)
        # The incoming gradient and the outgoing one are rounded, each by 2**-9.
        assert np.abs(rounded - exact).max() <= 2**-8 * np.abs(exact).max()
        assert np.abs(exact).max() > 0


@pytest.mark.parametrize("pad_value", [0, 1, -1])
def test_int8_signs_are_summed_in_int32(pad_value):
    x = abs(normal(2, 3, 3, 288)) - 0.2  # mostly +1, so that sums exceed int8's
    conv = BinaryConv(288, 8, (3, 3), pad_value=pad_value, rngs=nnx.Rngs(0))
    dense = BinaryLinear(288, 8, rngs=nnx.Rngs(0))
    for layer in (conv, dense):
        layer.kernel[...] = abs(normal(*layer.kernel.shape)) - 0.2
        expected = layer(x)
        assert np.abs(expected).max() > 128
        layer.kernel = BinaryParam(signs.sign(layer.kernel[...]).astype(jnp.int8))
        layer.kernel_quantizer = None
        layer.input_quantizer = lambda x: signs.sign(x).astype(jnp.int8)
        assert_same(layer(x), expected)


def test_quantizers_see_the_precision_of_parameters_and_inputs():
    # 1.001 is outside the clip window and would be 1.0, inside, in bfloat16.
    layer = BinaryLinear(
        1,
        1,
        kernel_quantizer=signs.ste_sign,
        dtype=jnp.bfloat16,
        kernel_init=nnx.initializers.constant(1.001),
        rngs=nnx.Rngs(0),
    )
    _, (grads, x_grad) = value_and_grads(layer, jnp.array([[1.001]]))
    assert x_grad.dtype == jnp.float32
    assert x_grad == 0
    assert grads.kernel[...] == 0


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(BinaryLinear, 4, 3),
        functools.partial(BinaryConv, 4, 3, 1),
    ],
    ids=["linear", "conv"],
)
def test_default_gradients_clip_inputs_and_pass_kernels(make):
    # Kernels outside [-1, 1] have a gradient too, inputs outside have none.
    layer = make(kernel_init=normal_init, rngs=nnx.Rngs(0))
    x = jnp.array([[0.5, -1.0, 1.5, -0.0], [-7.0, 1.0, 0.2, -0.9]])
    _, (grads, x_grad) = value_and_grads(layer, x)

    kernel = np.asarray(layer.kernel[...]).reshape(4, 3)
    assert np.any(np.abs(kernel) > 1)
    binary_kernel = np.where(kernel >= 0, 1.0, -1.0)
    binary_x = np.where(np.asarray(x) >= 0, 1.0, -1.0)
    y_grad = np.cos(binary_x @ binary_kernel)
    window = np.abs(np.asarray(x)) <= 1
    np.testing.assert_allclose(
        grads.kernel[...].reshape(4, 3), binary_x.T @ y_grad, rtol=1e-5
    )
    np.testing.assert_allclose(x_grad, window * (y_grad @ binary_kernel.T), rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_xnor_scales_each_channel_by_its_mean_magnitude(groups, dtype):
    options = {
        "dtype": dtype,
        "feature_group_count": groups,
        "kernel_init": normal_init,
        "use_bias": True,
        "bias_init": normal_init,
    }
    x = normal(2, 5, 5, 4)
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


def test_xnor_gradient_flows_through_alpha():
    # y = alpha s with alpha = mean |W| over n inputs and s = sign(x) @ sign(W);
    # dy/dW = alpha sign(x) + s sign(W) / n.
    layer = BinaryLinear(
        5, 3, output_scale="xnor", kernel_init=normal_init, rngs=nnx.Rngs(0)
    )
    x = normal(1, 5)
    grads = nnx.jit(nnx.grad(lambda layer, x: layer(x).sum()))(layer, x)
    kernel = np.asarray(layer.kernel[...])
    sum_of_signs = np.sign(x) @ np.sign(kernel)  # (1, out)
    alpha = np.abs(kernel).mean(axis=0)
    expected = alpha * np.sign(x).T + np.sign(kernel) / 5 * sum_of_signs
    np.testing.assert_allclose(grads.kernel[...], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
def test_initial_kernel_is_the_sign_of_lecun_normal(param_dtype):
    binary = BinaryConv(3, 4, (3, 3), param_dtype=param_dtype, rngs=nnx.Rngs(0))
    plain = nnx.Conv(3, 4, (3, 3), param_dtype=param_dtype, rngs=nnx.Rngs(0))
    assert_same(binary.kernel[...], signs.sign(plain.kernel[...]))
    assert set(np.unique(np.asarray(binary.kernel[...], np.float32))) == {-1.0, 1.0}


def test_kernel_alone_is_binary_param():
    layer = BinaryLinear(3, 4, use_bias=True, rngs=nnx.Rngs(0))
    assert type(layer.kernel) is BinaryParam
    assert type(layer.bias) is nnx.Param
    assert list(nnx.state(layer, BinaryParam)) == ["kernel"]
    assert BinaryLinear(3, 4, rngs=nnx.Rngs(0)).bias is None


LINEAR = functools.partial(BinaryLinear, rngs=nnx.Rngs(0))
CONV = functools.partial(BinaryConv, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LINEAR(0, 3), ValueError, "`in_features` must be at least 1, got 0"),
        (lambda: LINEAR(3, -1), ValueError, "`out_features` .* got -1"),
        (lambda: LINEAR(3, 2.0), TypeError, "`out_features` must be an integer, .*2.0"),
        (
            lambda: LINEAR(3, 4, input_quantizer="ste_sign"),
            TypeError,
            "`input_quantizer` must be a function or None, got 'ste_sign'",
        ),
        (
            lambda: CONV(3, 4, 3, kernel_quantizer=1.0),
            TypeError,
            "`kernel_quantizer` .* got 1.0",
        ),
        (
            lambda: LINEAR(3, 4, output_scale="xnr"),
            ValueError,
            "`output_scale` has no choice 'xnr'; the nearest is 'xnor'",
        ),
        (lambda: CONV(3, 4, (3, 0)), ValueError, "`kernel_size` .* at least 1, got 0"),
        (lambda: CONV(3, 4, 3.0), TypeError, "`kernel_size` .* integer, got 3.0"),
        (lambda: CONV(3, 4, 3, strides=0), ValueError, "`strides` .* got 0"),
        (
            lambda: CONV(3, 4, (3, 3), strides=(1, 2, 1)),
            ValueError,
            r"`strides` must have 2 entries, got \(1, 2, 1\)",
        ),
        (
            lambda: CONV(3, 4, 3, kernel_dilation=-2),
            ValueError,
            "`kernel_dilation` .* got -2",
        ),
        (
            lambda: CONV(4, 6, 3, feature_group_count=3),
            ValueError,
            "`feature_group_count` must divide in_features=4 and out_features=6, got 3",
        ),
        (lambda: CONV(6, 4, 3, feature_group_count=3), ValueError, "must divide"),
        (
            lambda: CONV(3, 4, 3, feature_group_count=0),
            ValueError,
            "`feature_group_count` must be at least 1, got 0",
        ),
        (
            lambda: CONV(3, 4, 3, pad_value=0.5),
            ValueError,
            "`pad_value` must be 0, 1 or -1, got 0.5",
        ),
        (
            lambda: CONV(3, 4, 3, pad_value=1, padding="REFLECT"),
            ValueError,
            "`pad_value` must be 0 .* got 1 with padding='REFLECT'",
        ),
        (
            lambda: CONV(3, 4, 3, padding="same"),
            ValueError,
            "`padding` has no choice 'same'; the nearest is 'SAME'",
        ),
        (
            lambda: CONV(3, 4, (3, 3), padding="CAUSAL"),
            ValueError,
            "`padding` 'CAUSAL' needs 1 spatial axis, got 2",
        ),
        (
            lambda: CONV(3, 4, (3, 3), padding=[1, 1, 1]),
            ValueError,
            r"`padding` .* each of 2 spatial axes, got \[1, 1, 1\]",
        ),
        (lambda: CONV(3, 4, 3, padding=1.5), ValueError, "`padding` .* got 1.5"),
        (
            lambda: LINEAR(3, 4)(jnp.ones((2, 5))),
            ValueError,
            r"`inputs` must have 3 features in the last axis, got .*\(2, 5\)",
        ),
        (
            lambda: LINEAR(3, 4)(jnp.ones(())),
            ValueError,
            "`inputs` must have 3 features",
        ),
        (lambda: CONV(3, 4, 3)(jnp.ones((8, 1))), ValueError, "`inputs` .* 3 features"),
        (
            lambda: CONV(3, 4, (3, 3))(jnp.ones((8, 3))),
            ValueError,
            r"`inputs` must have 2 spatial axes .*\(8, 3\)",
        ),
    ],
)
def test_errors_name_the_argument_and_show_its_value(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "quantizer",
    [signs.ste_sign, functools.partial(signs.ste_sign, clip_value=0.5)],
    ids=["function", "partial"],
)
def test_compiles_once_for_equal_models(quantizer):
    traces = []

    @nnx.jit
    def apply(model, x):
        traces.append(None)
        return model(x)

    x = jnp.ones((1, 4, 4, 3))
    for seed in (0, 0, 1):
        model = BinaryConv(
            3, 4, [3, 3], kernel_quantizer=quantizer, rngs=nnx.Rngs(seed)
        )
        for _ in range(2):
            apply(model, x)
    assert len(traces) == 1


def test_equal_and_copied_models_have_equal_graphs():
    first, second = (BinaryLinear(5, 6, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    graphdef = nnx.graphdef(first)
    for other in (second, copy.deepcopy(first), nnx.clone(first)):
        assert nnx.graphdef(other) == graphdef
        assert hash(nnx.graphdef(other)) == hash(graphdef)
    assert pickle.loads(pickle.dumps(graphdef)) == graphdef


@pytest.mark.slow
def test_split_merge_eval_shape_and_vmap():
    x = jnp.asarray(normal(6, 5, 5, 3))
    make = functools.partial(BinaryConv, 3, 4, (3, 3), pad_value=1)
    conv = make(rngs=nnx.Rngs(0))
    y = conv(x)

    graphdef, binary, rest = nnx.split(conv, BinaryParam, ...)
    assert_same(nnx.merge(graphdef, binary, rest)(x), y)
    assert_same(jax.vmap(conv)(x), y)

    abstract = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
    assert isinstance(abstract.kernel.get_value(), jax.ShapeDtypeStruct)
    nnx.update(abstract, nnx.state(conv))
    assert_same(abstract(x), y)

    ensemble = nnx.vmap(lambda key: make(rngs=nnx.Rngs(key)))(
        jax.random.split(jax.random.key(0), 2)
    )
    both = nnx.vmap(lambda conv, x: conv(x), in_axes=(0, None))(ensemble, x)
    assert ensemble.kernel.shape == (2, 3, 3, 3, 4)
    assert both.shape == (2, *y.shape)


@pytest.mark.parametrize("shape", [(0, 5, 5, 3), (0, 2, 5, 5, 3)])
def test_empty_batches(shape):
    conv = BinaryConv(3, 4, (3, 3), rngs=nnx.Rngs(0))
    assert conv(jnp.ones(shape)).shape == (*shape[:-1], 4)


def test_strict_promotion_of_dtypes_and_ranks():
    options = {"dtype": jnp.bfloat16, "use_bias": True, "output_scale": "xnor"}
    conv = BinaryConv(3, 4, (3, 3), pad_value=1, rngs=nnx.Rngs(0), **options)
    x = jnp.ones((2, 5, 5, 3))
    expected = conv(x)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        assert_same(nnx.jit(lambda conv, x: conv(x))(conv, x), expected)


def test_linen_layer_equals_nnx_layer():
    kwargs = {"padding": "VALID", "use_bias": True}
    layer = nnx.bridge.ToLinen(BinaryConv, args=(3, 4, (3, 3)), kwargs=kwargs)
    x = normal(2, 5, 5, 3)
    y, variables = layer.init_with_output(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == {
        "binary_params": {"kernel": (3, 3, 3, 4)},
        "params": {"bias": (4,)},
    }
    kernel = variables["binary_params"]["kernel"]
    assert set(np.unique(kernel)) == {-1.0, 1.0}

    conv = BinaryConv(3, 4, (3, 3), rngs=nnx.Rngs(7), **kwargs)
    conv.kernel[...], conv.bias[...] = kernel, variables["params"]["bias"]
    assert_same(y, conv(x))
    apply = jax.jit(layer.apply)
    assert_same(apply(variables, x), conv(x))

    grads = jax.jit(jax.grad(lambda v: jnp.sin(layer.apply(v, x)).sum()))(variables)
    _, (expected, _) = value_and_grads(conv, x)
    assert np.any(grads["binary_params"]["kernel"] != 0)
    np.testing.assert_allclose(
        grads["binary_params"]["kernel"], expected.kernel[...], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        grads["params"]["bias"], expected.bias[...], rtol=1e-5, atol=1e-6
    )


def test_inside_a_compact_linen_module():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = nnx.bridge.to_linen(BinaryConv, x.shape[-1], 4, 3, name="conv")(x)
            x = linen.BatchNorm(use_running_average=False)(x)
            return linen.Dense(2)(x)

    x = normal(2, 5, 3)
    variables = Net().init(jax.random.key(0), x)
    assert set(variables) == {"binary_params", "params", "batch_stats"}
    assert list(variables["binary_params"]) == ["conv"]
    assert set(variables["params"]) == {"BatchNorm_0", "Dense_0"}
    y, updates = Net().apply(variables, x, mutable=["batch_stats"])
    assert y.shape == (2, 5, 2)
    assert list(updates) == ["batch_stats"]


def test_collection_name_survives_a_reload():
    original = dict(vars(layers))
    try:
        fresh = importlib.reload(layers)
        assert fresh.BinaryParam is not BinaryParam
        layer = nnx.bridge.ToLinen(fresh.BinaryLinear, args=(3, 2))
        variables = layer.init(jax.random.key(0), jnp.ones((1, 3)))
        assert list(variables) == ["binary_params"]
    finally:
        vars(layers).update(original)
        nnx.register_variable_name("binary_params", BinaryParam, overwrite=True)
