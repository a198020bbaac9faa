import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sgdat_jax as sj
from numpy_net import (
    ERROR,
    REAL_ERROR,
    assert_equals_reference,
    conv,
    hard_tanh,
    pool,
    random_network,
)

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def build(**options):
    return sj.models.BinaryNet(**options, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("shape", "weights"), [((32, 32, 3), 14_008_320), ((64, 64, 3), 39_174_144)]
)
def test_published_numbers_of_weights(shape, weights):
    model = nnx.eval_shape(lambda: build(input_shape=shape))
    binary = nnx.state(model, sj.BinaryParam)
    assert sum(leaf.size for leaf in jax.tree.leaves(binary)) == weights


def reference(net, x):
    """BinaryNet as Courbariaux et al. draw it: convolution, pooling, norm, sign."""
    first = net.variables("conv1")
    x = net.norm("norm1", conv(x, first["kernel"]) + first["bias"])
    for index in range(2, 7):
        x = net.layer(f"conv{index}", x)
        if index in (2, 4, 6):
            x = pool(x, 2, np.max)
        x = net.norm(f"norm{index}", x)
    x = x.reshape(len(x), -1)
    for index in (7, 8):
        x = net.norm(f"norm{index}", net.layer(f"dense{index}", x))
    last = net.variables("dense9")
    return net.norm("norm9", hard_tanh(x) @ last["kernel"] + last["bias"])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, ERROR),
        (
            {
                "pad_value": -1.0,
                "input_quantizer": None,
                "full_precision": ["conv3", "dense8"],
            },
            REAL_ERROR,
        ),
    ],
    ids=["published", "real-valued inputs"],
)
def test_equals_its_description_in_numpy(options, error):
    model = random_network(
        lambda: build(num_classes=5, input_shape=(16, 8, 3), width=0.05, **options),
        seed=1,
    )
    images = jax.random.normal(jax.random.key(0), (6, 16, 8, 3))
    assert_equals_reference(model, images, reference, error)


@pytest.mark.slow
def test_bfloat16_equals_float32_where_the_stem_is_exact():
    # All else is exact in bfloat16, or in float32 anyway: signs, their sums, norms.
    options = {"num_classes": 5, "input_shape": (8, 8, 3), "width": 0.25}
    model = random_network(lambda: build(dtype=jnp.bfloat16, **options), seed=0)
    for parameter in (model.conv1.kernel, model.conv1.bias):
        parameter[...] = jnp.round(2 * parameter[...])
    images = jnp.round(2 * jax.random.normal(jax.random.key(0), (6, 8, 8, 3)))
    assert_equals_reference(model, images, reference)


@pytest.mark.slow
def test_gradients_in_bfloat16_are_those_of_the_parameters():
    model = nnx.eval_shape(lambda: build(width=0.1, dtype=jnp.bfloat16))
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.bfloat16)
    logits, grads = nnx.eval_shape(
        lambda model, x: (model(x), nnx.grad(lambda model: model(x).sum())(model)),
        model,
        images,
    )
    assert logits.dtype == jnp.float32
    for path, leaf in nnx.to_flat_state(grads):
        assert leaf.dtype == jnp.float32, path
    assert jax.tree.structure(grads) == jax.tree.structure(nnx.state(model, nnx.Param))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"input_shape": (28, 7, 1)}, r"at least 8.*input_shape=\(28, 7, 1\)"),
    ],
)
def test_refused_sizes(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)
