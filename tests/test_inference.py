"""That folded networks decide as those they are made of, and files as their runs."""

import functools
import json
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sgdat_jax as sj
import shared_runs
from sgdat_jax import inference
from sgdat_jax.data import augment
from sgdat_jax.training import loop, run_folder, setup
from sgdat_jax.training import step as step_lib

DTYPES = ("float32", "bfloat16", "int8", "bits")
FOLDED = {  # normalizations that become thresholds
    "DigitsNet": ["norm2", "norm3"],
    "BinaryNet": [f"norm{index}" for index in range(2, 8)],
    "SgdatResNet18": [f"blocks/{index}/norm1" for index in range(6)],
    "BiRealResNet18": [],
}
SIZES = {"DigitsNet": (8, 8, 1), "BinaryNet": (8, 8, 3)}
# With these the sum 3 normalizes to 0 or, as compiled for most processors, where the
# addition takes the product before it is rounded, to less: -1/3 is rounded down.
TIE = {"mean": 0.0, "var": 1 - 1e-5, "scale": -1 / 3, "bias": 1.0}


def random_values(rng, norm):
    """Averages and scales of sums of some 100 signs, with each kind of odd channel."""
    channels = norm.num_features
    values = {
        "mean": rng.normal(0, 5, channels),
        "var": 100 * np.exp(rng.normal(size=channels)),
        "scale": rng.normal(size=channels),
        "bias": rng.normal(0, 0.5, channels),
    }
    values["mean"][0::4] = np.round(values["mean"][0::4])  # the threshold is a sum
    values["bias"][0::4] = 0
    values["scale"][1::8] = 0
    values["bias"][1::16] = 0
    for name, value in TIE.items():
        values[name][2::8] = value
    return values


def fill(norm, rng):
    for key, value in random_values(rng, norm).items():
        if getattr(norm, key) is not None:
            getattr(norm, key).set_value(jnp.asarray(value, jnp.float32))


def random_network(name, **options):
    net = functools.partial(getattr(sj.models, name), 5, width=0.1, **options)
    shape = SIZES.get(name, (16, 16, 3))
    model = nnx.eval_shape(lambda: net(input_shape=shape, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            fill(module, rng)
            continue
        for variable in vars(module).values():
            if isinstance(variable, nnx.Param):
                value = rng.normal(size=variable.shape)
                if isinstance(variable, sj.BinaryParam):
                    value = np.where(value < 0, -1, 1)
                variable.set_value(jnp.asarray(value, jnp.float32))
    return model


def images_for(name):
    return jax.random.normal(jax.random.key(0), (6, *SIZES.get(name, (16, 16, 3))))


def plain_logits(model, images):
    model = nnx.clone(model)
    model.eval()
    return inference.to_function(model)(images)


def thresholds_of(model):
    return sorted(
        "/".join(map(str, path))
        for path, module in nnx.iter_modules(model)
        if isinstance(module, inference.Threshold)
    )


def assert_same(folded, images, expected):
    """Were one sign another, logits would differ by far more than by rounding."""
    logits = inference.to_function(folded)(images)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize(
    ("name", "pad_value", "dtypes"),
    [
        ("DigitsNet", 0.0, DTYPES),
        ("DigitsNet", 1.0, ["int8"]),
        ("DigitsNet", -1.0, ["bfloat16"]),
        ("BinaryNet", -1.0, ["bits"]),
        ("SgdatResNet18", 1.0, ["bits"]),
        ("BiRealResNet18", 0.0, ["bits"]),
        pytest.param("BinaryNet", 0.0, DTYPES, marks=pytest.mark.slow),
        pytest.param("SgdatResNet18", 0.0, DTYPES, marks=pytest.mark.slow),
        pytest.param("BiRealResNet18", -1.0, DTYPES, marks=pytest.mark.slow),
    ],
)
def test_folded_networks_give_the_same_logits(name, pad_value, dtypes):
    model = random_network(name, pad_value=pad_value)
    images = images_for(name)
    expected = plain_logits(model, images)
    assert len(np.unique(expected)) > 0.7 * expected.size  # the images matter
    for dtype in dtypes:
        folded = inference.fold(model, dtype)
        assert thresholds_of(folded) == FOLDED[name]
        assert_same(folded, images, expected)


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
    images = images_for("DigitsNet")
    folded = inference.fold(model, "int8")
    assert thresholds_of(folded) == thresholds
    assert_same(folded, images, plain_logits(model, images))


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
    fill(model.norm, np.random.default_rng(1))
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
    program = str(jax.make_jaxpr(lambda x: folded(x))(images_for("DigitsNet")))
    for product, number in (("conv_general_dilated", 2), ("dot_general", 1)):
        assert len(re.findall(rf":i32[^ ]* = {product}\[", program)) == number
    kernels = jax.tree.leaves(nnx.state(folded, sj.BinaryParam))
    assert [kernel.dtype.name for kernel in kernels] == ["int8"] * 3


def test_bits_take_a_32nd_of_the_memory():
    model = random_network("DigitsNet")
    sizes = [
        kernel.size * kernel.dtype.itemsize
        for folded in (inference.fold(model), inference.fold(model, "float32"))
        for kernel in jax.tree.leaves(nnx.state(folded, sj.BinaryParam))
    ]
    # Its narrow layers have 8 and 16 inputs, of which words hold 32.
    assert sizes[:3] == [9 * 4 * 8, 9 * 4 * 16, 2 * 4 * 24]
    assert sizes[3:] == [9 * 8 * 4 * 8, 9 * 8 * 4 * 16, 64 * 4 * 24]


def test_summary_counts_the_weights_of_packed_kernels():
    model = random_network("DigitsNet")
    kinds = ("BinaryConv", "BinaryLinear", "Conv", "Linear")
    packed, plain = (
        [row for row in sj.summarize(one, (8, 8, 1)) if row.kind in kinds]
        for one in (inference.fold(model), model)
    )
    assert packed == plain


def test_groups_are_not_packed():
    options = {"feature_group_count": 2, "rngs": nnx.Rngs(0)}
    model = nnx.Sequential(sj.BinaryConv(4, 2, (3, 3), **options))
    folded = inference.fold(model, "bits")
    assert folded.layers[0].kernel.dtype == jnp.float32
    images = jax.random.normal(jax.random.key(0), (2, 5, 5, 4))
    np.testing.assert_array_equal(folded(images), model(images))


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
            sj.BinaryLinear(4, 3, rngs=nnx.Rngs(0)),
        ]
    )
    folded = inference.fold(nnx.Sequential(*layers), "int8").layers
    dtypes = [layer.kernel.dtype.name for layer in folded]
    assert dtypes == ["float32", "float32", "float32", "int8"]


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


@pytest.mark.parametrize("dtype", DTYPES)
def test_file_predicts_what_evaluate_counts(dtype):
    file = shared_runs.finished().folder / run_folder.BEST
    run = setup.restore_weights(file)
    images, labels = run.dataset.test_images, run.dataset.test_labels
    logits = inference.load(str(file), dtype)(images)
    assert (logits.dtype, logits.shape) == (jnp.float32, (len(images), 10))
    batch = step_lib.Batch(images, labels)
    metrics = jax.jit(step_lib.eval_step, static_argnums=0)(
        run.task, run.state, batch, np.ones(len(labels), np.float32)
    )
    predicted = np.asarray(logits.argmax(-1))
    assert (predicted == labels).sum() == metrics.correct
    accuracy = loop.evaluate(run)["test_accuracy"]
    assert np.mean(predicted == labels) == pytest.approx(accuracy, abs=1e-9)
    # Of each image, not only in number.
    model = nnx.merge(run.task.eval_graph, run.state.params, run.state.stats)
    scaled = augment.normalize(images, run.task.mean, run.task.std)
    np.testing.assert_array_equal(
        inference.to_function(model)(scaled).argmax(-1), predicted
    )


def test_a_loaded_network_can_be_exported_for_any_batch_size():
    classify = inference.load(shared_runs.finished().folder / run_folder.BEST, "int8")
    shape = jax.export.symbolic_shape("batch, 8, 8, 1")
    exported = jax.export.export(jax.jit(classify))(
        jax.ShapeDtypeStruct(shape, jnp.uint8)
    )
    images = shared_runs.finished().dataset.test_images
    for size in (1, 5):
        expected = classify(images[:size])
        logits = exported.call(images[:size])
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (np.zeros((2, 8, 8, 1), np.float32), r"got float32 of shape \(2, 8, 8, 1\)"),
        (np.zeros((8, 8, 1), np.uint8), r"\(batch, 8, 8, 1\), got uint8 of shape \(8"),
        (np.zeros((2, 9, 8, 1), np.uint8), r"got uint8 of shape \(2, 9, 8, 1\)"),
    ],
)
def test_refused_images(images, got):
    classify = inference.load(shared_runs.finished().folder / run_folder.BEST)
    with pytest.raises(ValueError, match=got):
        classify(images)


def damaged(tmp_path, **changes):
    """A file of weights that says something else of them."""
    with np.load(shared_runs.finished().folder / run_folder.BEST) as archive:
        arrays = dict(archive)
    about = json.loads(arrays["about"].tobytes()) | changes
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(tmp_path / "best.npz", **arrays)
    return tmp_path / "best.npz"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": None}, "is not a whole file of weights"),
        ({"mean": [0.5, 0.5]}, "are not of 1 channels"),
        ({"std": ["x"]}, "is not a whole file of weights"),
        ({"input_shape": [8, 8]}, "is not a whole file of weights"),
        ({"input_shape": [9, 8, 1]}, "is of no model that can be built: .*divisible"),
        ({"input_shape": [16, 8, 1]}, "does not fit the model of its config at dense4"),
        ({"num_classes": "ten"}, "is not a whole file of weights"),
        ({"num_classes": float("inf")}, "is not a whole file of weights"),
        ({"num_classes": 11}, "does not fit the model of its config at dense5"),
        ({"format": 7}, "is of format 7"),
        ({"config": {"colour": 1}}, "colour"),
    ],
)
def test_file_that_says_something_else(tmp_path, changes, message):
    file = damaged(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        inference.load(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_file_that_is_none(tmp_path):
    content = (shared_runs.finished().folder / run_folder.BEST).read_bytes()
    half = tmp_path / "half.npz"
    half.write_bytes(content[: len(content) // 2])
    for path in (half, tmp_path, tmp_path / "none.npz"):
        with pytest.raises(ValueError, match="is not a whole file of weights"):
            inference.load(path)


def test_the_core_is_enough():
    file = shared_runs.finished().folder / run_folder.BEST
    extra = ["filelock", "tyro", "matplotlib", "sklearn", "PIL", "grain"]
    extra += ["tensorflow", "tensorflow_datasets", "importlib_resources"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({extra}))\n"
        "import numpy as np\n"
        "from sgdat_jax import inference\n"
        f"classify = inference.load({str(file)!r})\n"
        "print(classify(np.zeros((1, 8, 8, 1), np.uint8)).shape)"
    )
    done = shared_runs.python("-c", code)
    assert (done.returncode, done.stdout) == (0, "(1, 10)\n"), done.stderr


@pytest.fixture(scope="module", params=["bits", "int8", "unfolded"])
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
        lambda function, x: nnx.jit(function)(x),
        lambda function, x: jax.vmap(lambda image: function(image[None])[0])(x),
        lambda function, x: jax.lax.map(lambda image: function(image[None])[0], x),
        by_scan,
        lambda function, x: jax.checkpoint(function)(x),
        lambda function, x: jax.vjp(function, x)[0],
        lambda function, x: jax.export.export(function)(x).call(x),
        lambda function, x: function.lower(x).compile()(x),
    ],
    ids=["jit", "nnx", "vmap", "map", "scan", "checkpoint", "vjp", "export", "lower"],
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


def test_lists_of_bytes_and_of_other_numbers():
    classify = inference.load(shared_runs.finished().folder / run_folder.BEST)
    images = shared_runs.finished().dataset.test_images[:2]
    chex.assert_trees_all_equal(classify(images.tolist()), classify(images))
    assert classify(images[:0]).shape == (0, 10)
    with pytest.raises(ValueError, match="`inputs` must be an array or nested lists"):
        classify((images.astype(int) - 256).tolist())


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
