"""Gradients of the layers, through quantizers and output scales."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import layer_cases
from sgdat_jax import signs
from sgdat_jax.layers import BinaryConv, BinaryLinear

pytestmark = pytest.mark.usefixtures("compiled_quickly")


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
    _, (grads, x_grad) = layer_cases.value_and_grads(layer, jnp.array([[1.001]]))
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
    layer = make(kernel_init=layer_cases.normal_init, rngs=nnx.Rngs(0))
    x = jnp.array([[0.5, -1.0, 1.5, -0.0], [-7.0, 1.0, 0.2, -0.9]])
    _, (grads, x_grad) = layer_cases.value_and_grads(layer, x)

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


def test_xnor_gradient_flows_through_alpha():
    # y = alpha s with alpha = mean |W| over n inputs and s = sign(x) @ sign(W);
    # dy/dW = alpha sign(x) + s sign(W) / n.
    layer = BinaryLinear(
        5, 3, output_scale="xnor", kernel_init=layer_cases.normal_init, rngs=nnx.Rngs(0)
    )
    x = layer_cases.normal(1, 5)
    grads = nnx.jit(nnx.grad(lambda layer, x: layer(x).sum()))(layer, x)
    kernel = np.asarray(layer.kernel[...])
    sum_of_signs = np.sign(x) @ np.sign(kernel)  # (1, out)
    alpha = np.abs(kernel).mean(axis=0)
    expected = alpha * np.sign(x).T + np.sign(kernel) / 5 * sum_of_signs
    np.testing.assert_allclose(grads.kernel[...], expected, rtol=1e-5, atol=1e-6)
