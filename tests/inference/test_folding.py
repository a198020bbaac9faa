"""Folded networks decide as those they are made of."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import networks
import sgdat_jax as sj
import shared_runs
from networks import DTYPES, random_network
from sgdat_jax import inference, testing

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.mark.parametrize(
    ("name", "pad_value", "dtypes"),
    [
        ("DigitsNet", 0.0, DTYPES),
        ("DigitsNet", 1.0, ["int8"]),
        ("DigitsNet", -1.0, ["bfloat16"]),
        pytest.param("BinaryNet", -1.0, ["bits"], marks=pytest.mark.whole),
        pytest.param("SgdatResNet18", 1.0, ["bits"], marks=pytest.mark.whole),
        pytest.param("BiRealResNet18", 0.0, ["bits"], marks=pytest.mark.whole),
        pytest.param("BinaryNet", 0.0, DTYPES, marks=pytest.mark.slow),
        pytest.param("SgdatResNet18", 0.0, DTYPES, marks=pytest.mark.slow),
        pytest.param("BiRealResNet18", -1.0, DTYPES, marks=pytest.mark.slow),
    ],
)
def test_folded_networks_give_the_same_logits(name, pad_value, dtypes):
    model = random_network(name, pad_value=pad_value)
    images = networks.images_for(name)
    expected = networks.plain_logits(model, images)
    assert len(np.unique(expected)) > 0.7 * expected.size  # the images matter
    for dtype in dtypes:
        folded = inference.fold(model, dtype)
        assert networks.thresholds_of(folded) == networks.FOLDED[name]
        networks.assert_same(folded, images, expected)


@pytest.mark.parametrize(
    ("options", "thresholds"),
    [
        ({"dtype": jnp.bfloat16}, ["norm2", "norm3"]),
        ({"full_precision": "conv3"}, []),
        ({"full_precision": "dense4"}, ["norm2"]),
        ({"input_quantizer": functools.partial(sj.swish_sign, beta=9.0)}, ["norm2"]),
        ({"input_quantizer": sj.dorefa}, []),
        ({"input_quantizer": None}, []),
        ({"kernel_quantizer": sj.signs.magnitude_aware_sign}, []),
    ],
)
def test_only_signs_are_folded(options, thresholds):
    model = random_network("DigitsNet", **options)
    if "kernel_quantizer" in options:
        model.conv3.kernel[...] = 2 * model.conv3.kernel[...]
    if thresholds == ["norm2"] and "input_quantizer" in options:
        model.dense4.input_quantizer = sj.ste_heaviside
    images = networks.images_for("DigitsNet")
    folded = inference.fold(model, "int8")
    assert networks.thresholds_of(folded) == thresholds
    networks.assert_same(folded, images, networks.plain_logits(model, images))


class Pair(nnx.Module):
    """Two binary layers with a normalization between them."""

    sign_chain = ("first", "norm", "second")

    def __init__(self, inputs, channels, **options):
        rngs = nnx.Rngs(0)
        self.first = sj.BinaryLinear(inputs, channels, rngs=rngs)
        self.norm = nnx.BatchNorm(channels, epsilon=1e-5, rngs=rngs, **options)
        self.second = sj.BinaryLinear(channels, 3, rngs=rngs)

    def __call__(self, x):
        return self.second(self.norm(self.first(x)))


@pytest.mark.parametrize("affine", [True, False])
def test_every_sign_of_every_sum_is_the_same(affine):
    inputs, channels = 77, 1024
    model = Pair(inputs, channels, use_scale=affine, use_bias=affine)
    networks.fill(model.norm, np.random.default_rng(1))
    sums = jnp.arange(-inputs, inputs + 1.0)[:, np.newaxis]
    sums = jnp.broadcast_to(sums, (len(sums), channels))
    folded = inference.fold(model)
    model.eval()
    expected = np.asarray(jax.jit(lambda x: sj.sign(model.norm(x)))(sums))
    signs = np.asarray(jax.jit(lambda x: sj.sign(folded.norm(x)))(sums))
    np.testing.assert_array_equal(signs, expected)
    assert isinstance(folded.norm, inference.Threshold)
    rising = (np.diff(expected, axis=0) > 0).any(0)
    falling = (np.diff(expected, axis=0) < 0).any(0)
    assert rising.sum() > 0.3 * channels
    assert (falling.sum() > 0.3 * channels) == affine
    constant = ~rising & ~falling
    if affine:
        assert {-1.0, 1.0} == set(expected[0, constant])
    # Sums that are exactly at the threshold: their sign is +1, the next one's is not.
    at_tie = np.asarray(folded.norm(sums)) == 0
    assert at_tie.any(0).sum() > 0.3 * channels
    assert (signs[at_tie] == 1).all()


def test_int8_products_are_of_int8_and_summed_in_int32():
    folded = inference.fold(random_network("DigitsNet"), "int8")
    program = str(jax.make_jaxpr(lambda x: folded(x))(networks.images_for("DigitsNet")))
    for product, number in (("conv_general_dilated", 2), ("dot_general", 1)):
        assert len(re.findall(rf":i32[^ ]* = {product}\[", program)) == number
    kernels = jax.tree.leaves(nnx.state(folded, sj.layers.FoldedKernel))
    assert [kernel.dtype.name for kernel in kernels] == ["int8"] * 3


def test_bits_take_a_32nd_of_the_memory():
    model = random_network("DigitsNet")
    sizes = [
        kernel.size * kernel.dtype.itemsize
        for folded in (inference.fold(model), inference.fold(model, "float32"))
        for kernel in jax.tree.leaves(nnx.state(folded, sj.layers.FoldedKernel))
    ]
    # Its narrow layers have 8 and 16 inputs, while a word holds 32.
    assert sizes[:3] == [9 * 4 * 8, 9 * 4 * 16, 2 * 4 * 24]
    assert sizes[3:] == [9 * 8 * 4 * 8, 9 * 8 * 4 * 16, 64 * 4 * 24]


def test_summary_counts_the_weights_of_packed_kernels():
    model = random_network("DigitsNet")
    kinds = ("BinaryConv", "BinaryLinear", "Conv", "Linear", "FoldedLayer")
    packed, plain = (
        [row for row in sj.summarize(one, (8, 8, 1)) if row.kind in kinds]
        for one in (inference.fold(model), model)
    )
    assert [row.kind for row in packed] == ["Conv", *["FoldedLayer"] * 3, "Linear"]
    assert [row._replace(kind="") for row in packed] == [
        row._replace(kind="") for row in plain
    ]


def test_fold_leaves_the_network_as_it_was():
    model = random_network("DigitsNet")
    model.train()
    graph, before = nnx.split(nnx.clone(model))
    inference.fold(model, "int8")
    after_graph, after = nnx.split(model)
    assert after_graph == graph
    shared_runs.assert_bit_equal(after, before)


def test_layers_with_more_than_signs_stay():
    layers = nnx.List(
        [
            sj.BinaryLinear(4, 3, use_bias=True, rngs=nnx.Rngs(0)),
            sj.BinaryLinear(4, 3, output_scale="xnor", rngs=nnx.Rngs(0)),
            sj.BinaryLinear(4, 3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)),
            sj.BinaryLinear(4, 3, promote_dtype=to_float16, rngs=nnx.Rngs(0)),
            sj.BinaryLinear(4, 3, rngs=nnx.Rngs(0)),
        ]
    )
    folded = inference.fold(nnx.Sequential(*layers), "int8").layers
    dtypes = [layer.kernel.dtype.name for layer in folded]
    assert dtypes == ["float32", "float32", "float32", "float32", "int8"]


def to_float16(operands, *, dtype):
    return tuple(x if x is None else x.astype(jnp.float16) for x in operands)


class Doubled(sj.BinaryLinear):
    """A layer of one's own that computes something else."""

    def __call__(self, inputs):
        return 2 * super().__call__(inputs)


class Named(sj.BinaryLinear):
    """A layer of one's own that computes the same."""

    def __init__(self, name, *sizes, **options):
        super().__init__(*sizes, **options)
        self.name = name


class Flat(sj.BinaryLayer):
    """A layer of one's own with an operation of the library."""

    def __init__(self, rngs):
        super().__init__(64, 32, rngs=rngs)

    @property
    def operation(self):
        return sj.layers.operations.Contraction()


@pytest.mark.parametrize(
    ("make", "is_folded"),
    [
        (lambda: Doubled(64, 32, rngs=nnx.Rngs(0)), False),
        (lambda: Named("a", 64, 32, rngs=nnx.Rngs(0)), True),
        (lambda: Flat(nnx.Rngs(0)), True),
    ],
)
def test_layers_of_ones_own_compute_what_they_did(make, is_folded):
    layer = make()
    folded = inference.fold(layer)
    assert isinstance(folded, inference.FoldedLayer) == is_folded
    x = jax.random.normal(jax.random.key(0), (40, 64))
    np.testing.assert_array_equal(folded(x), layer(x))
    testing.check_binary_layer(layer, (64,))


def test_folded_layers_are_no_longer_trained():
    folded = inference.fold(random_network("DigitsNet"))
    assert not jax.tree.leaves(nnx.state(folded, sj.BinaryParam))
    names = [path[0] for path, _ in nnx.to_flat_state(nnx.state(folded, nnx.Param))]
    assert set(names) == {"conv1", "norm1", "norm4", "dense5"}
    with pytest.raises(ValueError, match="`model` must have binary weights"):
        sj.partition_binary(folded, binary=sj.sgdat(), real=optax.sgd(1.0))
    # Nothing is left to fold.
    again = inference.fold(folded)
    images = networks.images_for("DigitsNet")
    np.testing.assert_array_equal(
        inference.to_function(again)(images), inference.to_function(folded)(images)
    )


def test_a_shared_layer_stays_shared():
    class Shared(nnx.Module):
        def __init__(self):
            self.first = sj.BinaryLinear(8, 8, rngs=nnx.Rngs(0))
            self.both = nnx.data((self.first, {"again": self.first}))

        def __call__(self, x):
            return self.both[1]["again"](self.both[0](self.first(x)))

    model = Shared()
    folded = inference.fold(model)
    assert folded.first is folded.both[0] is folded.both[1]["again"]
    assert len(jax.tree.leaves(nnx.state(folded))) == 1
    x = jax.random.normal(jax.random.key(0), (5, 8))
    np.testing.assert_array_equal(folded(x), model(x))


def test_features_of_the_inputs_are_checked():
    folded = inference.fold(sj.BinaryLinear(8, 4, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"`inputs` must have 8 features .*\(2, 7\)"):
        folded(jnp.ones((2, 7)))


@sj.surrogate
def bell_sign(x):
    return jnp.exp(-(x**2))


def test_a_sign_of_ones_own_is_packed_too():
    model = random_network("DigitsNet", input_quantizer=bell_sign)
    folded = inference.fold(model)
    assert [type(norm) for norm in (folded.norm2, folded.norm3)] == [
        inference.Threshold,
        inference.Threshold,
    ]
    assert folded.conv2.kernel.dtype == jnp.uint32


def test_refused_models_and_dtypes():
    model = random_network("DigitsNet")
    with pytest.raises(ValueError, match="unknown dtype 'int4'; the nearest is 'int8'"):
        inference.fold(model, "int4")
    model.norm2.var.set_value(np.array([1, np.nan, 1], np.float32))
    with pytest.raises(ValueError, match="must be finite, got nan in norm2/var"):
        inference.fold(model)
