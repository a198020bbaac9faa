"""The layers take what Flax's take, with the same meaning; masks and transposition."""

import functools
import inspect
import typing

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

import layer_cases
import sgdat_jax as sj
from sgdat_jax import inference, layers, testing
from sgdat_jax.layers import BinaryConv, BinaryConvTranspose, BinaryLinear

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SIGNS = {"kernel_init": layer_cases.sign_init, "rngs": nnx.Rngs(0)}
PLAIN = {"input_quantizer": None, "kernel_quantizer": None}
SIBLINGS = {
    BinaryLinear: nnx.Linear,
    BinaryConv: nnx.Conv,
    BinaryConvTranspose: nnx.ConvTranspose,
}


def parameters(function):
    return {
        name: p
        for name, p in inspect.signature(function).parameters.items()
        if name not in ("self", "options")
    }


@pytest.mark.parametrize("binary", SIBLINGS)
def test_every_argument_of_the_sibling_is_taken(binary):
    own = parameters(binary.__init__)
    theirs = parameters(SIBLINGS[binary].__init__)
    assert set(theirs) <= set(own) | set(layers.Options.__annotations__)
    positional = [n for n, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert list(own)[: len(positional)] == positional
    for name in set(own) & set(theirs) - {"padding"}:
        defaults = own[name].default, theirs[name].default
        assert defaults[0] == defaults[1] or defaults[0] is defaults[1], name
    calls = parameters(binary.__call__), parameters(SIBLINGS[binary].__call__)
    assert set(calls[1]) <= set(calls[0])


def test_options_are_those_of_the_base_class():
    of_base = parameters(sj.BinaryLayer.__init__)
    keywords = [n for n, p in of_base.items() if p.kind is p.KEYWORD_ONLY]
    own = {"transpose_kernel", "mask"}
    assert set(keywords) - own == set(typing.get_type_hints(layers.Options))
    with pytest.raises(TypeError, match="unexpected keyword argument 'use_bais'"):
        BinaryLinear(3, 2, use_bais=True, rngs=nnx.Rngs(0))


def assert_equal_layers(make, sizes, options, x):
    """Equal values and gradients, bit for bit, without quantizers."""
    options = {"use_bias": False, "kernel_init": layer_cases.normal_init, **options}
    binary = make(*sizes, rngs=nnx.Rngs(0), **PLAIN, **options)
    plain = SIBLINGS[make](*sizes, rngs=nnx.Rngs(0), **options)
    y, (grads, x_grad) = layer_cases.value_and_grads(binary, x)
    plain_y, (plain_grads, plain_x_grad) = layer_cases.value_and_grads(plain, x)
    chex.assert_trees_all_equal(y, plain_y, strict=True)
    if "preferred_element_type" in options:  # whose gradients are rounded on purpose
        return
    chex.assert_trees_all_equal(x_grad, plain_x_grad, strict=True)
    assert np.any(np.asarray(plain_grads["kernel"], np.float32) != 0)
    chex.assert_trees_all_equal(
        nnx.to_pure_dict(grads), nnx.to_pure_dict(plain_grads), strict=True
    )


def assert_equal_signs(make, sizes, options, x):
    """Equal values and gradients of a layer of signs and its sibling of +-1."""
    options = {"use_bias": False, "kernel_init": layer_cases.sign_init, **options}
    # Without windows, as the sibling has none.
    sign = functools.partial(sj.ste_sign, clip_value=None)
    binary = make(*sizes, rngs=nnx.Rngs(0), input_quantizer=sign, **options)
    plain = SIBLINGS[make](*sizes, rngs=nnx.Rngs(0), **options)
    y, (grads, x_grad) = layer_cases.value_and_grads(binary, x)
    plain_y, (plain_grads, plain_x_grad) = layer_cases.value_and_grads(
        plain, np.where(x >= 0, 1, -1).astype(x.dtype)
    )
    chex.assert_trees_all_equal(y, plain_y, strict=True)
    if "preferred_element_type" in options:  # whose gradients are rounded on purpose
        return
    chex.assert_trees_all_equal(x_grad, plain_x_grad, strict=True)
    chex.assert_trees_all_equal(grads["kernel"][...], plain_grads["kernel"][...])


def swapped(x, kernel, *args, **options):
    """A product of one's own that tells itself from JAX's."""
    return -lax.dot_general(x, kernel, *args, **options)


def negated(x, kernel, *args, **options):
    return -lax.conv_general_dilated(x, kernel, *args, **options)


def halved(operands, *, dtype):
    """A promotion of one's own."""
    return tuple(x if x is None else x.astype(jnp.float16) for x in operands)


MASK = np.tril(np.ones((3, 3))).reshape(3, 3, 1, 1) * np.ones((3, 3, 3, 4))
OF_LINEAR = {
    "dot_general": {"dot_general": swapped},
    "promote_dtype": {"promote_dtype": halved},
    "preferred": {"dtype": jnp.bfloat16, "preferred_element_type": jnp.float32},
    "precision": {"precision": "highest", "use_bias": True},
    "metadata": {
        "use_bias": True,
        "kernel_metadata": {"note": "k"},
        "bias_metadata": {"note": "b"},
    },
}
OF_CONV = {
    "strides none": {"strides": None, "kernel_dilation": None, "input_dilation": None},
    "dilated inputs": {"input_dilation": (2, 1), "padding": [(2, 1), 1]},
    "dilated, strided": {"input_dilation": 3, "padding": 2, "strides": 2},
    "mask": {"mask": MASK, "use_bias": True},
    "mask of integers": {"mask": MASK.astype(int)},
    "conv": {"conv_general_dilated": negated},
    "promote_dtype": {"promote_dtype": halved},
}
OF_TRANSPOSED = {
    "default": {},
    "strides": {"strides": 2, "use_bias": True},
    "uneven": {"strides": (2, 3), "padding": "VALID"},
    "kernel dilation": {"strides": 2, "kernel_dilation": (2, 1)},
    "pads": {"strides": 2, "padding": [(1, 2), 0]},
    "pad": {"padding": 2},
    "circular": {"padding": "CIRCULAR", "strides": (2, 1)},
    "circular transposed": {
        "padding": "CIRCULAR",
        "strides": 2,
        "kernel_size": (4, 3),
        "transpose_kernel": True,
    },
    "transposed": {"transpose_kernel": True, "strides": 2},
    "mask": {"mask": MASK, "strides": 2},
    "bfloat16": {"dtype": jnp.bfloat16, "use_bias": True},
    "preferred": {"dtype": jnp.bfloat16, "preferred_element_type": jnp.float32},
}


# Compared between signs and a sibling of +-1; the others without quantizers.
OF_SIGNS = (
    "dot_general",
    "mask of integers",
    "dilated, strided",
    "strides",
    "circular",
)


@pytest.mark.parametrize("case", OF_LINEAR)
def test_linear_equals_its_sibling(case):
    compare = assert_equal_signs if case in OF_SIGNS else assert_equal_layers
    compare(BinaryLinear, (5, 6), OF_LINEAR[case], layer_cases.normal(7, 5))


@pytest.mark.parametrize("case", OF_CONV)
def test_conv_equals_its_sibling(case):
    compare = assert_equal_signs if case in OF_SIGNS else assert_equal_layers
    x = layer_cases.normal(2, 6, 5, 3)
    compare(BinaryConv, (3, 4, (3, 3)), OF_CONV[case], x)


@pytest.mark.parametrize("case", OF_TRANSPOSED)
def test_transposed_conv_equals_its_sibling(case):
    compare = assert_equal_signs if case in OF_SIGNS else assert_equal_layers
    options = {"kernel_size": (3, 3)} | OF_TRANSPOSED[case]
    sizes = 3, 4, options.pop("kernel_size")
    compare(BinaryConvTranspose, sizes, options, layer_cases.normal(2, 5, 4, 3))


@pytest.mark.parametrize("shape", [(7, 3), (2, 3, 7, 3)])
def test_transposed_conv_of_other_batches_and_one_axis(shape):
    x = layer_cases.normal(*shape)
    assert_equal_layers(BinaryConvTranspose, (3, 4, 3), {"strides": 2}, x)


def test_depthwise_and_separable_convolutions_equal_their_siblings():
    x = layer_cases.normal(2, 6, 5, 8)
    options = {"feature_group_count": 8}
    assert_equal_signs(BinaryConv, (8, 16, (3, 3)), options, x)
    # The sums of the depthwise one go into the pointwise one as they are.
    plain = SIGNS | {"use_bias": False}
    depthwise = BinaryConv(8, 16, (3, 3), **SIGNS, **options)
    pointwise = BinaryConv(16, 4, (1, 1), input_quantizer=None, **SIGNS)
    siblings = (
        nnx.Conv(8, 16, (3, 3), **plain, **options),
        nnx.Conv(16, 4, (1, 1), **plain),
    )
    y = nnx.Sequential(depthwise, pointwise)(x)
    expected = nnx.Sequential(*siblings)(np.where(x >= 0, 1.0, -1.0))
    np.testing.assert_array_equal(y, expected)


@pytest.mark.usefixtures("eight_devices")
def test_metadata_goes_to_the_parameters():
    options = {"use_bias": True, "bias_metadata": {"note": "of the bias"}}
    mesh = jax.make_mesh((8,), ("out",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        layer = BinaryLinear(
            4,
            16,
            kernel_metadata={"out_sharding": (None, "out")},
            rngs=nnx.Rngs(0),
            **options,
        )
    assert type(layer.kernel) is sj.BinaryParam
    assert layer.kernel[...].sharding.spec == jax.P(None, "out")
    assert nnx.clone(layer).kernel.get_metadata("out_sharding") == (None, "out")
    assert layer.bias.get_metadata("note") == "of the bias"


MESH_AXES = (jax.sharding.AxisType.Explicit,) * 2


@pytest.mark.usefixtures("eight_devices")
@pytest.mark.parametrize("make", [BinaryLinear, BinaryConv])
def test_out_sharding_is_that_of_the_outputs(make):
    size = () if make is BinaryLinear else ((3, 3),)
    space = (None,) * 2 * len(size)
    # Bits would be counted were it not for the sharding asked for.
    features = 256 if make is BinaryLinear else 32
    x = layer_cases.normal(32, *(4,) * len(space), features)
    layer = make(features, 8, *size, **SIGNS)
    expected = jax.jit(layer)(x)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=MESH_AXES)
    out = jax.P("data", *space, "model")
    with jax.set_mesh(mesh):
        x = jax.device_put(x, jax.P("data"))
        kernel = jax.P(*(None,) * (len(size) * 2 + 1), "model")
        layer.kernel.set_value(jax.device_put(layer.kernel[...], kernel))
        y = jax.jit(lambda x: layer(x, out_sharding=out))(x)
        assert jax.typeof(y).sharding.spec == out
        folded = inference.fold(make(features, 8, *size, **SIGNS))
        of_folded = jax.jit(lambda x: folded(x, out_sharding=out))(x)
        assert jax.typeof(of_folded).sharding.spec == out
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(of_folded, expected)
    with pytest.raises(ValueError, match="`out_sharding` must be None"):
        BinaryConvTranspose(3, 4, 3, rngs=nnx.Rngs(0))(jnp.ones((5, 3)), out)


def test_masked_weights_are_no_weights():
    layer = BinaryConv(3, 4, (3, 3), mask=MASK, **SIGNS)
    x = layer_cases.normal(2, 6, 5, 3)
    y, (grads, _) = layer_cases.value_and_grads(layer, x)
    layer.kernel[...] = jnp.where(MASK > 0, layer.kernel[...], -layer.kernel[...])
    np.testing.assert_array_equal(layer(x), y)
    gradient = np.asarray(grads.kernel[...])
    assert (gradient[MASK == 0] == 0).all()
    assert np.any(gradient[MASK == 1] != 0, axis=-1).all()
    assert set(np.unique(layer.signed_kernel())) == {-1.0, 0.0, 1.0}


def test_optimizers_leave_masked_weights_alone():
    layer = BinaryConv(3, 4, (3, 3), mask=MASK, **SIGNS)
    before = np.asarray(layer.kernel[...])
    tx = sj.partition_binary(layer, binary=sj.sgdat(0.1, 0.0), real=optax.sgd(1.0))
    optimizer = nnx.Optimizer(layer, tx, wrt=nnx.Param)
    _, (grads, _) = layer_cases.value_and_grads(layer, layer_cases.normal(2, 6, 5, 3))
    optimizer.update(layer, grads)
    flipped = np.asarray(layer.kernel[...]) != before
    assert flipped[MASK == 1].any() and not flipped[MASK == 0].any()


@pytest.mark.parametrize("dtype", ["bits", "int8", "bfloat16", "float32"])
@pytest.mark.parametrize("make", [BinaryConv, BinaryConvTranspose])
def test_masked_layers_fold_with_their_zeros(make, dtype):
    layer = make(3, 4, (3, 3), mask=MASK, **SIGNS)
    with jax.numpy_dtype_promotion("strict"):
        folded = inference.fold(layer, dtype)
    assert isinstance(folded, inference.FoldedLayer) and not folded.is_packed
    # Zeros are no bits, so that the kernel is never packed.
    expected = "float32" if dtype == "bits" else dtype
    assert folded.kernel.dtype == jnp.dtype(expected)
    x = layer_cases.normal(2, 6, 5, 3)
    np.testing.assert_array_equal(folded(x), layer(x))


def test_a_mask_of_other_numbers_is_not_folded():
    layer = BinaryConv(3, 4, (3, 3), mask=MASK / 2, **SIGNS)
    assert isinstance(inference.fold(layer), BinaryConv)


def test_alpha_is_the_mean_of_what_the_mask_leaves():
    mask = np.array([[[1, 1, 0], [0, 1, 0]]]).swapaxes(1, 2)
    kernel = np.array([[[1.0, -3.0, 5.0], [7.0, 2.0, 9.0]]]).swapaxes(1, 2)
    conv = BinaryConv(
        3,
        2,
        1,
        mask=mask,
        output_scale="xnor",
        input_quantizer=None,
        kernel_init=lambda *_: jnp.asarray(kernel),
        rngs=nnx.Rngs(0),
    )
    # Means of 1, 3 and of 2; sums of 1 - 2 and of 2.
    np.testing.assert_array_equal(conv(jnp.array([[1.0, 2.0, 4.0]])), [[-2.0, 4.0]])


def test_alpha_of_a_transposed_kernel_is_one_per_output():
    layer = BinaryConvTranspose(
        3,
        4,
        (2, 2),
        transpose_kernel=True,
        output_scale="xnor",
        kernel_init=layer_cases.normal_init,
        rngs=nnx.Rngs(0),
    )
    assert layer.kernel.shape == (2, 2, 4, 3)
    expected = np.abs(layer.kernel[...]).mean((0, 1, 3))
    np.testing.assert_allclose(layer._mean_magnitude(), expected, rtol=1e-6)
    assert layer(jnp.ones((1, 3, 3, 3))).shape == (1, 3, 3, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: BinaryConv(3, 4, 3, mask=np.ones((3, 4)), rngs=nnx.Rngs(0)),
            r"`mask` must have the kernel's shape \(3, 3, 4\), got \(3, 4\)",
        ),
        (
            lambda: BinaryConv(3, 4, 3, input_dilation=2, rngs=nnx.Rngs(0)),
            "`padding` must be in numbers where `input_dilation` .* got 'SAME'",
        ),
        (
            lambda: BinaryConv(
                3, 4, 3, input_dilation=2, padding=1, pad_value=1, rngs=nnx.Rngs(0)
            ),
            "`pad_value` must be 0 where `input_dilation` .* got 1",
        ),
        (
            lambda: BinaryConv(3, 4, 3, input_dilation=0, rngs=nnx.Rngs(0)),
            "`input_dilation` must be at least 1, got 0",
        ),
        (
            lambda: BinaryConvTranspose(3, 4, 3, padding="CAUSAL", rngs=nnx.Rngs(0)),
            "`padding` must be 'SAME', 'VALID' or 'CIRCULAR', got 'CAUSAL'",
        ),
        (
            lambda: BinaryLinear(3, 4, dtype=jnp.int8, rngs=nnx.Rngs(0))(jnp.ones(3)),
            "`dtype` must be floating-point, got .*int8",
        ),
    ],
)
def test_errors_name_the_argument_and_show_its_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


PACKED = {
    "counted": BinaryConv(64, 8, (3, 3), **SIGNS),
    "groups": BinaryConv(64, 32, (3, 3), feature_group_count=2, **SIGNS),
    "depthwise": BinaryConv(64, 64, (3, 3), feature_group_count=64, **SIGNS),
    "dilated inputs": BinaryConv(64, 8, (3, 3), input_dilation=2, padding=1, **SIGNS),
    "own convolution": BinaryConv(64, 8, 3, conv_general_dilated=negated, **SIGNS),
    "transposed": BinaryConvTranspose(64, 8, 3, strides=2, **SIGNS),
    "kernel transposed": BinaryConvTranspose(64, 8, 3, transpose_kernel=True, **SIGNS),
}


@pytest.mark.parametrize("case", PACKED)
def test_every_layer_of_signs_is_packed(case):
    layer = PACKED[case]
    folded = inference.fold(layer)
    assert folded.is_packed
    assert folded.kernel.dtype == jnp.uint32
    assert folded.kernel.size == layer.kernel.size // 32
    x = layer_cases.normal(2, *(5,) * len(layer.kernel_size), 64)
    expected = nnx.jit(lambda layer, x: layer(x))(layer, x)
    np.testing.assert_array_equal(inference.to_function(folded)(x), expected)


def test_transposed_layers_answer_as_layers_must():
    layer = BinaryConvTranspose(8, 6, 2, strides=2, transpose_kernel=True, **SIGNS)
    testing.check_binary_layer(layer, (5, 8))
