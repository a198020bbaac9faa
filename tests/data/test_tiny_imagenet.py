import shutil

import numpy as np
import pytest

import small_sets
from sgdat_jax.data import sources
from sgdat_jax.data.prepared_sets import tiny_imagenet


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return small_sets.tiny_imagenet(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def archive(published):
    return small_sets.zipped(published)


def _same(left, right):
    return (left.name, left.class_names) == (right.name, right.class_names) and all(
        a.dtype == b.dtype and np.array_equal(a, b)
        for a, b in zip(left[1:5], right[1:5], strict=True)
    )


def test_images_classes_and_labels(published):
    data = sources.load("tiny_imagenet", published)
    assert data.name == "tiny_imagenet"
    # In the order of the ids n01, n02, n03; the same word twice is told apart.
    assert data.class_names == ("cat (n01)", "dog", "cat (n03)")
    assert data.train_images.shape == (9, 64, 64, 3)
    assert data.test_images.shape == (3, 64, 64, 3)
    np.testing.assert_array_equal(data.train_labels, [0, 0, 0, 1, 1, 1, 2, 2, 2])
    # In the order of the annotations: n02, n01, n03.
    np.testing.assert_array_equal(data.test_labels, [1, 0, 2])
    for number, image in enumerate(data.test_images):
        expected = small_sets.pixels_of(small_sets.image_file(100 + number))
        np.testing.assert_array_equal(image, expected)
    grey = data.train_images[3]  # the first of n02
    np.testing.assert_array_equal(
        grey, small_sets.pixels_of(small_sets.image_file(0, channels=1))
    )
    assert (grey == grey[..., :1]).all()


def test_folder_above_and_zip_are_the_same(published, archive):
    data = tiny_imagenet.load(published)
    assert _same(tiny_imagenet.load(published.parent), data)
    assert _same(tiny_imagenet.load(archive), data)


_TRAIN = "train/n02/images/n02_1.JPEG"


def _truncated(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("wnids.txt", None, "holds no tiny-imagenet-200"),
        ("wnids.txt", lambda c: c + b"\nn02", "different ids"),
        ("wnids.txt", lambda c: c + b"\nn04", "none of class 3 (n04)"),
        ("wnids.txt", lambda c: c[3:], "/train/n02/images/n02_0.JPEG is of no class"),
        ("wnids.txt", lambda c: b"\xff", "wnids.txt is not text"),
        ("words.txt", None, "words.txt is missing"),
        ("val/val_annotations.txt", None, "val_annotations.txt is missing"),
        ("val/val_annotations.txt", lambda c: b"", "no images to test"),
        ("val/val_annotations.txt", lambda c: c + b"x", "line 4 must have"),
        ("val/images/val_1.JPEG", None, "val/images/val_1.JPEG is missing"),
        (_TRAIN, lambda c: b"", f"{_TRAIN} is not a whole image"),
        (_TRAIN, _truncated, f"{_TRAIN} is not a whole image"),
        (_TRAIN, lambda c: b"text", f"{_TRAIN} is not a whole image"),
        (
            _TRAIN,
            lambda c: small_sets.image_file(1, size=32),
            f"{_TRAIN}: images must have one shape, got (32, 32, 3)",
        ),
    ],
)
def test_damaged_set(published, tmp_path, name, change, reason):
    root = shutil.copytree(published, tmp_path / "copy")
    path = root / name
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError) as caught:
        tiny_imagenet.load(root)
    assert reason in str(caught.value)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def _without_end(content):
    return content[:-100]


def _with_a_wrong_byte(content):
    place = content.index(b"n02_1.JPEG") + 60
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: b"", "is not a whole zip file"),
        (lambda content: b"text", "is not a whole zip file"),
        (_without_end, "is not a whole zip file"),
        (_with_a_wrong_byte, "n02_1.JPEG is damaged"),
    ],
)
def test_damaged_zip(archive, tmp_path, change, reason):
    path = tmp_path / "set.zip"
    path.write_bytes(change(archive.read_bytes()))
    with pytest.raises(ValueError) as caught:
        sources.load("tiny_imagenet", path)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)


def test_missing_zip(tmp_path):
    with pytest.raises(ValueError, match=r"none\.zip is missing"):
        tiny_imagenet.load(tmp_path / "none.zip")
