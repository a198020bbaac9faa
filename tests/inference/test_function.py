"""Networks as functions take part in transformations."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from networks import SIZES, random_network
from sgdat_jax import inference

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module", params=["bits", "unfolded"])
def function(request):
    model = random_network("DigitsNet")
    model.eval()
    if request.param != "unfolded":
        model = inference.fold(model, request.param)
    return inference.to_function(model)


def by_scan(function, x):
    return jax.lax.scan(lambda carry, image: (carry, function(image[None])[0]), 0, x)[1]


@pytest.mark.parametrize(
    "transformed",
    [
        lambda function, x: jax.jit(function)(x),
        lambda function, x: jax.vmap(lambda image: function(image[None])[0])(x),
        by_scan,
        lambda function, x: jax.vjp(function, x)[0],
        lambda function, x: jax.export.export(function)(x).call(x),
    ],
    ids=["jit", "vmap", "scan", "vjp", "export"],
)
def test_a_function_composes(function, transformed):
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    # Real-valued sums are taken in another order by another program.
    chex.assert_trees_all_close(transformed(function, x), function(x), rtol=1e-4)
    shape = jax.ShapeDtypeStruct((3, 5), jnp.float32)
    assert jax.eval_shape(function, x) == function.eval_shape(x) == shape


def test_empty_batches_and_lists(function):
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    assert function(x[:0]).shape == (0, 5)
    chex.assert_trees_all_equal(function(x.tolist()), function(x))


def test_numbers_of_another_byte_order(function):
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 8, 8, 1)))
    chex.assert_trees_all_equal(function(x.astype(">f4")), function(x))
    chex.assert_trees_all_equal(function(np.asfortranarray(x[::-1])), function(x[::-1]))


@pytest.mark.parametrize("dtype", [object, "S4", "M8[s]", [("red", "f4")]])
def test_what_holds_no_numbers_is_refused(function, dtype):
    with pytest.raises(ValueError, match="`inputs` must be an array of numbers, got"):
        function(np.zeros((2, 8, 8, 1), dtype))


@pytest.mark.whole
def test_networks_take_no_images_and_any_number():
    model = random_network("DigitsNet")
    model.eval()
    shape = SIZES["DigitsNet"]
    assert model(jnp.zeros((0, *shape))).shape == (0, 5)
    sizes = jax.export.symbolic_shape(f"batch, {', '.join(map(str, shape))}")
    exported = jax.export.export(jax.jit(lambda x: model(x)))(
        jax.ShapeDtypeStruct(sizes, jnp.float32)
    )
    x = jax.random.normal(jax.random.key(0), (3, *shape))
    expected = nnx.jit(lambda model, x: model(x))(model, x)
    chex.assert_trees_all_close(exported.call(x), expected, rtol=1e-4, atol=1e-4)
