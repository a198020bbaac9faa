"""What is exported: a function of inputs, and what is known of it."""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sgdat_jax.inference import classifier, function, weight_files

Run = Callable[[np.ndarray], np.ndarray]  # from a batch of inputs to logits


class Options(NamedTuple):
    """What can be chosen; None: the default of the format."""

    target: str | None = None  # target triple
    cpu: str | None = None  # processor of the target
    batch_size: int | None = None


class Network(NamedTuple):
    """A function to export, and the inputs it takes."""

    function: function.Function
    shape: tuple[int, ...]  # of one input
    dtype: np.dtype
    file: pathlib.Path | None = None  # of weights, if it is from one
    products: str = "bits"  # dtype of the binary products, if it is from a file

    def inputs(self, batch_size: int) -> jax.ShapeDtypeStruct:
        """Returns what a batch is like."""
        return jax.ShapeDtypeStruct((batch_size, *self.shape), self.dtype)

    def any_inputs(self) -> jax.ShapeDtypeStruct:
        """Returns what a batch of any size is like."""
        sizes = ", ".join(map(str, ("batch", *self.shape)))
        return jax.ShapeDtypeStruct(jax.export.symbolic_shape(sizes), self.dtype)

    def with_products(self, dtype: str) -> "Network":
        """Returns the network with binary products in a dtype, if it is from a file."""
        if self.file is None:
            return self
        loaded = classifier.load(self.file, dtype)
        return self._replace(function=loaded, products=dtype)

    def random_inputs(self, count: int) -> np.ndarray:
        """Returns inputs by chance, the same each time."""
        rng = np.random.default_rng(0)
        shape = (count, *self.shape)
        if np.issubdtype(self.dtype, np.integer):
            return rng.integers(0, np.iinfo(self.dtype).max + 1, shape, self.dtype)
        return rng.normal(size=shape).astype(self.dtype)

    def describe(self) -> dict[str, Any]:
        """Returns what a user of an exported file needs to know, fit for JSON."""
        about: dict[str, Any] = {
            "input": {"shape": ["batch", *self.shape], "dtype": self.dtype.name},
            "output": "logits, float32 of shape (batch, classes)",
        }
        if self.file is None:
            return about
        known = weight_files.read_about(self.file)
        return about | {
            "class_names": list(known.class_names) or None,
            "network": known.spec and dataclasses.asdict(known.spec),
            "normalization": {
                "mean": known.mean,
                "std": known.std,
                "of": "pixels divided by 255, within the function",
            },
        }


def open_network(
    source: str | pathlib.Path | function.Function,
    input_shape: tuple[int, ...] | None,
    input_dtype: jax.typing.DTypeLike,
) -> Network:
    """Returns what a user wants to export.

    Raises:
      ValueError: if a file cannot be read, or nothing tells the inputs of a function.
    """
    if isinstance(source, classifier.Classifier) and input_shape is None:
        return Network(source, source.input_shape, np.dtype(np.uint8))
    if isinstance(source, function.Function):
        if input_shape is None:
            raise ValueError("`input_shape` must be given with a function, got None.")
        return Network(source, tuple(input_shape), jnp.dtype(input_dtype))
    file = classifier.find_file(source)
    shape = weight_files.read_about(file).input_shape
    return Network(classifier.load(file), shape, np.dtype(np.uint8), file)


def require(module: str, package: str, extra: str = "export") -> Any:
    """Imports a module of another package.

    Raises:
      ValueError: if it is not installed; the message says how to.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        alone = " in an environment without the command" if extra == "litert" else ""
        raise ValueError(
            f"this needs {package} ({error}): pip install 'sgdat-jax[{extra}]'{alone}."
        ) from None


def by_batches(run: Run, size: int) -> Run:
    """Returns the function of any number of inputs of one that takes `size` at once."""

    def classify(inputs: np.ndarray) -> np.ndarray:
        batches = [inputs[i : i + size] for i in range(0, len(inputs), size)]
        short = size - len(batches[-1])
        batches[-1] = np.concatenate([batches[-1], inputs[:1].repeat(short, 0)])
        return np.concatenate([run(batch) for batch in batches])[: len(inputs)]

    return classify
