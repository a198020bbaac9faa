"""Trained networks that classify pictures of any size."""

import os
import pathlib
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

import shared_runs
from sgdat_jax import inference, run_folder
from sgdat_jax.data import pictures, sources
from sgdat_jax.inference import classifier, weight_files

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def classify():
    return inference.load("digits")


def test_the_installed_network_is_the_one_it_says(classify):
    digits = sources.digits()
    found = classify.predict(digits.test_images)
    right = (found.labels == digits.test_labels).mean()
    assert right == 356 / 360
    assert classify.classes == digits.class_names
    assert os.path.getsize(classifier.find("digits")) < 65_000


def test_prediction_is_the_softmax_of_the_call(classify):
    images = sources.digits().test_images[:5]
    found = classify.predict(images)
    assert isinstance(found, inference.Prediction)
    logits = np.asarray(classify(images), np.float64)
    powers = np.exp(logits)
    expected = powers / powers.sum(-1, keepdims=True)
    # Float32 logits of other batch sizes.
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-4)
    assert found.probabilities.dtype == np.float32
    assert found.labels.tolist() == logits.argmax(-1).tolist()
    assert found.names == tuple(map(str, found.labels))


def test_batches_are_of_few_sizes(classify, monkeypatch):
    digits, sizes = sources.digits(), []
    monkeypatch.setattr(
        inference.Classifier,
        "__call__",
        lambda self, x, call=inference.Function.__call__: (
            sizes.append(len(x)) or call(self, x)
        ),
    )
    whole = classify.predict(digits.train_images[:300])
    one = classify.predict(digits.train_images[3:4])
    few = classify.predict(digits.train_images[:5])
    none = classify.predict(digits.train_images[:0])
    assert sizes == [256, 256, 1, 8]
    np.testing.assert_allclose(one.probabilities[0], whole.probabilities[3], rtol=1e-4)
    np.testing.assert_allclose(few.probabilities, whole.probabilities[:5], rtol=1e-4)
    assert none.probabilities.shape == (0, 10)
    assert none.names == ()


def test_paths_arrays_and_lists_are_alike(classify, tmp_path):
    images = sources.digits().test_images[:3]
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image[..., 0]).save(path)
    expected = classify.predict(images)
    forms = [
        images[..., 0],
        list(images),
        images.tolist(),
        paths,
        tuple(map(str, paths)),
        [paths[0], images[1], images[2, ..., 0]],
    ]
    for form in forms:
        found = classify.predict(form)
        np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    for one in (str(paths[0]), images[0], Image.open(paths[0])):
        found = classify.predict(one)
        np.testing.assert_array_equal(found.labels, expected.labels[:1])


def test_other_sizes_become_the_networks(classify):
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), np.uint8)
    fitted = [pictures.fit(image, (8, 8, 1), "crop") for image in images]
    np.testing.assert_array_equal(
        classify.predict(images).probabilities,
        classify.predict(np.stack(fitted)).probabilities,
    )


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["none.png"], "none.png cannot be used: No such file"),
        ([np.zeros((8, 8), np.float32)], "image 0 cannot be used: .* got float32"),
        (np.zeros((2, 8, 8, 1), np.int32), "image 0 cannot be used: .* got int32"),
        (np.zeros((2, 8, 8, 2), np.uint8), "must have 1 channels, got 2"),
        ([[[300]]], "image 0 cannot be used"),
    ],
)
def test_refused_images(classify, images, message):
    with pytest.raises(ValueError, match=message):
        classify.predict(images)


def test_without_pillow(classify, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    images = sources.digits().test_images[:1]
    assert classify.predict(images).names == ("7",)
    with pytest.raises(ValueError, match="image 0 needs PIL: pip install"):
        classify.predict(np.zeros((1, 9, 9, 1), np.uint8))


def test_details_of_photos_are_kept(tmp_path):
    run = shared_runs.finished()
    details = {
        "mean": run.task.mean,
        "std": run.task.std,
        "config": {},
        "class_names": [f"digit {n}" for n in range(10)],
        "resize": "squash",
    }
    params, stats = run.state.params, run.state.stats
    file = tmp_path / "best.npz"
    weight_files.write(file, run.task.network, params, stats, details)
    classify = inference.load(tmp_path)  # as if it were a run
    assert (classify.resize, classify.input_shape) == ("squash", (8, 8, 1))
    image = np.random.default_rng(0).integers(0, 256, (1, 20, 40, 1), np.uint8)
    found = classify.predict(image)
    squashed = pictures.fit(image[0], (8, 8, 1), "squash")[np.newaxis]
    np.testing.assert_array_equal(
        found.probabilities, classify.predict(squashed).probabilities
    )
    assert found.names[0] == f"digit {found.labels[0]}"


def test_runs_keep_the_names_of_their_classes():
    folder = shared_runs.finished().folder
    about = weight_files.read_about(folder / run_folder.BEST)
    assert about.class_names == tuple("0123456789")
    assert about.resize is None


def test_what_a_name_stands_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    installed = classifier.find("digits")
    assert installed.name == "digits.npz"
    pathlib.Path("digits").mkdir()  # not a run
    assert classifier.find("digits") == installed
    folder = shared_runs.finished().folder
    shutil.copy(folder / run_folder.LAST, "digits/last.npz")
    assert classifier.find("digits") == pathlib.Path("digits/last.npz")
    shutil.copy(folder / run_folder.BEST, "digits/best.npz")
    assert classifier.find("digits") == pathlib.Path("digits/best.npz")
    shutil.rmtree("digits")
    shutil.copy(folder / run_folder.BEST, "digits")
    assert classifier.find("digits") == pathlib.Path("digits")


@pytest.mark.whole
def test_predictions_need_no_training_program(tmp_path):
    Image.new("L", (20, 30), 99).save(tmp_path / "a.png")
    rest = ("training", "experiments", "cli", "report")
    hidden = [f"sgdat_jax.{name}" for name in rest]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden}))\n"
        "from sgdat_jax import inference\n"
        f"print(inference.load('digits').predict({str(tmp_path / 'a.png')!r}).labels)"
    )
    done = shared_runs.python("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("[")


def test_a_file_that_is_no_archive_is_not_called_a_pickle(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match="it is not a NumPy archive") as caught:
        inference.load(tmp_path / "photo.jpg")
    assert "pickle" not in str(caught.value)
