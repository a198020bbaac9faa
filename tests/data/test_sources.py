import numpy as np
import pytest

from sgdat_jax.data import sources
from tests import guides


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


def test_parts_are_those_of_the_page_that_says_how_they_were_made(
    digits, tmp_path, monkeypatch
):
    made = tmp_path / "sgdat_jax" / "data"
    made.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    guides.run(guides.ROOT / "sgdat_jax" / "data" / "README.md")
    with np.load(made / "digits.npz") as arrays:
        assert len(arrays) == 4
        for name, array in arrays.items():
            np.testing.assert_array_equal(getattr(digits, name), array, strict=True)


def test_parts_are_disjoint(digits):
    train = _rows((digits.train_images, digits.train_labels))
    test = _rows((digits.test_images, digits.test_labels))
    assert len(set(train + test)) == 1797  # so no image can be in both


def test_split_is_stratified(digits):
    in_train = np.bincount(digits.train_labels, minlength=10)
    in_test = np.bincount(digits.test_labels, minlength=10)
    share = (in_train + in_test) * 360 / 1797
    assert np.all(np.abs(in_test - share) <= 1)
    assert np.all(in_test > 0)
    assert np.all(in_train > 0)
