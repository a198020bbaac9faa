"""Where images come from."""

from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """A labelled set of images, split into a training and a test part."""

    name: str
    train_images: np.ndarray  # (n, height, width, channels), uint8
    train_labels: np.ndarray  # (n,), int32
    test_images: np.ndarray  # (m, height, width, channels), uint8
    test_labels: np.ndarray  # (m,), int32
    class_names: tuple[str, ...]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        height, width, channels = self.train_images.shape[1:]
        return height, width, channels

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def digits() -> Dataset:
    """Returns scikit-learn's 1,797 handwritten digits, 8x8 grey images of 10 classes.

    They are part of scikit-learn, so nothing is downloaded. The split is fixed: 1,437
    images to train and 360 to test, each class in the same proportion. Grey levels 0 to
    16 become 0 to 255.

    Example:
      >>> from sgdat_jax.data import sources
      >>> data = sources.digits()
      >>> data.train_images.shape, data.test_images.shape
      ((1437, 8, 8, 1), (360, 8, 8, 1))

    References:
      Alpaydin and Kaynak, Optical recognition of handwritten digits, UCI, 1998,
      https://doi.org/10.24432/C50P49
    """
    from sklearn import datasets, model_selection

    bunch = datasets.load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = bunch.target.astype(np.int32)
    train, test = model_selection.train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0
    )
    return Dataset(
        name="digits",
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        class_names=tuple(map(str, bunch.target_names)),
    )
