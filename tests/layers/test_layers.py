"""The layers as modules of nnx and linen: what they hold, refuse, compile and copy."""

import copy
import functools
import importlib
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import layer_cases
from sgdat_jax import signs
from sgdat_jax.layers import (
    BinaryConv,
    BinaryConvTranspose,
    BinaryLinear,
    BinaryParam,
    params,
)

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
def test_initial_kernel_is_the_sign_of_lecun_normal(param_dtype):
    binary = BinaryConv(3, 4, (3, 3), param_dtype=param_dtype, rngs=nnx.Rngs(0))
    plain = nnx.Conv(3, 4, (3, 3), param_dtype=param_dtype, rngs=nnx.Rngs(0))
    chex.assert_trees_all_equal(
        binary.kernel[...], signs.sign(plain.kernel[...]), strict=True
    )
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
            "`output_scale` must be 'xnor' or None, got 'xnr'; the nearest is 'xnor'",
        ),
        (lambda: CONV(3, 4, (3, 0)), ValueError, "`kernel_size` .* at least 1, got 0"),
        (
            lambda: CONV(3, 4, ()),
            ValueError,
            r"`kernel_size` must have 1 entry or more, got \(\)",
        ),
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
            lambda: CONV(3, 4, 3, pad_value=-1, padding="CIRCULAR"),
            ValueError,
            "`pad_value` must be 0 .* got -1 with padding='CIRCULAR'",
        ),
        (
            lambda: CONV(3, 4, 3, padding="same"),
            ValueError,
            "`padding` must be 'SAME', .* got 'same'; the nearest is 'SAME'",
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
    chex.clear_trace_counter()  # counts by the name of a function

    @nnx.jit
    @chex.assert_max_traces(n=1)
    def apply(model, x):
        return model(x)

    x = jnp.ones((1, 4, 4, 3))
    for seed in (0, 0, 1):
        model = BinaryConv(
            3, 4, [3, 3], kernel_quantizer=quantizer, rngs=nnx.Rngs(seed)
        )
        for _ in range(2):
            apply(model, x)


def test_equal_and_copied_models_have_equal_graphs():
    first, second = (BinaryLinear(5, 6, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    graphdef = nnx.graphdef(first)
    for other in (second, copy.deepcopy(first), nnx.clone(first)):
        assert nnx.graphdef(other) == graphdef
        assert hash(nnx.graphdef(other)) == hash(graphdef)
    assert pickle.loads(pickle.dumps(graphdef)) == graphdef


@pytest.mark.slow
def test_split_merge_eval_shape_and_vmap():
    x = jnp.asarray(layer_cases.normal(6, 5, 5, 3))
    make = functools.partial(BinaryConv, 3, 4, (3, 3), pad_value=1)
    conv = make(rngs=nnx.Rngs(0))
    y = conv(x)

    graphdef, binary, rest = nnx.split(conv, BinaryParam, ...)
    chex.assert_trees_all_equal(nnx.merge(graphdef, binary, rest)(x), y, strict=True)
    chex.assert_trees_all_equal(jax.vmap(conv)(x), y, strict=True)

    abstract = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
    assert isinstance(abstract.kernel.get_value(), jax.ShapeDtypeStruct)
    nnx.update(abstract, nnx.state(conv))
    chex.assert_trees_all_equal(abstract(x), y, strict=True)

    ensemble = nnx.vmap(lambda key: make(rngs=nnx.Rngs(key)))(
        jax.random.split(jax.random.key(0), 2)
    )
    both = nnx.vmap(lambda conv, x: conv(x), in_axes=(0, None))(ensemble, x)
    assert ensemble.kernel.shape == (2, 3, 3, 3, 4)
    assert both.shape == (2, *y.shape)


@pytest.mark.parametrize(
    "options", [{}, {"dtype": jnp.bfloat16, "preferred_element_type": jnp.float32}]
)
@pytest.mark.parametrize("make", [LINEAR, functools.partial(CONV, kernel_size=3)])
def test_products_have_the_precision_that_is_asked_for(make, options):
    # A CPU computes the same either way; other devices do not.
    for precision in ("highest", None):
        layer = make(3, 4, input_quantizer=None, precision=precision, **options)
        program = str(jax.make_jaxpr(layer)(jnp.ones((2, 5, 3))))
        assert ("HIGHEST" in program) == (precision == "highest")


@pytest.mark.parametrize("shape", [(0, 5, 5, 3), (0, 2, 5, 5, 3)])
def test_empty_batches(shape):
    conv = BinaryConv(3, 4, (3, 3), rngs=nnx.Rngs(0))
    assert conv(jnp.ones(shape)).shape == (*shape[:-1], 4)


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(BinaryConv, pad_value=1),
        functools.partial(BinaryConv, mask=np.ones((3, 3, 3, 4), bool)),
        functools.partial(BinaryConvTranspose, strides=2, padding="CIRCULAR"),
    ],
    ids=["conv", "masked", "transposed"],
)
def test_strict_promotion_of_dtypes_and_ranks(make):
    options = {"dtype": jnp.bfloat16, "use_bias": True, "output_scale": "xnor"}
    options["kernel_init"] = layer_cases.normal_init
    conv = make(3, 4, (3, 3), rngs=nnx.Rngs(0), **options)
    x = jnp.ones((2, 5, 5, 3))
    expected = nnx.jit(lambda conv, x: conv(x))(conv, x)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        chex.assert_trees_all_equal(
            nnx.jit(lambda conv, x: conv(x))(conv, x), expected, strict=True
        )


def test_linen_layer_equals_nnx_layer():
    kwargs = {"padding": "VALID", "use_bias": True}
    layer = nnx.bridge.ToLinen(BinaryConv, args=(3, 4, (3, 3)), kwargs=kwargs)
    x = layer_cases.normal(2, 5, 5, 3)
    y, variables = layer.init_with_output(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == {
        "binary_params": {"kernel": (3, 3, 3, 4)},
        "params": {"bias": (4,)},
    }
    kernel = variables["binary_params"]["kernel"]
    assert set(np.unique(kernel)) == {-1.0, 1.0}

    conv = BinaryConv(3, 4, (3, 3), rngs=nnx.Rngs(7), **kwargs)
    conv.kernel[...], conv.bias[...] = kernel, variables["params"]["bias"]
    chex.assert_trees_all_equal(y, conv(x), strict=True)
    apply = jax.jit(layer.apply)
    chex.assert_trees_all_equal(apply(variables, x), conv(x), strict=True)

    grads = jax.jit(jax.grad(lambda v: jnp.sin(layer.apply(v, x)).sum()))(variables)
    _, (expected, _) = layer_cases.value_and_grads(conv, x)
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

    x = layer_cases.normal(2, 5, 3)
    variables = Net().init(jax.random.key(0), x)
    assert set(variables) == {"binary_params", "params", "batch_stats"}
    assert list(variables["binary_params"]) == ["conv"]
    assert set(variables["params"]) == {"BatchNorm_0", "Dense_0"}
    y, updates = Net().apply(variables, x, mutable=["batch_stats"])
    assert y.shape == (2, 5, 2)
    assert list(updates) == ["batch_stats"]


def test_collection_name_survives_a_reload():
    original = dict(vars(params))
    try:
        assert importlib.reload(params).BinaryParam is not BinaryParam
        layer = nnx.bridge.ToLinen(BinaryLinear, args=(3, 2))
        variables = layer.init(jax.random.key(0), jnp.ones((1, 3)))
        assert list(variables) == ["binary_params"]
    finally:
        vars(params).update(original)
        nnx.register_variable_name("binary_params", BinaryParam, overwrite=True)
