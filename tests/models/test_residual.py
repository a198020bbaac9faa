"""What residual blocks hand on: all of it, but for TPUs."""

import jax
import jax.numpy as jnp
import pytest

from sgdat_jax.models import residual

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_blocks_hand_on_what_they_are_given():
    x = jnp.float32(1.001)
    square = jax.value_and_grad(lambda x: residual.hand_on(x, jnp.bfloat16) * x)
    value, gradient = square(x)
    assert (value, gradient) == (x * x, 2 * x)


@pytest.mark.parametrize(
    ("platform", "dtype", "is_narrow"),
    [
        ("tpu", jnp.bfloat16, True),
        ("tpu", jnp.float32, False),
        ("tpu", None, False),
        ("cpu", jnp.bfloat16, False),
    ],
)
def test_blocks_on_a_tpu_hand_on_the_dtype_of_the_computation(
    platform, dtype, is_narrow
):
    value_and_grad = jax.value_and_grad(lambda x: residual.hand_on(x, dtype).sum())
    program = jax.jit(value_and_grad).trace(jnp.ones((4, 8)))
    text = program.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("-> tensor<4x8xbf16>") == (2 if is_narrow else 0)
