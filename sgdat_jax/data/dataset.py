"""Data sets, and the checks that they must pass."""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from sgdat_jax import names
from sgdat_jax.data import pictures

_PIXELS_AT_ONCE = 2**24  # bounds the memory of sums over images on disk
_PARTS = 64  # of so many pixels each, at most, go into a digest


class Dataset(NamedTuple):
    """A labelled set of images, split into a training and a test part.

    The images may be memory-mapped files.
    """

    name: str
    train_images: np.ndarray  # (n, height, width, channels), uint8
    train_labels: np.ndarray  # (n,), int32
    test_images: np.ndarray  # (m, height, width, channels), uint8
    test_labels: np.ndarray  # (m,), int32
    class_names: tuple[str, ...]
    options: pictures.Options | None = None  # as chosen, if it is made of pictures
    notes: tuple[str, ...] = ()  # what users should hear of how it was made
    valid_images: np.ndarray | None = None  # as `hold_out` takes them from training
    valid_labels: np.ndarray | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        height, width, channels = self.train_images.shape[1:]
        return height, width, channels

    @property
    def resize(self) -> str | None:
        """How pictures of other sizes became images, if the set is made of pictures."""
        return None if self.options is None else self.options.resize

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def checked(data: Dataset, place: Callable[[str], str]) -> Dataset:
    """Returns a data set of any source, if it is sound, with its labels as int32.

    Args:
      data: labels may be integers of any dtype.
      place: from the name of a field, such as ``"train_images"``, to the file that
        errors about it name.

    Raises:
      ValueError: if images are not uint8 of one shape, labels are not integers that
        number the classes, lengths differ, a class has no training image, or the name
        of one has control characters.

    Example:
      >>> import numpy as np
      >>> from sgdat_jax.data import dataset
      >>> images, labels = np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1])
      >>> data = dataset.Dataset("my", images, labels, images, labels, ("cat", "dog"))
      >>> dataset.checked(data, lambda field: f"my/{field}.npy").train_labels.dtype
      dtype('int32')
      >>> data = data._replace(test_labels=np.array([0, 2]))
      >>> dataset.checked(data, lambda field: f"my/{field}.npy")
      Traceback (most recent call last):
      ...
      ValueError: my/test_labels.npy: labels must be in [0, 2), got 2 at index 1.
    """
    names.check_text(data.class_names)
    for part in ("train", "test"):
        images, labels = f"{part}_images", f"{part}_labels"
        _check_images(place(images), getattr(data, images))
        _check_labels(place(labels), getattr(data, labels), data.num_classes)
        counts = len(getattr(data, images)), len(getattr(data, labels))
        if counts[0] != counts[1]:
            raise ValueError(
                f"{place(labels)}: must have a label for each image, got {counts[1]} "
                f"labels for {counts[0]} images."
            )
    if data.test_images.shape[1:] != data.train_images.shape[1:]:
        raise ValueError(
            f"{place('test_images')}: images must have the shape of the training "
            f"images, {data.train_images.shape[1:]}, got {data.test_images.shape[1:]}."
        )
    present = np.isin(np.arange(data.num_classes), data.train_labels)
    if not present.all():
        empty = int(np.argmin(present))
        raise ValueError(
            f"{place('train_labels')}: every class must have a training image, got "
            f"none of class {empty} ({data.class_names[empty]})."
        )
    return data._replace(
        train_labels=np.asarray(data.train_labels, np.int32),
        test_labels=np.asarray(data.test_labels, np.int32),
    )


def hold_out(data: Dataset, share: float) -> Dataset:
    """Returns a data set with a validation part, taken from its training part.

    It is the same images for the same set and share: of each class, drawn by a fixed
    seed. Both parts are copies in memory.

    Args:
      data: a set without a validation part.
      share: of the training images of each class, in [0, 1); at least one image is
        held out and one is left; 0: the set stays as it is.

    Raises:
      ValueError: if a class has a single training image.

    Example:
      >>> from sgdat_jax.data import dataset, sources
      >>> data = dataset.hold_out(sources.digits(), 0.1)
      >>> len(data.train_images), len(data.valid_images)
      (1295, 142)
    """
    if not share:
        return data
    held = np.zeros(len(data.train_labels), bool)
    generator = np.random.default_rng(0)
    for label in range(data.num_classes):
        places = np.flatnonzero(data.train_labels == label)
        if len(places) < 2:
            raise ValueError(
                "validation_share needs two training images of each class, got one of "
                f"class {label} ({data.class_names[label]})."
            )
        number = min(max(1, round(share * len(places))), len(places) - 1)
        held[generator.permutation(places)[:number]] = True
    return data._replace(
        train_images=data.train_images[~held],
        train_labels=data.train_labels[~held],
        valid_images=data.train_images[held],
        valid_labels=data.train_labels[held],
    )


def fingerprint(data: Dataset) -> dict[str, str]:
    """Returns a digest of images, labels and names of classes.

    Images go through the hash a part at a time, at a gigabyte per second or so; of more
    than a gigabyte, parts that are spread evenly.

    Example:
      >>> import numpy as np
      >>> from sgdat_jax.data import dataset
      >>> images, labels = np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1], np.int32)
      >>> data = dataset.Dataset("my", images, labels, images, labels, ("cat", "dog"))
      >>> dataset.fingerprint(data)["train_labels"]
      'b92464a61d4126d4'
    """
    arrays = {name: getattr(data, name) for name in data._fields[1:5]}
    arrays["class_names"] = np.array(data.class_names)
    return {name: _digest(array) for name, array in arrays.items()}


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    step = max(1, _PIXELS_AT_ONCE // max(1, array[:1].size))
    starts: Sequence[int] = range(0, len(array), step)
    if len(starts) > _PARTS:
        starts = [starts[i * (len(starts) - 1) // (_PARTS - 1)] for i in range(_PARTS)]
    for start in starts:
        digest.update(np.ascontiguousarray(array[start : start + step]).tobytes())
    return digest.hexdigest()[:16]


def channel_statistics(
    images: np.ndarray,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel, of images in [0, 1].

    Sums are of integers, so they are exact, over a few images at a time.

    Args:
      images: shape (n, height, width, channels), uint8.

    Example:
      >>> import numpy as np
      >>> from sgdat_jax.data import dataset
      >>> dataset.channel_statistics(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1))
      ((0.5,), (0.5,))
    """
    size, channels = images[0].size, images.shape[-1]
    sums, squares = np.zeros((2, size), np.uint64)
    step = max(1, _PIXELS_AT_ONCE // size)
    for start in range(0, len(images), step):
        flat = images[start : start + step].reshape(-1, size)
        sums += flat.sum(0, dtype=np.uint64)
        squares += np.square(flat, dtype=np.uint16).sum(0, dtype=np.uint64)
    means, stds = [], []
    count = len(images) * size // channels
    for channel in range(channels):
        total = int(sums[channel::channels].sum())
        square = int(squares[channel::channels].sum())
        means.append(total / (255 * count))
        stds.append((count * square - total**2) ** 0.5 / (255 * count))
    return tuple(means), tuple(stds)


def _check_images(place: str, images: np.ndarray) -> None:
    if images.dtype != np.uint8:
        raise ValueError(f"{place}: images must be uint8, got {images.dtype}.")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"{place}: must have the shape (n, height, width, channels) without a 0, "
            f"got {images.shape}."
        )


def _check_labels(place: str, labels: np.ndarray, num_classes: int) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{place}: labels must be integers of shape (n,), got {labels.dtype} of "
            f"shape {labels.shape}."
        )
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        first = int(np.argmax(outside))
        raise ValueError(
            f"{place}: labels must be in [0, {num_classes}), got {labels[first]} at "
            f"index {first}."
        )
