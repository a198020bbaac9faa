import numpy as np
import pytest

from sgdat_jax.data import sources


@pytest.fixture(scope="module")
def digits():
    return sources.digits()


def _rows(*parts):
    """Each image with its label as a row of bytes."""
    return [
        (image.tobytes(), int(label))
        for images, labels in parts
        for image, label in zip(images, labels, strict=True)
    ]


def test_shapes_and_dtypes(digits):
    assert digits.name == "digits"
    assert digits.train_images.shape == (1437, 8, 8, 1)
    assert digits.test_images.shape == (360, 8, 8, 1)
    assert digits.train_labels.shape == (1437,)
    assert digits.test_labels.shape == (360,)
    assert digits.train_images.dtype == digits.test_images.dtype == np.uint8
    assert digits.train_labels.dtype == digits.test_labels.dtype == np.int32
    assert digits.input_shape == (8, 8, 1)
    assert digits.num_classes == 10
    assert digits.class_names == tuple("0123456789")


def test_grey_levels_fill_the_range(digits):
    levels = np.unique(digits.train_images)
    np.testing.assert_array_equal(levels, np.rint(np.arange(17) * 255 / 16))


def test_split_is_fixed(digits):
    again = sources.digits()
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(digits, name), getattr(again, name))
    # The split is part of every result; this pins it across releases of scikit-learn.
    assert digits.test_labels[:10].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3]


def test_parts_are_disjoint_and_complete(digits):
    from sklearn import datasets  # a second, which collecting need not take

    bunch = datasets.load_digits()
    whole = np.rint(bunch.images * 255 / 16).astype(np.uint8)
    train = _rows((digits.train_images, digits.train_labels))
    test = _rows((digits.test_images, digits.test_labels))
    assert sorted(train + test) == sorted(_rows((whole, bunch.target)))
    assert len(set(train + test)) == 1797  # so no image can be in both
    assert not set(train) & set(test)


def test_split_is_stratified(digits):
    in_train = np.bincount(digits.train_labels, minlength=10)
    in_test = np.bincount(digits.test_labels, minlength=10)
    share = (in_train + in_test) * 360 / 1797
    assert np.all(np.abs(in_test - share) <= 1)
    assert np.all(in_test > 0)
    assert np.all(in_train > 0)
