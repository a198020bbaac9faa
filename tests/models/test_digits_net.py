import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sgdat_jax as sj

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def _size(model, kind):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, kind)))


@pytest.mark.parametrize(
    ("classes", "shape"), [(10, (8, 8, 1)), (3, (4, 12, 3)), (1, (4, 4, 1))]
)
def test_shapes_and_parameter_counts(classes, shape):
    def build():
        return sj.models.DigitsNet(classes, input_shape=shape, rngs=nnx.Rngs(0))

    model = nnx.eval_shape(build)
    flat = shape[0] // 4 * (shape[1] // 4) * 128
    assert _size(model, sj.BinaryParam) == 9 * 64 * (64 + 128) + flat * 256
    real = 9 * shape[2] * 64 + 64 + 2 * (64 + 64 + 128 + 256) + 257 * classes
    assert _size(model, nnx.Param) - _size(model, sj.BinaryParam) == real
    images = jax.ShapeDtypeStruct((5, *shape), jnp.float32)
    logits = nnx.eval_shape(lambda model, x: model(x), model, images)
    assert (logits.shape, logits.dtype) == ((5, classes), jnp.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"input_shape": (8, 8, 0)}, r"input_shape=\(8, 8, 0\)"),
        ({"input_shape": (0, 8, 1)}, r"input_shape=\(0, 8, 1\)"),
        ({"input_shape": (8, 3, 1)}, r"at least 4.*input_shape=\(8, 3, 1\)"),
    ],
)
def test_refused_sizes(arguments, message):
    with pytest.raises(ValueError, match=message):
        sj.models.DigitsNet(**arguments, rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_modes_and_seeds():
    build = nnx.jit(sj.models.DigitsNet)
    model = build(rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(0), (16, 8, 8, 1))
    binary = jax.tree.leaves(nnx.state(model, sj.BinaryParam))
    assert len(binary) == 3
    assert all(set(np.unique(leaf)) == {-1.0, 1.0} for leaf in binary)

    averages = jax.tree.map(np.array, nnx.state(model, nnx.BatchStat))
    call = nnx.jit(lambda model, x: model(x))
    model.eval()
    first, alone = call(model, images), call(model, images[:1])
    # Running averages: an example does not depend on the others in its batch.
    np.testing.assert_allclose(first[:1], alone, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal(averages, nnx.state(model, nnx.BatchStat))

    model.train()
    trained = call(model, images)
    # The last normalization has neither scale nor offset.
    np.testing.assert_allclose(trained.mean(0), np.zeros(10), atol=1e-5)
    np.testing.assert_allclose(trained.std(0), np.ones(10), atol=1e-3)
    for before, after in zip(
        jax.tree.leaves(averages),
        jax.tree.leaves(nnx.state(model, nnx.BatchStat)),
        strict=True,
    ):
        assert (np.asarray(after) != before).any()

    other = build(rngs=nnx.Rngs(1))
    assert (other.conv2.kernel[...] != model.conv2.kernel[...]).any()
