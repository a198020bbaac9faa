"""Trained networks that classify images, from files of weights."""

import concurrent.futures
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sgdat_jax import files
from sgdat_jax.data import augment, pictures
from sgdat_jax.inference import folding, function, weight_files

# Networks that are installed with the library, by name.
_INSTALLED = {"digits": pathlib.Path(__file__).with_name("digits.npz")}
_OF_RUN = ("best.npz", "last.npz")
_AT_ONCE = 256  # images in a batch, at most


class Prediction(NamedTuple):
    """The predictions of a network for n images."""

    labels: np.ndarray  # (n,), int: the most likely class of each
    names: tuple[str, ...]  # of these classes
    probabilities: np.ndarray  # (n, classes), float32: each row sums to 1


class Classifier(function.Function):
    """A trained network as a compiled function, with the names of its classes.

    Attributes:
      classes: names of the classes, by label.
      input_shape: height, width and channels of the images that the function takes.
      resize: how `predict` makes images of pictures of other sizes: as in training, or
        ``"crop"``; see `sgdat_jax.data.pictures.RESIZES`.

    Example:
      >>> from sgdat_jax import inference
      >>> classify = inference.load("digits")
      >>> classify.input_shape, classify.classes[:3]
      ((8, 8, 1), ('0', '1', '2'))
    """

    def __init__(self, about: weight_files.About, *parts: Any):
        super().__init__(*parts)
        numbers = tuple(map(str, range(about.num_classes)))
        self.classes = about.class_names or numbers
        height, width, channels = about.input_shape
        self.input_shape = height, width, channels
        self.resize = about.resize or "crop"

    def predict(self, images: Any) -> Prediction:
        """Returns labels, names and probabilities of images.

        Pictures of other sizes, and files of pictures, are read as in training.

        Args:
          images: uint8 array of shape (n, height, width, channels) or, grey, (n,
            height, width); or a sequence of such images, of Pillow's, or of paths of
            pictures; or one of them, of an array (height, width, 1 or 3).

        Raises:
          ValueError: if an image cannot be used; the message names it.

        Example:
          >>> import numpy as np
          >>> from sgdat_jax import inference
          >>> classify = inference.load("digits")
          >>> found = classify.predict(np.zeros((2, 28, 28), np.uint8))
          >>> found.labels.shape, found.probabilities.shape
          ((2,), (2, 10))
        """
        if isinstance(images, str | os.PathLike) or not hasattr(images, "__len__"):
            images = [images]
        elif pictures.is_one(images):
            images = images[np.newaxis]
        size = min(_AT_ONCE, 1 << max(len(images) - 1, 0).bit_length())
        probabilities = [np.zeros((0, len(self.classes)), np.float32)]
        for start in range(0, len(images), size):
            batch = self._fit(images[start : start + size], start)
            # Batches of few sizes: each is compiled for.
            whole = np.zeros((size, *self.input_shape), np.uint8)
            whole[: len(batch)] = batch
            logits = np.asarray(self(whole))[: len(batch)]
            probabilities.append(_softmax(logits))
        rows = np.concatenate(probabilities)
        labels = rows.argmax(-1)
        return Prediction(labels, tuple(self.classes[label] for label in labels), rows)

    def _fit(self, images: Any, start: int) -> Sequence[np.ndarray]:
        """Returns images of the network's shape; errors count from a start."""
        shape = getattr(images, "shape", (0,))[1:]
        if shape == self.input_shape and images.dtype == np.uint8:
            return images
        pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
        with pictures.quiet(), pool:
            numbers = range(start, start + len(images))
            return list(pool.map(self._fit_one, images, numbers))

    def _fit_one(self, image: Any, number: int) -> np.ndarray:
        place = f"image {number}"
        try:
            if isinstance(image, str | os.PathLike):
                place = os.fspath(image)
                with files.open_regular(image) as file:
                    return pictures.read(file, self.input_shape, self.resize)
            if not hasattr(image, "dtype"):
                image = np.asarray(image, np.uint8)
            return pictures.fit(image, self.input_shape, self.resize)
        except ImportError as error:
            raise ValueError(
                f"{place} needs {error.name}: pip install 'sgdat-jax[train]'"
            ) from None
        except (OSError, OverflowError, TypeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"{place} cannot be used: {reason}") from error


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True), dtype=np.float64)
    return (powers / powers.sum(-1, keepdims=True)).astype(np.float32)


def find(file: str | pathlib.Path) -> pathlib.Path:
    """Returns the file of weights that `load` reads by a path or name.

    Example:
      >>> from sgdat_jax.inference import classifier
      >>> classifier.find("digits").name, classifier.find("other.npz").name
      ('digits.npz', 'other.npz')
    """
    path = pathlib.Path(file)
    for name in _OF_RUN:
        if os.path.isfile(path / name):
            return path / name
    if not os.path.isfile(path) and os.fspath(file) in _INSTALLED:
        return _INSTALLED[os.fspath(file)]
    return path


def find_file(file: str | pathlib.Path) -> pathlib.Path:
    """Returns the file of weights that a path or name stands for, which is there.

    Raises:
      ValueError: if there is none.

    Example:
      >>> from sgdat_jax.inference import classifier
      >>> classifier.find_file("digit")
      Traceback (most recent call last):
        ...
      ValueError: digit must be a file of weights, ... or digits, got no file.
    """
    path = find(file)
    try:
        if files.is_file(path):
            return path
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
    got = "what is not a regular file" if os.path.lexists(path) else "no file"
    if os.path.isdir(path):
        got = "a folder without one"
    raise ValueError(
        f"{path} must be a file of weights, the folder of a run with a best.npz in it, "
        f"or digits, got {got}."
    )


def load(
    file: str | pathlib.Path, dtype: str = "bits", *, model: nnx.Module | None = None
) -> Classifier:
    """Returns the trained network of a file of weights, ready to classify images.

    It is a compiled function with names of classes and a method `Classifier.predict`,
    which takes pictures of any size. The function maps uint8 images ``(batch, height,
    width, channels)``, which it normalizes as in training, to float32 logits ``(batch,
    classes)``. It compiles for each new batch size, and raises ValueError for images of
    another shape or dtype. It predicts what ``sgdat-jax evaluate`` counts; on CPUs,
    int8 leaves convolutions to another library, which may round the real-valued ones
    otherwise.

    Args:
      file: ``best.npz`` or ``last.npz`` of a run, or the folder of a run, for the first
        of them that is there; or ``"digits"``, a network that is installed with the
        library. A file or run of that name comes first.
      dtype: of the binary products, see `fold`.
      model: the network, for files of `training.fit`, which do not tell what builds it;
        it is left as it is. None: it is built as the file says.

    Raises:
      ValueError: if the file is not a whole file of weights, if its network cannot be
        built or is another than `model`, or if `dtype` is unknown.

    Example:
      >>> from sgdat_jax import inference
      >>> from sgdat_jax.data import sources
      >>> images = sources.digits().test_images[:3]
      >>> classify = inference.load("digits")
      >>> classify(images).argmax(-1)
      Array([7, 6, 3], dtype=int32)
      >>> classify.predict(images).names
      ('7', '6', '3')
    """
    path = find_file(file)
    about = weight_files.read_about(path)
    return of_images(folding.fold(weight_files.read_model(path, model), dtype), about)


def load_model(file: str | pathlib.Path) -> nnx.Module:
    """Returns the network of a file of weights, to train on, change or look into.

    It is as its class builds it, in training mode. Use it with `nnx.Optimizer` or
    `training.fit`; to classify images, `load` is faster and normalizes them.

    Args:
      file: as in `load`.

    Raises:
      ValueError: if the file is not a whole file of weights, or its network cannot be
        built.

    Example:
      >>> from sgdat_jax import inference
      >>> model = inference.load_model("digits")
      >>> type(model).__name__, model.conv2.kernel.shape
      ('DigitsNet', (3, 3, 64, 64))
    """
    model = weight_files.read_model(find_file(file))
    nnx.update(model, jax.tree.map(jnp.asarray, nnx.state(model)))
    return model


def of_images(model: Any, about: weight_files.About) -> Classifier:
    """Returns a network as the classifier of images that `load` returns.

    Args:
      model: for inference, such as `fold` returns.
      about: shape and normalization of the images, and names of the classes.
    """
    sizes = ", ".join(map(str, about.input_shape))

    def classify(model: Any, images: jax.Array) -> jax.Array:
        if images.dtype != jnp.uint8 or images.shape[1:] != about.input_shape:
            raise ValueError(
                f"`images` must be uint8 of shape (batch, {sizes}), got {images.dtype} "
                f"of shape {images.shape}."
            )
        return model(augment.normalize(images, about.mean, about.std))

    return Classifier(about, *function.parts(model, classify, np.uint8))
