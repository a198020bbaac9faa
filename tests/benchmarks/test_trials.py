import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sgdat_jax as sj
from benchmarks import trial_blocks, trials

SHAPE = (8, 4, 4, 8)
# Sums of signs and, of them, the second kernel's gradient are whole numbers.
EXACT = ("output", "second")
ROUNDING = 1e-5  # of sums in another order, over the largest value
TRIED = (
    trial_blocks.BITS,
    "packed mask",
    "packed residual",
    "fused norm and sign",
    "int8 forward",
)


@pytest.fixture(scope="module")
def expected():
    block = trial_blocks.made_block(SHAPE)
    return trials.compile_block(trial_blocks.LIBRARY, block, True)(block)


@pytest.mark.parametrize("name", TRIED)
def test_gradients_are_the_library_s(name, expected):
    block = trial_blocks.made_block(SHAPE)
    found = trials.compile_block(name, block, True)(block)
    differences = trials.differences(found, expected)
    assert set(differences) == {"output", *trial_blocks.Block._fields}
    assert all(jnp.abs(leaf).max() > 0 for leaf in expected.values())
    assert max(differences.values()) <= ROUNDING
    assert [differences[key] for key in EXACT] == [0, 0]


def test_bits_come_back():
    bits = np.random.default_rng(0).integers(0, 2, (16, 3, 5)) > 0
    packed = trial_blocks.pack(jnp.asarray(bits))
    assert (packed.dtype, packed.shape) == (jnp.uint8, (2, 3, 5))
    np.testing.assert_array_equal(trial_blocks.unpack(packed), bits)


def test_packed_sign_has_the_window_of_the_sign():
    x = jnp.array([-1.5, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 1.5])
    for of_x in (lambda f: f(x), lambda f: jax.grad(lambda x: jnp.sum(x * f(x)))(x)):
        np.testing.assert_array_equal(of_x(trial_blocks.packed_sign), of_x(sj.ste_sign))
