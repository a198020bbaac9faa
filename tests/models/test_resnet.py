import jax
import numpy as np
import pytest
from flax import nnx

import sgdat_jax as sj
from numpy_net import assert_equals_reference, conv, hard_tanh, pool, random_network

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def size(model, kind):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, kind)))


def sgdat_net(**options):
    return sj.models.SgdatResNet18(**options, rngs=nnx.Rngs(0))


def bireal_net(**options):
    return sj.models.BiRealResNet18(**options, rngs=nnx.Rngs(0))


def test_real_weights_of_the_sgdat_net():
    model = nnx.eval_shape(sgdat_net)
    # Of the stem, two norms a block, that of each shortcut; the last is the head's.
    norms = 80 * (1 + 4) + 160 * (4 + 1) + 320 * (4 + 1) + 10
    real = size(model, nnx.Param) - size(model, sj.BinaryParam)
    assert real == 27 * 80 + 320 * 10 + 10 + 2 * norms


SGDAT, BIREAL = 4_326_400, 10_985_472  # binary weights


@pytest.mark.parametrize(
    ("build", "shape", "weights", "maps"),
    [
        (sgdat_net, (32, 32, 3), SGDAT, [(32, 80), (32, 80), (16, 160), (8, 320)]),
        (sgdat_net, (28, 28, 1), SGDAT, [(28, 80), (28, 80), (14, 160), (7, 320)]),
        (bireal_net, (32, 32, 3), BIREAL, [(32, 64), (32, 64), (16, 128), (8, 256)]),
        (
            bireal_net,
            (224, 224, 3),
            BIREAL,
            [(112, 64), (56, 64), (28, 128), (14, 256)],
        ),
    ],
)
def test_weights_and_maps_behind_the_stem_and_the_first_stages(
    build, shape, weights, maps
):
    model = nnx.eval_shape(lambda: build(input_shape=shape))
    assert size(model, sj.BinaryParam) == weights
    rows = {row.name: row for row in sj.summarize(model, shape)}
    step, name = (2, "conv1") if build is sgdat_net else (4, "conv")
    names = ["conv1", *(f"blocks/{index * step}/{name}" for index in range(3))]
    assert [rows[name].output_shape[1:] for name in names] == maps
    binary = [row.name for row in rows.values() if row.binary_macs]
    assert sorted(binary) == sorted(model.choices.binary_layers)


def test_stages_of_a_narrow_network_halve_their_maps_too():
    model = nnx.eval_shape(lambda: sgdat_net(width=1 / 16))
    assert len(model.choices.binary_layers) == 14
    rows = {row.name: row for row in sj.summarize(model, (32, 32, 3))}
    maps = [rows[f"blocks/{index}/conv1"].output_shape for index in (0, 2, 4)]
    assert maps == [(32, 32, 8), (16, 16, 8), (8, 8, 24)]  # as wide, yet halved


def sgdat_reference(net, x):
    """The SGDAT paper's network, after the published code."""
    x = net.norm("norm1", conv(x, net.variables("conv1")["kernel"]))
    for index in range(6):
        name, strides = f"blocks/{index}", 2 if index in (2, 4) else 1
        y = net.norm(f"{name}/norm1", net.layer(f"{name}/conv1", x, strides))
        y = net.layer(f"{name}/conv2", y)
        if strides == 1:
            y += hard_tanh(x)
        else:
            shortcut = net.layer(f"{name}/shortcut", x, strides)
            y += net.norm(f"{name}/shortcut_norm", shortcut)
        x = y if index == 5 else net.norm(f"{name}/norm2", y)
    x = x.reshape(len(x), 1, 2, 8, 32).mean(3)  # pooled 1x8
    x = net.norm("norm2", x.reshape(len(x), -1))
    last = net.variables("dense")
    return net.norm("norm3", hard_tanh(x) @ last["kernel"] + last["bias"])


@pytest.mark.whole
def test_sgdat_net_equals_its_description_in_numpy():
    options = {"num_classes": 5, "input_shape": (4, 64, 3), "width": 0.1}
    options["full_precision"] = ["blocks/4/shortcut", "blocks/1/conv2"]
    model = random_network(lambda: sgdat_net(**options), seed=3)
    assert model.dense.kernel.shape == (2 * 32, 5)
    images = jax.random.normal(jax.random.key(0), (8, 4, 64, 3))
    assert_equals_reference(model, images, sgdat_reference)


def bireal_reference(net, x):
    """Bi-Real Net with the activations of ReActNet, after their published code."""
    large = x.shape[2] > 100
    kernel = net.variables("conv1")["kernel"]
    x = net.norm("norm1", conv(x, kernel, 2 if large else 1))
    if large:
        x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
        x = windows[:, ::2, ::2].max((-2, -1))
    for index in range(16):
        name, strides = f"blocks/{index}", 2 if index in (4, 8, 12) else 1
        y = net.norm(f"{name}/norm", net.layer(f"{name}/conv", x, strides))
        if strides > 1:
            kernel = net.variables(f"{name}/shortcut")["kernel"]
            x = net.norm(f"{name}/shortcut_norm", conv(pool(x, 2, np.mean), kernel))
        x = x + y
        if not large:
            learned = net.variables(f"{name}/activation")
            x = x - learned["shift_in"]
            x = np.where(x > 0, x, learned["slope"] * x) + learned["shift_out"]
    last = net.variables("dense")
    return x.mean((1, 2)) @ last["kernel"] + last["bias"]


@pytest.mark.parametrize(
    ("shape", "seed"),
    [
        pytest.param((16, 8, 3), 1, marks=pytest.mark.whole),
        pytest.param((32, 128, 3), 0, marks=pytest.mark.slow),
    ],
    ids=["small", "large"],
)
def test_bireal_net_equals_its_description_in_numpy(shape, seed):
    options = {"num_classes": 5, "input_shape": shape, "width": 0.1, "pad_value": 1.0}
    options["rprelu"] = shape[1] < 100
    model = random_network(lambda: bireal_net(**options), seed)
    images = jax.random.normal(jax.random.key(0), (4, *shape))
    assert_equals_reference(model, images, bireal_reference)


@pytest.mark.parametrize(
    ("build", "shape", "message"),
    [
        (sgdat_net, (3, 32, 3), r"at least 4, got input_shape=\(3, 32, 3\)"),
        (bireal_net, (32, 7, 3), r"at least 8, got input_shape=\(32, 7, 3\)"),
        (bireal_net, (0, 32, 3), r"at least 1, got .*input_shape=\(0, 32, 3\)"),
    ],
)
def test_refused_sizes(build, shape, message):
    with pytest.raises(ValueError, match=message):
        build(input_shape=shape)
