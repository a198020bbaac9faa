"""What a network is made of: weights, memory and work, by precision."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from sgdat_jax import layers, macs, signs

_FULL = 32  # bits of weights and operands that no quantizer makes narrower
# Variables that are no numbers of the network.
_PASSING = (nnx.RngState, nnx.Intermediate, nnx.Perturbation, nnx.Cache)


class LayerSummary(NamedTuple):
    """One layer of a network."""

    name: str  # its path in the network, such as "blocks/0/conv1"
    kind: str  # the name of its class
    output_shape: tuple[int, ...]  # without the batch
    binary_weights: int  # of 1 bit each
    real_weights: int  # of 32 bits each
    # Multiply-accumulates for one example: of weights and inputs of 1 bit each, and of
    # 32 bits at one side or the other.
    binary_macs: int
    real_macs: int
    narrow_weights: int = 0  # of 2 to 31 bits, by the quantizer of their kernel
    narrow_bits: int = 0  # of all of these together
    narrow_macs: int = 0  # of 2 to 31 bits on the wider side
    # Numbers of 32 bits that are no weights: thresholds, and running averages that no
    # scale and no bias absorbs.
    statistics: int = 0
    not_counted: str = ""  # work that is not among the multiply-accumulates, in words

    @property
    def memory_bytes(self) -> int:
        """Bytes of all weights and statistics, narrow ones packed."""
        bits = self.binary_weights + self.narrow_bits
        return math.ceil(bits / 8) + 4 * (self.real_weights + self.statistics)


def summarize(
    model: nnx.Module,
    input_shape: tuple[int, ...],
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> list[LayerSummary]:
    """Returns a summary of each module that runs, in order of definition.

    That is each module that has weights or statistics, wherever it stands (in lists,
    tuples and dictionaries, too), or products of its own, as attention has. Nothing is
    computed: the network is only traced, and its matrix products and convolutions are
    counted in the program, with the lengths of scans, of each call of a shared layer.
    Additions, activations, normalizations and look-ups have no multiply-accumulates.
    `LayerSummary.not_counted` says in words where a module does more than is counted.

    A product is of 1 bit if the kernel is a `BinaryParam` and both quantizers of its
    layer have a precision of 1 bit, see `sgdat_jax.signs.precision`. Quantizers that it
    does not know are of 32 bits.

    Args:
      model: a network that maps a batch to a batch.
      input_shape: shape of one example, without the batch.
      dtype: of the inputs, such as ``"int32"`` for a network that starts with an
        embedding.

    Example:
      >>> from flax import nnx
      >>> import sgdat_jax as sj
      >>> model = sj.models.DigitsNet(rngs=nnx.Rngs(0))
      >>> for layer in sj.summarize(model, (8, 8, 1))[2:4]:
      ...     print(layer.name, layer.binary_weights, layer.binary_macs)
      conv2 36864 2359296
      norm2 0 0
    """
    modules = list(_modules(model, (), set()))
    example = jax.ShapeDtypeStruct((1, *input_shape), dtype)
    done = macs.trace(model, [path for path, _ in modules], example)
    seen: set[int] = set()
    rows = (
        _summarize_layer("/".join(path), module, work, seen)
        for (path, module), work in zip(modules, done, strict=True)
        if work is not None
    )
    return [row for row in rows if row is not None]


def total(summaries: list[LayerSummary]) -> LayerSummary:
    """Returns the sums over the layers of a network, named "total".

    Raises:
      ValueError: if there are no layers.
    """
    if not summaries:
        raise ValueError("`summaries` must hold at least one layer, got none.")
    sums: dict[str, Any] = {
        field: sum(getattr(summary, field) for summary in summaries)
        for field in LayerSummary._fields[3:-1]
    }
    words = dict.fromkeys(summary.not_counted for summary in summaries)
    return LayerSummary(
        name="total",
        kind="",
        output_shape=summaries[-1].output_shape,
        **sums | {"not_counted": ", ".join(filter(None, words))},
    )


def _summarize_layer(
    name: str, module: Any, work: macs.Work, seen: set[int]
) -> LayerSummary | None:
    """Returns the row of a module; None if it has neither numbers nor products."""
    weights = dict.fromkeys((1, _FULL), 0)
    statistics = 0
    for key, variable in macs.children(module):
        if not isinstance(variable, nnx.Variable) or id(variable) in seen:
            continue
        seen.add(id(variable))  # shared ones are there once
        if isinstance(variable, nnx.Param | layers.FoldedKernel):
            bits = _bits(module, variable)
            weights[bits] = weights.get(bits, 0) + _size(module, variable)
        elif not isinstance(variable, _PASSING) and not _is_absorbed(module, key):
            statistics += variable.size
    narrow = {bits: n for bits, n in weights.items() if bits not in (1, _FULL)}
    notes = [
        *work.unknown,
        *(["look-ups"] if work.has_lookups and not work.macs else []),
    ]
    if not (any(weights.values()) or statistics):
        if not work.macs and not work.unknown:
            return None
        notes = list(work.unknown)  # indexing is no work without weights to look up
    of_bits = _operand_bits(module)
    return LayerSummary(
        name=name,
        kind=type(module).__name__,
        output_shape=work.output_shape or (),
        binary_weights=weights[1],
        real_weights=weights[_FULL],
        binary_macs=work.macs if of_bits == 1 else 0,
        real_macs=work.macs if of_bits == _FULL else 0,
        narrow_weights=sum(narrow.values()),
        narrow_bits=sum(bits * n for bits, n in narrow.items()),
        narrow_macs=work.macs if 1 < of_bits < _FULL else 0,
        statistics=statistics,
        not_counted=", ".join(notes),
    )


def _bits(module: Any, variable: nnx.Variable) -> int:
    """Returns how many bits each weight of a variable takes."""
    if isinstance(variable, layers.FoldedKernel):
        return 1
    if not isinstance(variable, layers.BinaryParam):
        return _FULL
    quantizer = getattr(module, "kernel_quantizer", None)
    if quantizer is None:  # its type says that an optimizer keeps it in {-1, +1}
        return 1
    return min(signs.precision(quantizer) or _FULL, _FULL)


def _operand_bits(module: Any) -> int:
    """Returns the bits of the wider operand of a module's products."""
    kernels = [
        variable
        for _, variable in macs.children(module)
        if isinstance(variable, layers.BinaryParam | layers.FoldedKernel)
    ]
    quantizer = getattr(module, "input_quantizer", None)
    if not kernels or quantizer is None:
        return _FULL
    of_inputs = min(signs.precision(quantizer) or _FULL, _FULL)
    return max(of_inputs, *(_bits(module, kernel) for kernel in kernels))


def _is_absorbed(module: Any, name: str) -> bool:
    """Whether an average of a normalization becomes part of a weight for inference.

    There y = scale (x - mean) / deviation + bias is one product and one sum.
    """
    partner = {"mean": "bias", "var": "scale"}.get(name)
    is_norm = isinstance(module, nnx.BatchNorm)
    return is_norm and partner is not None and getattr(module, partner) is not None


def _size(module: Any, variable: nnx.Variable) -> int:
    """Returns how many weights a variable of a module holds, packed or not."""
    if isinstance(variable, layers.FoldedKernel):
        return math.prod(module.kernel_shape)
    return variable.size


def _modules(
    module: nnx.Module, path: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[tuple[str, ...], nnx.Module]]:
    """Yields a module and those in it, each once, as they were defined."""
    if id(module) in seen:
        return
    seen.add(id(module))
    yield path, module
    for name, child in macs.children(module):
        if isinstance(child, nnx.Module):
            yield from _modules(child, (*path, name), seen)
