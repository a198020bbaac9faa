"""Sets that Hugging Face's datasets saved, where it is installed."""

import io
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from sgdat_jax.data import pictures, sources
from sgdat_jax.data.photo_sets import hugging_face, picture_sets


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="needs Hugging Face's datasets: pip install"):
        sources.load(f"hf:{tmp_path}")


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets")


def _rows(count, seed=0, side=10):
    """Columns of a set: images, and labels that take turns."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, side, side, 3), np.uint8)
    images = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        images.append({"bytes": file.getvalue(), "path": None})
    return pixels, {"picture": images, "kind": [n % 2 for n in range(count)]}


def _features(datasets, label):
    return datasets.Features({"picture": datasets.Image(), "kind": label})


def test_splits_come_back(datasets, tmp_path):
    features = _features(datasets, datasets.ClassLabel(names=["cat", "dog"]))
    train, test = _rows(6), _rows(4, seed=1)
    made = {"train": train, "validation": test}
    datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(columns, features)
            for split, (_, columns) in made.items()
        }
    ).save_to_disk(tmp_path / "pets")
    data = sources.load(f"hf:{tmp_path / 'pets'}", tmp_path / "cache")
    assert (data.name, data.class_names) == ("pets", ("cat", "dog"))
    np.testing.assert_array_equal(data.train_images, train[0])
    np.testing.assert_array_equal(data.test_images, test[0])
    assert data.train_labels.tolist() == [0, 1] * 3
    assert data.options.test_share is None
    with pytest.raises(ValueError, match="test_share is for sets without a split"):
        hugging_face.load(f"hf:{tmp_path / 'pets'}", pictures.Options(test_share=0.5))


@pytest.mark.parametrize("kind", ["text", "number"])
def test_one_split_is_divided(datasets, tmp_path, kind):
    label = datasets.Value("string" if kind == "text" else "int64")
    pixels, columns = _rows(20)
    columns["label"] = [f"c{n}" if kind == "text" else 3 * n for n in columns["kind"]]
    del columns["kind"]
    features = datasets.Features({"picture": datasets.Image(), "label": label})
    whole = datasets.Dataset.from_dict(columns, features)
    whole.shuffle(seed=0).select(range(18)).save_to_disk(tmp_path / "pets")
    data = sources.load(f"hf:{tmp_path / 'pets'}", tmp_path / "cache")
    assert data.class_names == (("c0", "c1") if kind == "text" else ("0", "3"))
    assert (len(data.train_images), len(data.test_images)) == (14, 4)
    numbers = {image.tobytes(): n for n, image in enumerate(pixels)}
    found = []
    for part in ("train", "test"):
        images, labels = (getattr(data, f"{part}_{x}") for x in ("images", "labels"))
        found += [numbers[image.tobytes()] for image in images]
        assert labels.tolist() == [numbers[image.tobytes()] % 2 for image in images]
    assert len(set(found)) == 18


def test_images_in_files_and_a_second_start(datasets, tmp_path, monkeypatch):
    features = _features(datasets, datasets.ClassLabel(names=["cat", "dog"]))
    _, columns = _rows(10)
    for number, image in enumerate(columns["picture"]):
        file = tmp_path / f"{number}.png"
        file.write_bytes(image["bytes"])
        columns["picture"][number] = {"bytes": None, "path": str(file)}
    made = datasets.Dataset.from_dict(columns, features)
    made.save_to_disk(tmp_path / "pets")
    name, cache = f"hf:{tmp_path / 'pets'}", tmp_path / "cache"
    first = hugging_face.load(name, cache=cache)
    assert len(first.train_images) == 8
    monkeypatch.setattr(picture_sets, "_decode", None)
    again = hugging_face.load(name, cache=cache)
    np.testing.assert_array_equal(again.train_images, first.train_images)


def test_refused(datasets, tmp_path):
    with pytest.raises(ValueError, match="none must be a folder that datasets saved"):
        hugging_face.load(f"hf:{tmp_path / 'none'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty cannot be read by datasets"):
        hugging_face.load(f"hf:{tmp_path / 'empty'}")
    _, columns = _rows(4)
    label = datasets.ClassLabel(names=["cat", "dog"])
    bare = datasets.Dataset.from_dict({"kind": columns["kind"]})
    bare.save_to_disk(tmp_path / "bare")
    with pytest.raises(ValueError, match="must have a column of images and one named"):
        hugging_face.load(f"hf:{tmp_path / 'bare'}")
    made = datasets.Dataset.from_dict(columns, _features(datasets, label))
    datasets.DatasetDict({"other": made}).save_to_disk(tmp_path / "other")
    with pytest.raises(ValueError, match="must have a split train, got other"):
        hugging_face.load(f"hf:{tmp_path / 'other'}")
    unlabelled = {**columns, "kind": [0, 1, -1, 0]}
    made = datasets.Dataset.from_dict(unlabelled, _features(datasets, label))
    splits = datasets.DatasetDict({"train": made, "test": made})
    splits.save_to_disk(tmp_path / "unlabelled")
    with pytest.raises(ValueError, match=r"must be in \[0, 2\), got -1"):
        hugging_face.load(f"hf:{tmp_path / 'unlabelled'}", cache=tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")


def test_broken_images_are_named(datasets, tmp_path):
    _, columns = _rows(6)
    columns["picture"][3]["bytes"] = b"no picture"
    features = _features(datasets, datasets.ClassLabel(names=["cat", "dog"]))
    datasets.Dataset.from_dict(columns, features).save_to_disk(tmp_path / "pets")
    name = f"hf:{tmp_path / 'pets'}"
    with pytest.raises(ValueError, match=r"1 of 6 .*image 3 of train \(its format"):
        hugging_face.load(name, cache=tmp_path / "cache")
    options = pictures.Options(skip_broken=True)
    data = hugging_face.load(name, options, tmp_path / "cache")
    assert len(data.train_images) + len(data.test_images) == 5
