"""Graphs of ONNX: what is made of each network and of single operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from networks import images_for, random_network
from sgdat_jax import inference
from sgdat_jax.inference.export import networks, onnx

pytestmark = pytest.mark.usefixtures("compiled_quickly")

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def run_graph(apply, x, tmp_path):
    """What onnxruntime makes of a function of one array."""
    function = inference.Function(lambda _, inputs: apply(inputs), [], {})
    network = networks.Network(function, x.shape[1:], x.dtype)
    file = tmp_path / "net.onnx"
    file.write_bytes(onnx.content(network, networks.Options()))
    return onnx.run(file, network, networks.Options())(np.asarray(x))


@pytest.mark.whole
@pytest.mark.parametrize("name", ["BinaryNet", "SgdatResNet18", "BiRealResNet18"])
def test_networks(name, tmp_path):
    model = random_network(name)
    rng = np.random.default_rng(0)
    for _, norm in nnx.iter_modules(model):
        if isinstance(norm, nnx.BatchNorm) and norm.scale is not None:
            # Without ties, which rounding decides.
            norm.mean.set_value(rng.normal(0, 5, norm.mean.shape).astype("f4"))
            norm.scale.set_value(rng.normal(size=norm.scale.shape).astype("f4"))
            norm.bias.set_value(rng.normal(size=norm.bias.shape).astype("f4"))
    folded = inference.to_function(inference.fold(model, "float32"))
    images = images_for(name)
    logits = run_graph(folded.plain, images, tmp_path)
    np.testing.assert_allclose(logits, folded(images), rtol=1e-4, atol=1e-4)


SIGNS = np.where(np.random.default_rng(0).normal(size=(40, 37)) < 0, -1, 1)
CASES = {
    "packed signs": lambda x: x @ SIGNS.astype("f4"),
    "clip": lambda x: jnp.clip(x, -0.5, 0.5),
    "softmax": jax.nn.softmax,
    "sigmoid": jax.nn.sigmoid,
    "gelu": jax.nn.gelu,
    "powers": lambda x: x**3 + jnp.square(x) + jnp.abs(x) ** 1.5,
    "steps": lambda x: x[:, ::3],
    "cut": lambda x: x[:, 1:20],
    "cut by steps": lambda x: lax.slice(x, (0, 1), (x.shape[0], 20), (1, 2)),
    "pads": lambda x: jnp.pad(x, ((0, 0), (1, 2)), constant_values=1.0),
    "concatenation": lambda x: jnp.concatenate([x, x + 1], -1),
    "transposed": lambda x: x.reshape(-1, 4, 10).transpose(0, 2, 1),
    "extremes": lambda x: jnp.maximum(x.max(-1, keepdims=True), x) - x.min(),
    "truths": lambda x: ((x > 0) & ~(x >= 1) | (x < -1)).astype(jnp.float32),
    "pooled": lambda x: lax.reduce_window(
        x.reshape(-1, 4, 10, 1), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 3, 1), "VALID"
    ),
    "rounded down": jnp.floor,
}


@pytest.mark.parametrize("case", CASES)
def test_operations(case, tmp_path):
    x = jax.random.normal(jax.random.key(0), (3, 40))
    apply = CASES[case]
    outputs = run_graph(apply, x, tmp_path)
    np.testing.assert_allclose(outputs, apply(x), rtol=1e-6, atol=1e-6)


def test_convolutions(tmp_path):
    kernel = jax.random.normal(jax.random.key(1), (3, 2, 2, 6))

    def convolve(x):
        return lax.conv_general_dilated(
            x,
            kernel,
            (2, 1),
            ((1, 0), (2, 1)),
            rhs_dilation=(1, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        )

    x = jax.random.normal(jax.random.key(0), (3, 9, 8, 4))
    outputs = run_graph(convolve, x, tmp_path)
    np.testing.assert_allclose(outputs, convolve(x), rtol=1e-5, atol=1e-5)


def test_what_onnx_cannot_hold_is_named(tmp_path):
    x = jnp.ones((2, 3))
    with pytest.raises(
        ValueError, match=r"the operation sort at .*test_export_onnx.py"
    ):
        run_graph(lambda x: jnp.sort(x), x, tmp_path)
    with pytest.raises(ValueError, match="repeat a value over a batch"):
        run_graph(lambda x: jnp.ones_like(x).sum(-1), x, tmp_path)
    with pytest.raises(ValueError, match=r"fold\(model, 'float32'\)"):
        run_graph(_in_bfloat16, x, tmp_path)


def _in_bfloat16(x):
    x = x.astype(jnp.bfloat16).reshape(-1, 1, 3, 1)
    kernel = jnp.ones((1, 1, 1, 2), jnp.bfloat16)
    numbers = ("NHWC", "HWIO", "NHWC")
    summed = lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=numbers
    )
    return summed.astype(jnp.float32)
