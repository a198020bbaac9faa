"""Networks of images of any size, and which network fits which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sgdat_jax.models import pooling, sizes, specs

pytestmark = pytest.mark.usefixtures("compiled_quickly")

_SIZES = [
    (9, 11),
    *(pytest.param(s, marks=pytest.mark.whole) for s in ((8, 8), (60, 35), (99, 101))),
]


@pytest.mark.parametrize("name", specs.NETWORKS)
@pytest.mark.parametrize("size", _SIZES)
def test_logits_of_any_size(name, size):
    shape = (*size, 3)
    spec = specs.Spec(name, 5, shape, width=0.1, unbiased_variance=True)

    def run():
        return spec.build()(jnp.zeros((2, *shape)))

    assert nnx.eval_shape(run).shape == (2, 5)


def test_rectangles_at_the_edges_are_smaller():
    images = np.random.default_rng(0).normal(size=(2, 9, 4, 3)).astype(np.float32)
    # Of 9 rows, the first rectangle has 5 and the second 4: they are centred.
    expected = np.stack([images[:, :5].mean((1, 2)), images[:, 5:].mean((1, 2))], 1)
    pooled = pooling.avg_pool(jnp.asarray(images), (8, 4))
    np.testing.assert_allclose(pooled[:, :, 0], expected, rtol=1e-5, atol=1e-6)
    odd = pooling.avg_pool(jnp.asarray(images), (2, 2))
    assert odd.shape == (2, 5, 2, 3)
    last = images[:, 8:, :2].mean((1, 2))
    np.testing.assert_allclose(odd[:, 4, 0], last, rtol=1e-5, atol=1e-6)


def test_rectangles_that_fit_are_pooled_as_before():
    images = jax.random.normal(jax.random.key(0), (2, 16, 8, 3))
    np.testing.assert_array_equal(
        pooling.avg_pool(images, (8, 8)), nnx.avg_pool(images, (8, 8), (8, 8))
    )


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((8, 8, 1), "DigitsNet"),
        ((16, 16, 3), "DigitsNet"),
        ((8, 17, 3), "BinaryNet"),
        ((64, 64, 3), "BinaryNet"),
        ((65, 8, 3), "BiRealResNet18"),
    ],
)
def test_the_network_that_fits(shape, name):
    assert sizes.choose(shape) == name
    assert sizes.warning(specs.Spec(name, 10, shape)) is None


def test_networks_that_do_not_fit_are_warned_of():
    note = sizes.warning(specs.Spec("DigitsNet", 10, (28, 28, 1)))
    assert "dense4 has 1.6 M weights. BinaryNet is for images up to 64x64." in note
    note = sizes.warning(specs.Spec("BinaryNet", 10, (96, 96, 3), width=0.5))
    assert "dense7 has 18.9 M weights. BiRealResNet18 does not grow" in note
    for name in ("SgdatResNet18", "BiRealResNet18"):
        assert sizes.warning(specs.Spec(name, 10, (224, 224, 3))) is None
