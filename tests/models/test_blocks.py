"""What every network does with its choices."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sgdat_jax as sj
from sgdat_jax.models import blocks, pooling

pytestmark = pytest.mark.usefixtures("compiled_quickly")

NETS = {
    "DigitsNet": 3,  # binary layers
    "BinaryNet": 7,
    "SgdatResNet18": 14,
    "BiRealResNet18": 16,
}


def abstract(name, **options):
    net = getattr(sj.models, name)
    return nnx.eval_shape(lambda: net(**options, rngs=nnx.Rngs(0)))


def flat_shapes(model):
    return {path: v.shape for path, v in nnx.to_flat_state(nnx.state(model, nnx.Param))}


@pytest.mark.parametrize("name", NETS)
def test_full_precision_is_the_same_network(name):
    binary, real = abstract(name), abstract(name, full_precision="*")
    assert flat_shapes(binary) == flat_shapes(real)
    assert not jax.tree.leaves(nnx.state(real, sj.BinaryParam))
    names = binary.choices.binary_layers
    assert len(names) == NETS[name]
    assert (real.choices.binary_layers, real.choices.full_precision) == ((), names)
    kinds = [path for path, _ in nnx.to_flat_state(nnx.state(binary, sj.BinaryParam))]
    assert sorted("/".join(map(str, p[:-1])) for p in kinds) == sorted(names)
    sj.partition_binary(binary, binary=sj.sgdat(), real=optax.adam(1e-3))


@pytest.mark.parametrize("name", NETS)
def test_choices_are_fit_for_json_and_reach_every_binary_layer(name):
    options = {
        "width": 0.5,
        "pad_value": -1.0,
        "input_quantizer": functools.partial(sj.ste_sign, clip_value=1.5),
        "kernel_quantizer": None,
        "dtype": jnp.bfloat16,
        "unbiased_variance": True,
    }
    model = abstract(name, **options)
    choices = json.loads(json.dumps(dataclasses.asdict(model.choices)))
    assert choices == {
        "width": 0.5,
        "binary_layers": list(model.choices.binary_layers),
        "full_precision": [],
        "pad_value": -1.0,
        "input_quantizer": "ste_sign(clip_value=1.5)",
        "kernel_quantizer": None,
        "dtype": "bfloat16",
        "unbiased_variance": True,
    }
    layers = [m for _, m in nnx.iter_modules(model) if hasattr(m, "kernel")]
    binary = [m for m in layers if type(m.kernel) is sj.BinaryParam]
    assert len(binary) == NETS[name]
    for layer in binary:
        assert layer.input_quantizer is options["input_quantizer"]
        assert layer.kernel_quantizer is None
        assert layer.dtype == jnp.bfloat16
        assert layer.preferred_element_type == jnp.float32
        assert getattr(layer, "pad_value", -1.0) == -1.0
    norms = [m for _, m in nnx.iter_modules(model) if isinstance(m, nnx.BatchNorm)]
    assert all(norm.dtype == jnp.float32 for norm in norms)
    assert all(isinstance(norm, blocks.BatchNorm) for norm in norms)


def test_equal_choices_make_equal_programs():
    one, other = abstract("BinaryNet"), abstract("BinaryNet")
    assert nnx.graphdef(one) == nnx.graphdef(other)
    assert hash(nnx.graphdef(one)) == hash(nnx.graphdef(other))
    assert nnx.graphdef(one) != nnx.graphdef(abstract("BinaryNet", pad_value=1.0))


@pytest.mark.parametrize(
    ("width", "channels"),
    [
        (1.0, (128, 256, 512)),
        (0.1, (16, 24, 48)),
        (1e-9, (8, 8, 8)),
        (2, (256, 512, 1024)),
    ],
)
def test_widths_are_multiples_of_8(width, channels):
    model = abstract("BinaryNet", width=width)
    convs = (model.conv1, model.conv3, model.conv5)
    assert tuple(conv.kernel.shape[-1] for conv in convs) == channels


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"width": 0}, ValueError, r"`width` .*\(0, inf\), got 0"),
        ({"width": float("nan")}, ValueError, "got nan"),
        ({"width": float("inf")}, ValueError, "got inf"),
        ({"width": "1"}, TypeError, "`width` must be a number .* got '1'"),
        ({"num_classes": 2.5}, TypeError, "be integers, got num_classes=2.5 and"),
        (
            {"input_shape": (8, 8)},
            ValueError,
            r"`input_shape` must be height, width and channels, got \(8, 8\)",
        ),
        ({"input_shape": (8.0, 8, 1)}, TypeError, r"and input_shape=\(8.0, 8, 1\)"),
        ({"pad_value": 0.5}, ValueError, "`pad_value` must be 0, 1 or -1, got 0.5"),
        ({"full_precision": True}, TypeError, r"patterns such as '\*', got True"),
        ({"full_precision": [2]}, TypeError, r"got \[2\]"),
        (
            {"full_precision": ["conv2", "dens4"]},
            ValueError,
            "'dens4', which fits none of the layers conv2, conv3, dense4",
        ),
        ({"input_quantizer": 1.0}, TypeError, "`input_quantizer` .* got 1.0"),
    ],
)
def test_refused_choices(arguments, error, message):
    with pytest.raises(error, match=message):
        abstract("DigitsNet", **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BinaryNet", "SgdatResNet18", "BiRealResNet18"])
def test_every_network_learns_a_few_images_by_heart(name):
    net = getattr(sj.models, name)
    options = {"input_shape": (16, 16, 3), "width": 0.25, "dtype": jnp.bfloat16}
    model = nnx.jit(lambda: net(**options, rngs=nnx.Rngs(0)))()
    tx = sj.partition_binary(model, binary=sj.sgdat(), real=optax.adam(1e-2))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    images = jax.random.normal(jax.random.key(0), (20, 16, 16, 3))
    labels = jnp.arange(20) % 10

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            losses = optax.softmax_cross_entropy_with_integer_labels(
                model(images), labels
            )
            return losses.mean()

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    losses = [float(step(model, optimizer)) for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]
    for leaf in jax.tree.leaves(nnx.state(model, sj.BinaryParam)):
        assert set(np.unique(leaf)) == {-1.0, 1.0}


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (2, 5, 7, 1)])
def test_max_pool_is_flax_max_pool(shape):
    # Small integers make many equal maxima, of which the gradient goes to the first.
    x = jax.random.randint(jax.random.key(0), shape, -1, 2).astype(jnp.float32)

    @jax.jit
    def run(x):
        ours, plain = (
            jax.vjp(pool, x)
            for pool in (
                pooling.max_pool,
                lambda x: nnx.max_pool(x, (2, 2), strides=(2, 2)),
            )
        )
        weights = jnp.arange(1.0, 1 + ours[0].size).reshape(ours[0].shape)
        return [(value, pull_back(weights)[0]) for value, pull_back in (ours, plain)]

    (value, gradient), (expected, expected_gradient) = run(x)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(gradient, expected_gradient)


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_max_pool_passes_nan_on(place):
    x = jnp.zeros((1, 2, 2, 1)).at[0, *place, 0].set(jnp.nan)
    assert jnp.isnan(pooling.max_pool(x)).all()


@pytest.mark.parametrize("shape", [(8, 3), (2, 4, 4, 3)])
def test_running_variances_can_be_those_of_pytorch(shape):
    x = np.random.default_rng(0).normal(2.0, 3.0, shape).astype(np.float32)
    axes = tuple(range(len(shape) - 1))
    ours = blocks.BatchNorm(3, momentum=0.9, rngs=nnx.Rngs(0))
    flax = nnx.BatchNorm(3, momentum=0.9, rngs=nnx.Rngs(0))
    for _ in range(2):
        np.testing.assert_array_equal(ours(x), flax(x))
    # Two steps from 1 that keep 0.9; sums of products are rounded a few times.
    for norm, ddof in ((ours, 1), (flax, 0)):
        expected = 0.81 + 0.19 * x.astype(np.float64).var(axes, ddof=ddof)
        np.testing.assert_allclose(norm.var[...], expected, rtol=1e-6)
    np.testing.assert_array_equal(ours.mean[...], flax.mean[...])
    ours.eval()
    before = ours.var[...]
    ours(x[:1])
    np.testing.assert_array_equal(ours.var[...], before)


def test_running_variances_over_a_mapped_axis_are_those_of_all():
    x = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
    norm = blocks.BatchNorm(3, momentum=0.0, axis_name="b", rngs=nnx.Rngs(0))
    graph, state = nnx.split(norm)

    def step(x):
        norm = nnx.merge(graph, state, copy=True)
        norm(x)
        return norm.var[...]

    found = jax.vmap(step, axis_name="b")(x)
    expected = np.tile(x.reshape(24, 3).var(0, ddof=1), (4, 1))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_one_number_has_no_variance_with_divisor_n_minus_1():
    norm = blocks.BatchNorm(3, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match=r"2 numbers per channel, got x.shape=\(1, 3\)"
    ):
        norm(jnp.ones((1, 3)))
