"""Networks as compiled functions of their inputs."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from sgdat_jax import cpu
from sgdat_jax.data import augment
from sgdat_jax.inference import folding, weight_files


class Function:
    """A compiled function of inputs, which holds the variables of its network.

    It takes part in JAX's transformations and in `jax.export.export` as a function of
    `jax.jit` does. Called by itself it is compiled with options of its own, which JAX
    takes at the top level alone; within another program that program's hold.
    Nested lists become arrays.

    Attributes:
      plain: the same function, not compiled.
    """

    def __init__(
        self,
        run: Callable[[list[jax.Array], jax.Array], jax.Array],
        leaves: list[jax.Array],
        options: Mapping[str, str],
        list_dtype: jax.typing.DTypeLike | None = None,
    ):
        leaves = jax.device_put(leaves)
        self.plain: Callable[[jax.Array], jax.Array] = functools.partial(run, leaves)
        alone = jax.jit(run, compiler_options=dict(options))
        self._alone = functools.partial(alone, leaves)
        self._within = jax.jit(self.plain)
        self._list_dtype = list_dtype

    def __call__(self, inputs: ArrayLike) -> jax.Array:
        """Computes the outputs; compiles for each new batch size."""
        if isinstance(inputs, jax.core.Tracer):
            return self._within(inputs)
        if not hasattr(inputs, "dtype"):
            inputs = _as_array(inputs, self._list_dtype)
        return self._alone(inputs)

    def trace(self, inputs: Any) -> jax.stages.Traced:
        """Traces for inputs, or for their shape, which may be symbolic."""
        return self._within.trace(inputs)

    def lower(self, inputs: Any) -> jax.stages.Lowered:
        """Lowers for inputs or for their shape."""
        return self._within.lower(inputs)

    def eval_shape(self, inputs: Any) -> Any:
        """Returns the shape and dtype of the outputs."""
        return self._within.eval_shape(inputs)


def _as_array(inputs: Any, dtype: jax.typing.DTypeLike | None) -> np.ndarray:
    try:
        return np.asarray(inputs, dtype)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(
            f"`inputs` must be an array or nested lists: {error}"
        ) from None


def load(file: str | pathlib.Path, dtype: str = "bits") -> Function:
    """Returns the trained network of a file of weights as a compiled function.

    The function maps uint8 images ``(batch, height, width, channels)``, which it
    normalizes as in training, to float32 logits ``(batch, classes)``. It compiles for
    each new batch size, and raises ValueError for images of another shape or dtype. It
    predicts what ``sgdat-jax evaluate`` counts; on CPUs, int8 leaves convolutions to
    another library, which may round the real-valued ones otherwise.

    Args:
      file: ``best.npz`` or ``last.npz`` of a run.
      dtype: of the binary products, see `fold`.

    Raises:
      ValueError: if the file is not a whole file of weights, if its network cannot be
        built, or if `dtype` is unknown.

    Example:
      >>> import numpy as np
      >>> from sgdat_jax import inference
      >>> def predict(file: str, images: np.ndarray) -> np.ndarray:
      ...     classify = inference.load(file)
      ...     return np.argmax(classify(images), -1)
    """
    path = pathlib.Path(file)
    about = weight_files.read_about(path)
    return of_images(folding.fold(weight_files.read_model(path), dtype), about)


def of_images(model: nnx.Module, about: weight_files.About) -> Function:
    """Returns a network as the function of images that `load` returns.

    Args:
      model: for inference, such as `fold` returns.
      about: shape and normalization of the images.
    """
    sizes = ", ".join(map(str, about.spec.input_shape))

    def classify(model: Any, images: jax.Array) -> jax.Array:
        if images.dtype != jnp.uint8 or images.shape[1:] != about.spec.input_shape:
            raise ValueError(
                f"`images` must be uint8 of shape (batch, {sizes}), got {images.dtype} "
                f"of shape {images.shape}."
            )
        return model(augment.normalize(images, about.mean, about.std))

    return to_function(model, classify, np.uint8)


def to_function(
    model: nnx.Module,
    apply: Callable[[Any, jax.Array], jax.Array] = lambda model, inputs: model(inputs),
    list_dtype: jax.typing.DTypeLike | None = None,
) -> Function:
    """Returns a network as a compiled function of its inputs alone.

    The network's variables stay on the device, and later changes of them go unnoticed.
    A call costs less than one of `flax.nnx.jit`, which takes the network apart each
    time.

    Args:
      model: any network; `fold` of a trained one.
      apply: what to do with the network and the inputs.
      list_dtype: what inputs become that are nested lists; None: NumPy's choice.

    Example:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> import sgdat_jax as sj
      >>> from sgdat_jax import inference
      >>> build = nnx.jit(sj.models.DigitsNet)
      >>> network = inference.to_function(inference.fold(build(rngs=nnx.Rngs(0))))
      >>> network(jnp.zeros((2, 8, 8, 1))).shape
      (2, 10)
    """
    graph, state = nnx.split(model)
    leaves, tree = jax.tree.flatten(state)

    def run(leaves: list[jax.Array], inputs: jax.Array) -> jax.Array:
        return apply(nnx.merge(graph, jax.tree.unflatten(tree, leaves)), inputs)

    # With these, convolutions of int8 are slow on CPUs.
    has_int8 = any(leaf.dtype == jnp.int8 for leaf in leaves)
    options = {} if has_int8 else cpu.prediction_options()
    return Function(run, leaves, options, list_dtype)
