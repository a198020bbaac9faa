"""What a binary network is made of: weights, memory and work, by precision."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from sgdat_jax import layers

_DENSE = (nnx.Linear, nnx.Conv, layers.BinaryLinear, layers.BinaryConv)


class LayerSummary(NamedTuple):
    """One layer of a network."""

    name: str  # its path in the network, such as "blocks/0/conv1"
    kind: str  # the name of its class
    output_shape: tuple[int, ...]  # without the batch
    binary_weights: int  # of 1 bit each
    real_weights: int  # of 32 bits each
    # Multiply-accumulates for one example: of a BinaryParam with quantized inputs, the
    # quantizer being taken for one of one bit; and all others.
    binary_macs: int
    real_macs: int

    @property
    def memory_bytes(self) -> int:
        """Bytes of the weights, those of 1 bit packed eight to a byte."""
        return math.ceil(self.binary_weights / 8) + 4 * self.real_weights


def summarize(model: nnx.Module, input_shape: tuple[int, ...]) -> list[LayerSummary]:
    """Returns a summary of each layer with weights that runs, in order of definition.

    Nothing is computed: the network is only traced. Running averages of normalization
    are not weights.

    Args:
      model: a network that maps a batch to a batch.
      input_shape: shape of one example, without the batch.

    Example:
      >>> from flax import nnx
      >>> import sgdat_jax as sj
      >>> model = sj.models.DigitsNet(rngs=nnx.Rngs(0))
      >>> for layer in sj.summarize(model, (8, 8, 1))[2:4]:
      ...     print(layer.name, layer.binary_weights, layer.binary_macs)
      conv2 36864 2359296
      norm2 0 0
    """

    def forward(model: nnx.Module, x: jax.Array) -> Any:
        return nnx.capture(model, nnx.Intermediate, method_outputs=nnx.Intermediate)(x)

    example = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    _, outputs = nnx.eval_shape(forward, model, example)
    calls = {
        path[:-1]: variable
        for path, variable in nnx.to_flat_state(outputs)
        if path[-1] == "__call__"
    }
    return [
        _summarize_layer("/".join(map(str, path)), layer, [*map(_shape, calls[path])])
        for path, layer in _layers(model)
        if path in calls
    ]


def total(summaries: list[LayerSummary]) -> LayerSummary:
    """Returns the sums over the layers of a network, named "total".

    Raises:
      ValueError: if there are no layers.
    """
    if not summaries:
        raise ValueError("`summaries` must hold at least one layer, got none.")
    sums = [sum(column) for column in zip(*(s[3:] for s in summaries), strict=True)]
    return LayerSummary("total", "", summaries[-1].output_shape, *sums)


def _shape(output: Any) -> tuple[int, ...]:
    """Returns the shape of a layer's (first) output, without the batch."""
    return jax.tree.leaves(output)[0].shape[1:]


def _summarize_layer(
    name: str, layer: nnx.Module, output_shapes: list[tuple[int, ...]]
) -> LayerSummary:
    weights = [v for v in vars(layer).values() if isinstance(v, nnx.Param)]
    binary = sum(_size(layer, v) for v in weights if isinstance(v, layers.BinaryParam))
    size = sum(_size(layer, v) for v in weights)
    macs = 0
    if isinstance(layer, _DENSE):
        # Each output position of each call uses every weight of the kernel once.
        positions = sum(math.prod(shape[:-1]) for shape in output_shapes)
        macs = positions * _size(layer, layer.kernel)
    is_binary = binary > 0 and getattr(layer, "input_quantizer", None) is not None
    return LayerSummary(
        name=name,
        kind=type(layer).__name__,
        output_shape=output_shapes[-1],
        binary_weights=binary,
        real_weights=size - binary,
        binary_macs=macs if is_binary else 0,
        real_macs=0 if is_binary else macs,
    )


def _size(layer: Any, variable: nnx.Param) -> int:
    """Returns how many weights a variable of a layer holds, packed or not."""
    if variable.dtype == jnp.uint32:
        return math.prod(layer.kernel_shape)
    return variable.size


def _layers(
    module: nnx.Module, path: tuple[Any, ...] = ()
) -> Iterator[tuple[tuple[Any, ...], nnx.Module]]:
    """Yields the modules that hold parameters of their own, as they were defined."""
    children: list[tuple[Any, Any]] = list(
        enumerate(module) if isinstance(module, nnx.List) else vars(module).items()
    )
    if any(isinstance(child, nnx.Param) for _, child in children):
        yield path, module
    for name, child in children:
        if isinstance(child, nnx.Module | nnx.List):
            yield from _layers(child, (*path, name))
