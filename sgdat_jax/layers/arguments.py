"""Arguments of the binary layers: checks that name and show them, and their forms."""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sgdat_jax import checks

Padding = str | int | Sequence[int | tuple[int, int]]
Pads = Sequence[tuple[int, int]]  # (low, high) for each spatial axis

PAD_MODES = {"CIRCULAR": "wrap", "REFLECT": "reflect"}  # with NumPy's names
_PADDINGS = ("SAME", "SAME_LOWER", "VALID", "CAUSAL", *PAD_MODES)


def check_features(inputs: jax.Array, in_features: int) -> None:
    """Raises ValueError unless inputs have a layer's features in their last axis."""
    if inputs.ndim == 0 or inputs.shape[-1] != in_features:
        raise ValueError(
            f"`inputs` must have {in_features} features in the last axis, got "
            f"{inputs.shape=}."
        )


def per_axis(**named: int | Sequence[int] | None) -> list[tuple[int, ...]]:
    """Returns, for each argument, a positive integer per spatial axis.

    Args:
      **named: an integer for all axes or a sequence; None is 1 for all, as in Flax's
        layers. ``kernel_size`` says how many axes there are; an integer is one.
    """
    size = named["kernel_size"]
    rank = len(size) if isinstance(size, Sequence) else 1
    if not rank:
        raise ValueError(f"`kernel_size` must have 1 entry or more, got {size!r}.")
    return [_per_axis(name, value, rank) for name, value in named.items()]


def _per_axis(
    name: str, value: int | Sequence[int] | None, rank: int
) -> tuple[int, ...]:
    value = 1 if value is None else value
    values = tuple(value) if isinstance(value, Sequence) else (value,) * rank
    if len(values) != rank:
        raise ValueError(f"`{name}` must have {rank} entries, got {value!r}.")
    return tuple(checks.integer(f"`{name}`", entry) for entry in values)


def canonical_padding(padding: Padding, rank: int) -> str | Pads:
    """Returns the padding's name, or its pads as a tuple of pairs."""
    if isinstance(padding, str):
        checks.choice("`padding`", padding, _PADDINGS)
        if padding == "CAUSAL" and rank != 1:
            raise ValueError(f"`padding` 'CAUSAL' needs 1 spatial axis, got {rank}.")
        return padding
    sides = padding if isinstance(padding, Sequence) else (padding,) * rank
    pairs: Any = [s if isinstance(s, Sequence) else (s, s) for s in sides]
    try:
        pads = tuple((operator.index(low), operator.index(high)) for low, high in pairs)
    except (TypeError, ValueError):
        pads = ()
    if len(pads) != rank:
        raise ValueError(
            "`padding` must be a name, an integer, or an integer or (low, high) pair "
            f"for each of {rank} spatial axes, got {padding!r}."
        )
    return pads


def canonical_pad_value(pad_value: float, padding: Padding) -> float:
    """Returns what pads hold; raises ValueError if they cannot."""
    if pad_value not in (0, 1, -1):
        raise ValueError(f"`pad_value` must be 0, 1 or -1, got {pad_value!r}.")
    if pad_value and isinstance(padding, str) and padding in PAD_MODES:
        raise ValueError(
            f"`pad_value` must be 0 where the pads are taken from the inputs, got "
            f"{pad_value!r} with {padding=}."
        )
    return pad_value


def check_dilated(padding: str | Pads, pad_value: float) -> None:
    """Raises ValueError for pads that dilated inputs cannot have."""
    if isinstance(padding, str):
        raise ValueError(
            "`padding` must be in numbers where `input_dilation` is not 1, as in "
            f"`nnx.Conv`, got {padding!r}."
        )
    if pad_value:
        raise ValueError(
            "`pad_value` must be 0 where `input_dilation` puts zeros between the "
            f"inputs, got {pad_value!r}."
        )


def canonical_mask(mask: Any, kernel_shape: tuple[int, ...]) -> jax.Array | None:
    """Returns a mask as an array; raises ValueError if its shape is another."""
    if mask is None:
        return None
    if jnp.shape(mask) != kernel_shape:
        raise ValueError(
            f"`mask` must have the kernel's shape {kernel_shape}, got "
            f"{jnp.shape(mask)}."
        )
    return jnp.asarray(mask)
