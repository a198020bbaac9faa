"""The real sets, from an optional folder of test data beside the project."""

import importlib.util
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from sgdat_jax.data import dataset, sources

_SHARED = pathlib.Path(__file__).parents[2].parent / "shared" / "data"
_MEANS = {
    "mnist": ((0.1307,), (0.3081,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def _run(script, *arguments):
    path = _SHARED / script
    if not path.exists():
        pytest.skip(f"no real data: {path} is not there")
    subprocess.run(
        [sys.executable, path, *map(str, arguments)], check=True, capture_output=True
    )


def _rows(data, part):
    images, labels = getattr(data, f"{part}_images"), getattr(data, f"{part}_labels")
    return sorted((i.tobytes(), int(n)) for i, n in zip(images, labels, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", _MEANS)
def test_arrays_of_a_real_set(name, tmp_path):
    _run("restore.py", name, tmp_path)
    data = sources.load(f"{tmp_path}/")
    mean, std = dataset.channel_statistics(data.train_images)
    np.testing.assert_allclose((mean, std), _MEANS[name], atol=6e-5)
    per_class = np.bincount(data.test_labels)
    assert per_class.sum() == 10_000
    assert len(per_class) == data.num_classes == (100 if name == "cifar100" else 10)


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_official_builder_gives_the_real_set(file_format, tmp_path):
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("preparing MNIST needs TensorFlow, which is not installed")
    _run("prepare_tfds.py", "mnist", tmp_path / "sets", "--format", file_format)
    _run("restore.py", "mnist", tmp_path / "arrays")
    data = sources.load("mnist", tmp_path / "sets")
    expected = sources.load(f"{tmp_path}/arrays")
    assert data.class_names == expected.class_names
    for part in ("train", "test"):
        assert _rows(data, part) == _rows(expected, part)
