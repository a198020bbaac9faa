"""Files of weights predict what their runs reach, and damage is said."""

import json
import os
import pathlib
import shutil
import zipfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import shared_runs
from networks import DTYPES
from sgdat_jax import inference, run_folder
from sgdat_jax.data import augment
from sgdat_jax.experiments import setup
from sgdat_jax.inference import weight_files
from sgdat_jax.training import loop, steps

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(dtype, marks=[] if dtype == "bits" else pytest.mark.whole)
        for dtype in DTYPES
    ],
)
def test_file_predicts_what_evaluate_counts(dtype):
    file = shared_runs.finished().folder / run_folder.BEST
    run = setup.restore_weights(file)
    images, labels = run.dataset.test_images, run.dataset.test_labels
    logits = inference.load(str(file), dtype)(images)
    assert (logits.dtype, logits.shape) == (jnp.float32, (len(images), 10))
    batch = steps.Batch(images, labels)
    metrics = jax.jit(steps.eval_step, static_argnums=0)(
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


@pytest.mark.whole
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


_GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "digits.npz"


def damaged(tmp_path, changes):
    """A file of weights that says something else of them."""
    with np.load(shared_runs.finished().folder / run_folder.BEST) as archive:
        arrays = dict(archive)
    about = json.loads(arrays["about"].tobytes())
    network = about["network"] | changes.pop("network", {})
    about |= {"network": network} | changes
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(tmp_path / "best.npz", **arrays)
    return tmp_path / "best.npz"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": None}, "is not a whole file of weights"),
        ({"mean": [0.5, 0.5]}, "are not of 1 channels"),
        ({"std": ["x"]}, "is not a whole file of weights"),
        ({"std": [0.0]}, "must be finite, std above 0"),
        ({"mean": [float("nan")]}, "must be finite, std above 0"),
        ({"network": {"input_shape": [8, 8]}}, "is not a whole file of weights"),
        ({"network": {"input_shape": [3, 8, 1]}}, "cannot be built: .*at least 4"),
        ({"network": {"input_shape": [16, 8, 1]}}, "the network it names at dense4"),
        ({"network": {"num_classes": "ten"}}, "is not a whole file of weights"),
        ({"network": {"num_classes": float("inf")}}, "is not a whole file of weights"),
        (
            {"network": {"num_classes": 11}, "class_names": None},
            "the network it names at dense5",
        ),
        (
            {"network": {"model": "DigitNet"}},
            "unknown model 'DigitNet'; the near",
        ),
        ({"network": {"width": "wide"}}, "has a network that cannot be built"),
        ({"network": {"width": 1e30}}, "width must be less"),
        ({"network": {"num_classes": 11}}, "class_names must be 11, got 10"),
        ({"class_names": 5}, "is not a whole file of weights"),
        ({"class_names": ["\x1b[2J", *"abcdefghi"]}, "no control characters"),
        ({"resize": "pad"}, "unknown resize 'pad'"),
        ({"format": 7}, "has format 7"),
        ({"network": {"colour": 1}}, "colour"),
    ],
)
def test_file_that_says_something_else(tmp_path, changes, message):
    file = damaged(tmp_path, changes)
    with pytest.raises(ValueError, match=message) as caught:
        inference.load(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_file_that_is_none(tmp_path):
    content = (shared_runs.finished().folder / run_folder.BEST).read_bytes()
    half = tmp_path / "half.npz"
    half.write_bytes(content[: len(content) // 2])
    for path, message in (
        (half, "is not a whole file of weights"),
        (tmp_path, "must be a file of weights, .* got a folder without one"),
        (tmp_path / "none.npz", "must be a file of weights, .* got no file"),
    ):
        with pytest.raises(ValueError, match=message):
            inference.load(path)


@pytest.mark.whole
def test_a_file_needs_nothing_that_trained_it(tmp_path):
    # An unknown schedule, optimizer or option of its run is none of its business.
    config = {"binary_schedule": "own", "optimizer": "mine", "colour": 1}
    file = damaged(tmp_path, {"config": config})
    images = shared_runs.finished().dataset.test_images[:4]
    expected = inference.load(shared_runs.finished().folder / run_folder.BEST)(images)
    np.testing.assert_array_equal(inference.load(file)(images), expected)
    code = (
        "import sys\n"
        "sys.modules |= {'sgdat_jax.training': None, 'sgdat_jax.report': None}\n"
        "import numpy as np\n"
        "from sgdat_jax import inference\n"
        f"for file in {[str(file), str(_GOLDEN)]}:\n"
        "    print(inference.load(file)(np.zeros((1, 8, 8, 1), np.uint8)).shape)"
    )
    done = shared_runs.python("-c", code)
    assert (done.returncode, done.stdout) == (0, "(1, 10)\n(1, 10)\n"), done.stderr


def test_a_file_that_unpacks_to_much_more_than_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "_MOST_UNPACKED", 10_000)
    whole = shared_runs.finished().folder / run_folder.BEST
    packed = tmp_path / "packed.npz"
    with np.load(whole) as archive:
        np.savez_compressed(packed, **archive, more=np.zeros(100_000))
    with pytest.raises(ValueError, match="above 10,000 a file must not be compressed"):
        inference.load(packed)
    assert inference.load(whole).input_shape == (8, 8, 1)
    monkeypatch.undo()
    assert inference.load(packed).input_shape == (8, 8, 1)


def test_a_member_that_is_no_array(tmp_path):
    file = tmp_path / "best.npz"
    shutil.copy(shared_runs.finished().folder / run_folder.BEST, file)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("note.txt", "mine")
    with pytest.raises(ValueError, match=r"note.txt is not an array\.$"):
        inference.load(file)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(tmp_path, value):
    file = tmp_path / "best.npz"
    with np.load(shared_runs.finished().folder / run_folder.BEST) as archive:
        arrays = dict(archive)
    name = next(name for name in arrays if name.endswith("/var"))
    arrays[name].flat[0] = value  # folded, it would make a bit of this channel
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match=f"{name} has values that are not finite"):
        inference.load(file)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "best.npz")
    with pytest.raises(ValueError, match="got what is not a regular file"):
        inference.load(tmp_path / "best.npz")


@pytest.mark.whole
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


def test_lists_of_bytes_and_of_other_numbers():
    classify = inference.load(shared_runs.finished().folder / run_folder.BEST)
    images = shared_runs.finished().dataset.test_images[:2]
    chex.assert_trees_all_equal(classify(images.tolist()), classify(images))
    assert classify(images[:0]).shape == (0, 10)
    with pytest.raises(ValueError, match="`inputs` must be an array or nested lists"):
        classify((images.astype(int) - 256).tolist())
