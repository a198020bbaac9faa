"""Networks as compiled functions of their inputs."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from sgdat_jax import cpu


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
        if isinstance(inputs, np.ndarray):
            inputs = _of_numbers(inputs)
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


def _of_numbers(array: np.ndarray) -> np.ndarray:
    """Returns an array as JAX takes it: numbers, their bytes in this machine's order.

    Raises:
      ValueError: if it holds no numbers.
    """
    if array.dtype.kind in "OSUMm" or array.dtype.names:
        raise ValueError(f"`inputs` must be an array of numbers, got {array.dtype}.")
    if array.dtype.isnative:
        return array
    return array.astype(array.dtype.newbyteorder("="))


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
    return Function(*parts(model, apply, list_dtype))


def parts(
    model: nnx.Module,
    apply: Callable[[Any, jax.Array], jax.Array],
    list_dtype: jax.typing.DTypeLike | None,
) -> tuple[
    Callable[[list[jax.Array], jax.Array], jax.Array],
    list[jax.Array],
    Mapping[str, str],
    jax.typing.DTypeLike | None,
]:
    """Returns what `Function` is made of; the arguments are those of `to_function`."""
    graph, state = nnx.split(model)
    leaves, tree = jax.tree.flatten(state)

    def run(leaves: list[jax.Array], inputs: jax.Array) -> jax.Array:
        return apply(nnx.merge(graph, jax.tree.unflatten(tree, leaves)), inputs)

    # With these, convolutions of int8 are slow on CPUs.
    has_int8 = any(leaf.dtype == jnp.int8 for leaf in leaves)
    options = {} if has_int8 else cpu.prediction_options()
    return run, leaves, options, list_dtype
