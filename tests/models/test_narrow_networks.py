"""What stays in float32 in a network that computes in bfloat16."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sgdat_jax as sj

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("DigitsNet", "dense5"),
        ("BinaryNet", "dense9"),
        ("SgdatResNet18", "dense"),
        ("BiRealResNet18", "dense"),
    ],
)
def test_the_last_layer_sums_in_float32(name, head):
    side = 32 if name != "DigitsNet" else 8
    options = {"input_shape": (side, side, 3), "width": 0.01, "dtype": jnp.bfloat16}
    make = getattr(sj.models, name)
    shapes = nnx.eval_shape(lambda: make(**options, rngs=nnx.Rngs(0)))
    layer = getattr(shapes, head)
    layer.kernel.set_value(jnp.ones(layer.kernel.shape))
    layer.bias.set_value(jnp.zeros(layer.bias.shape))
    # Both are numbers of bfloat16, and their sum is none.
    x = jnp.zeros((1, layer.in_features), jnp.bfloat16).at[0, :2].set([256, 1])
    found = layer(x)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, np.full((1, 10), 257))
