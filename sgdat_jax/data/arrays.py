"""Data sets of NumPy's own files."""

import os
import pathlib
from typing import Any

import numpy as np

from sgdat_jax import files
from sgdat_jax import names as names_lib
from sgdat_jax.data import dataset

_CLASS_NAMES = "class_names.txt"
FIELDS = ("train_images", "train_labels", "test_images", "test_labels")


def load(folder: str | pathlib.Path) -> dataset.Dataset:
    """Returns the data set of a folder of arrays; images stay on disk until used.

    The folder holds ``train_images.npy`` and ``test_images.npy`` (uint8, of shape (n,
    height, width, channels)), ``train_labels.npy`` and ``test_labels.npy`` (integers
    from 0, of shape (n,)), and perhaps ``class_names.txt`` with a name on each line;
    without it classes are named by their numbers.

    Raises:
      ValueError: if a file is missing, damaged or does not fit the others; the message
        names it. Pickled objects are refused.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from sgdat_jax.data import arrays
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     for part in ("train", "test"):
      ...         images = np.zeros((2, 8, 8, 3), np.uint8)
      ...         np.save(f"{folder}/{part}_images.npy", images)
      ...         np.save(f"{folder}/{part}_labels.npy", [0, 1])
      ...     data = arrays.load(folder)
      >>> data.input_shape, data.class_names
      ((8, 8, 3), ('0', '1'))
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder of arrays or of photos.")
    fields: dict[str, Any] = {name: read(folder / f"{name}.npy") for name in FIELDS}
    data = dataset.Dataset(
        name=folder.resolve().name, **fields, class_names=_class_names(folder, fields)
    )
    return dataset.checked(data, lambda field: str(folder / f"{field}.npy"))


def read(path: pathlib.Path) -> np.ndarray:
    """Returns the array of a ``.npy`` file, which stays on disk until used.

    Raises:
      ValueError: if it is missing, damaged or holds pickled objects.
    """
    try:
        files.open_regular(path).close()  # not a pipe, which would wait for ever
        # Unlike np.load, this takes neither pickles nor archives for an array.
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise ValueError(f"{path} is missing.") from None
    except files.DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is not a whole .npy file: {reason}") from error
    return array


def _class_names(
    folder: pathlib.Path, fields: dict[str, np.ndarray]
) -> tuple[str, ...]:
    path = folder / _CLASS_NAMES
    if os.path.lexists(path):
        names = tuple(files.read_text(path).splitlines())
        if not all(names) or not names or len(set(names)) != len(names):
            raise ValueError(f"{path}: must have a name of its own on each line.")
        try:
            names_lib.check_text(names)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return names
    labels = fields["train_labels"]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        return ()  # they are refused in any case
    # A label beyond the number of images leaves some class empty, whatever is meant.
    highest = min(int(labels.max(initial=0)), len(labels))
    return tuple(map(str, range(highest + 1)))
