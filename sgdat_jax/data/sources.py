"""Where images come from."""

import functools
import os
import pathlib

import numpy as np

from sgdat_jax import names
from sgdat_jax.data import arrays, dataset, pictures
from sgdat_jax.data.photo_sets import hugging_face, photos
from sgdat_jax.data.prepared_sets import prepared, tiny_imagenet

Dataset = dataset.Dataset

# README.md beside it says how it was made.
_DIGITS = pathlib.Path(__file__).with_name("digits.npz")


def load(
    name: str,
    data_dir: str | pathlib.Path | None = None,
    options: pictures.Options | None = None,
) -> Dataset:
    """Returns a data set by its name.

    Args:
      name: ``digits``; ``cifar10``, ``cifar100``, ``mnist``, ``tiny_imagenet`` or
        ``tfds:<name>[:<config>]``, prepared by tensorflow-datasets; the path of a
        folder of arrays or of photos, with a slash in it, as for `arrays.load` and
        `photos.load`; ``hf:<path>``, as for `hugging_face.load`; or a key of
        `DATASETS`.
      data_dir: folder of sets that tensorflow-datasets prepared; None: its own. For
        ``tiny_imagenet`` it may be the published zip or folder itself. For pictures:
        folder of decoded ones; None: the user's cache.
      options: how pictures become images; for sets of pictures alone.

    Raises:
      ValueError: if there is no such set, or if it is not prepared, damaged or not
        one of labelled images of one size, or takes no options.

    Example:
      >>> from sgdat_jax.data import sources
      >>> sources.load("digits").input_shape
      (8, 8, 1)
    """
    check_name(name)
    options = options or pictures.Options()
    if name.startswith(hugging_face.PREFIX):
        return hugging_face.load(name, options, data_dir)
    if "/" in name and _is_of_photos(name):
        return photos.load(name, options, data_dir)
    if "/" in name and not os.path.isdir(name):
        return arrays.load(name)  # which refuses it, whatever the options
    for option, value in options.given().items():
        raise ValueError(
            f"{option} is for photos, which {name} does not hold, got {value}."
        )
    if "/" in name:
        return arrays.load(name)
    if name.startswith(prepared.PREFIX):
        return prepared.load(name, data_dir)
    data: Dataset = DATASETS[name](data_dir)
    return dataset.checked(data, lambda field: f"{name}: {field}")


def _is_of_photos(folder: str) -> bool:
    has_arrays = any(
        os.path.lexists(os.path.join(folder, f"{field}.npy")) for field in arrays.FIELDS
    )
    return os.path.isdir(folder) and not has_arrays


def check_name(name: str) -> None:
    """Raises ValueError if a name cannot be a data set's; nothing is loaded."""
    if "/" in name or name.startswith((prepared.PREFIX, hugging_face.PREFIX)):
        return
    try:
        names.check("dataset", DATASETS, name)
    except ValueError as error:
        hint = ""
        if os.path.isdir(name):
            hint = f" For the folder of that name write {name}/."
        raise ValueError(
            f"{str(error)[:-2]}, {prepared.PREFIX}NAME[:CONFIG], "
            f"{hugging_face.PREFIX}PATH, or a folder with a slash in its path).{hint}"
        ) from None


def digits() -> Dataset:
    """Returns scikit-learn's 1,797 handwritten digits, 8x8 grey images of 10 classes.

    They are part of this library, so nothing is downloaded. The split is fixed: 1,437
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
    with np.load(_DIGITS, allow_pickle=False) as parts:
        return Dataset(name="digits", class_names=tuple("0123456789"), **parts)


def _tiny_imagenet(data_dir: str | pathlib.Path | None) -> Dataset:
    if data_dir and tiny_imagenet.is_raw(data_dir):
        return tiny_imagenet.load(data_dir)
    return prepared.load(tiny_imagenet.NAME, data_dir)


# Functions that load a data set, of the folder of data that the user names, or None.
DATASETS = names.Table(
    "datasets",
    {
        "digits": lambda data_dir: digits(),
        **{
            name: functools.partial(prepared.load, name)
            for name in ("cifar10", "cifar100", "mnist")
        },
        tiny_imagenet.NAME: _tiny_imagenet,
    },
)
