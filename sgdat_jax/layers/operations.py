"""What a layer does with its inputs and its kernel, apart from the kernel itself.

An operation brings inputs into the form that a product takes, hands the product to a
function that multiplies, and brings the result back. So a binary layer and what
`inference.fold` makes of it share one description of strides, pads and groups.
"""

import dataclasses
import functools
import math
import string
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from sgdat_jax import bits
from sgdat_jax.layers import arguments

# Of a product of two operands, the inputs, and how the product moves over them if it
# can be computed by counting bits, else None.
Multiply = Callable[
    [Callable[..., jax.Array], jax.Array, bits.Geometry | None], jax.Array
]


class Operation(Protocol):
    """A product of inputs with a kernel that is not known yet."""

    @property
    def counts(self) -> bool:
        """Whether its products of signs can be computed by counting bits."""

    def __call__(
        self, multiply: Multiply, x: jax.Array, out_sharding: Any = None
    ) -> jax.Array:
        """Returns what `multiply` makes of `x`, in the form of the outputs."""


@dataclasses.dataclass(frozen=True)
class Contraction:
    """The product of ``(*batch, features)`` and ``(features, out_features)``."""

    dot_general: Callable[..., jax.Array] = lax.dot_general

    @property
    def counts(self) -> bool:
        """Whether its products of signs can be computed by counting bits."""
        return self.dot_general is lax.dot_general

    def __call__(
        self, multiply: Multiply, x: jax.Array, out_sharding: Any = None
    ) -> jax.Array:
        """Contracts the last axis of `x`."""
        product = functools.partial(
            self.dot_general,
            dimension_numbers=(((x.ndim - 1,), (0,)), ((), ())),
            **_sharded(out_sharding),
        )
        counts = self.counts and out_sharding is None
        return multiply(product, x, bits.Geometry() if counts else None)


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution of ``(*batch, *spatial, features)``; see `BinaryConv`."""

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: str | arguments.Pads
    pad_value: float
    pads_first: bool  # also where the convolution could add the zeros
    input_dilation: tuple[int, ...]
    kernel_dilation: tuple[int, ...]
    feature_group_count: int
    conv_general_dilated: Callable[..., jax.Array]

    @property
    def counts(self) -> bool:
        """Whether its products of signs can be computed by counting bits."""
        return (
            self.conv_general_dilated is lax.conv_general_dilated
            and self.feature_group_count == 1
            and max(self.input_dilation) == 1
        )

    def __call__(
        self, multiply: Multiply, x: jax.Array, out_sharding: Any = None
    ) -> jax.Array:
        """Convolves over the spatial axes."""
        x, batch = _one_batch_axis(x, len(self.kernel_size))
        x, pads = self._pad(x)
        axes = string.ascii_lowercase[: len(self.kernel_size)]
        dilated = max(self.input_dilation) > 1
        product = functools.partial(
            self.conv_general_dilated,
            window_strides=self.strides,
            padding=pads,
            rhs_dilation=self.kernel_dilation,
            dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
            feature_group_count=self.feature_group_count,
            **({"lhs_dilation": self.input_dilation} if dilated else {}),
            **_sharded(out_sharding),
        )
        counts = self.counts and out_sharding is None
        geometry = bits.Geometry(self.strides, tuple(pads), self.kernel_dilation)
        y = multiply(product, x, geometry if counts else None)
        return jnp.reshape(y, (*batch, *y.shape[1:]))

    def _pad(self, x: jax.Array) -> tuple[jax.Array, arguments.Pads]:
        """Pads `x` where needed; returns the zeros left to the convolution, too.

        Unlike in `nnx.Conv`, which pads the raw inputs for "CAUSAL", all pads come
        after the quantizer: it would turn zeros into signs.
        """
        pads = self._pads(x.shape[1:-1])
        widths = [(0, 0), *pads, (0, 0)]
        if self.padding in arguments.PAD_MODES:
            x = jnp.pad(x, widths, arguments.PAD_MODES[self.padding])
        elif self.pad_value or self.pads_first:
            x = jnp.pad(x, widths, constant_values=self.pad_value)
        else:
            return x, pads
        return x, [(0, 0)] * len(pads)

    def _pads(self, spatial: tuple[int, ...]) -> arguments.Pads:
        if not isinstance(self.padding, str):
            return self.padding
        # How far the dilated kernel reaches beyond its first entry.
        sizes = zip(self.kernel_size, self.kernel_dilation, strict=True)
        reach = [(size - 1) * dilation for size, dilation in sizes]
        if self.padding == "CAUSAL":
            return [(reach[0], 0)]
        if self.padding in arguments.PAD_MODES:
            return [(r // 2, (r + 1) // 2) for r in reach]
        window = [r + 1 for r in reach]
        return lax.padtype_to_pads(spatial, window, self.strides, self.padding)


@dataclasses.dataclass(frozen=True)
class TransposedConvolution:
    """A transposed convolution; see `BinaryConvTranspose`."""

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: str | arguments.Pads
    kernel_dilation: tuple[int, ...]
    transpose_kernel: bool

    @property
    def counts(self) -> bool:
        """Whether its products of signs can be computed by counting bits.

        They cannot: between the inputs it has zeros, which are no signs.
        """
        return False

    def __call__(
        self, multiply: Multiply, x: jax.Array, out_sharding: Any = None
    ) -> jax.Array:
        """Convolves over the spatial axes, which grow by the strides."""
        if out_sharding is not None:
            raise ValueError(
                "`out_sharding` must be None, as `jax.lax.conv_transpose` takes none, "
                f"got {out_sharding!r}."
            )
        x, batch = _one_batch_axis(x, len(self.kernel_size))
        is_circular = self.padding == "CIRCULAR"
        product = functools.partial(
            lax.conv_transpose,
            strides=self.strides,
            padding="VALID" if is_circular else self.padding,
            rhs_dilation=self.kernel_dilation,
            transpose_kernel=self.transpose_kernel,
        )
        y = multiply(product, x, None)
        if is_circular:
            for axis, (size, stride) in enumerate(
                zip(x.shape[1:-1], self.strides, strict=True), 1
            ):
                y = self._wrap(y, axis, size * stride)
        return jnp.reshape(y, (*batch, *y.shape[1:]))

    def _wrap(self, y: jax.Array, axis: int, period: int) -> jax.Array:
        """Adds up the parts of an axis that fall on one another on a circle."""
        beyond = -(y.shape[axis] - period) % (2 * period)
        # As in Flax: the odd entry comes before, after if the kernel is transposed.
        low = (beyond + (not self.transpose_kernel)) // 2
        widths = [(0, 0)] * y.ndim
        widths[axis] = low, beyond - low
        y = jnp.pad(y, widths)
        turns = y.shape[axis] // period
        shape = *y.shape[:axis], turns, period, *y.shape[axis + 1 :]
        return jnp.reshape(y, shape).sum(axis)


def _one_batch_axis(x: jax.Array, rank: int) -> tuple[jax.Array, tuple[int, ...]]:
    """Returns `x` with the one batch axis that convolutions take, and its own ones."""
    if x.ndim <= rank:
        raise ValueError(
            f"`inputs` must have {rank} spatial axes and one of features, got "
            f"inputs.shape={x.shape}."
        )
    batch = x.shape[: -rank - 1]
    return jnp.reshape(x, (math.prod(batch), *x.shape[len(batch) :])), batch


def _sharded(out_sharding: Any) -> dict[str, Any]:
    # Left out where it is None, as a product of the user's own may not take it.
    return {} if out_sharding is None else {"out_sharding": out_sharding}
