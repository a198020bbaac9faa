"""Products with gradients of their own: in a wider dtype, and faster on CPUs."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax import lax

# With fewer channels one product of all shifts is faster than a product for each.
_FEW_CHANNELS = 8
# Up to so many channels XLA's CPU backend is slow at convolutions of int8.
_FEW_SIGNS = 16

_Pads = tuple[tuple[int, int], ...]
_Sizes = tuple[int, ...]


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    *,
    dimension_numbers: Any,
    feature_group_count: int = 1,
    signs: bool = False,
    **options: Any,
) -> jax.Array:
    """Convolves as `jax.lax.conv_general_dilated` does, whose arguments it takes.

    XLA's CPU backend is slow at the gradient with respect to the kernel. There it is
    computed as one matrix product per entry of the kernel window, of the inputs shifted
    by it with the incoming gradient: equal but for the order of sums. That is so for
    inputs with channels last, in one group and without dilation; everything else, and
    every other backend, is left to XLA. `flax.nnx.Conv` takes this function as its
    ``conv_general_dilated``.

    With ``signs`` all entries of both are -1, 0, +1 or NaN. Then a CPU, in the same
    cases, sums their products as integers, which gives the same bits, two to five times
    as fast; an example or an output with a NaN is NaN as a whole.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from sgdat_jax import products
      >>> layer = nnx.Conv(
      ...     3,
      ...     8,
      ...     (3, 3),
      ...     conv_general_dilated=products.conv_general_dilated,
      ...     rngs=nnx.Rngs(0),
      ... )
      >>> layer(jnp.ones((2, 16, 16, 3))).shape
      (2, 16, 16, 8)
    """
    rank = lhs.ndim - 2
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    plain: Callable[[jax.Array, jax.Array], jax.Array] = functools.partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        **options,
    )
    dilation = tuple(rhs_dilation or rank * (1,))
    sharded_or_wide = [value for key, value in options.items() if key != "precision"]
    if (
        numbers != _channels_last(rank)
        or feature_group_count != 1
        or any(step != 1 for step in lhs_dilation or ())
        or any(value is not None for value in sharded_or_wide)
    ):
        return plain(lhs, rhs)
    if isinstance(padding, str):
        window = [
            (size - 1) * step + 1
            for size, step in zip(rhs.shape[:rank], dilation, strict=True)
        ]
        padding = lax.padtype_to_pads(lhs.shape[1:-1], window, window_strides, padding)
    pads = tuple((low, high) for low, high in padding)
    if min(itertools.chain(*pads), default=0) < 0:
        return plain(lhs, rhs)
    of_signs = signs and lhs.dtype == jnp.float32 and lhs.shape[-1] > _FEW_SIGNS
    return _convolve(plain, of_signs, tuple(window_strides), pads, dilation, lhs, rhs)


def _channels_last(rank: int) -> lax.ConvDimensionNumbers:
    spatial = tuple(range(1, rank + 1))
    ends = (0, rank + 1)
    return lax.ConvDimensionNumbers(
        (*ends, *spatial), (rank + 1, rank, *range(rank)), (*ends, *spatial)
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3, 4))
def _convolve(
    plain: Any,
    of_signs: bool,
    strides: _Sizes,
    pads: _Pads,
    dilation: _Sizes,
    lhs: jax.Array,
    rhs: jax.Array,
) -> jax.Array:
    del strides, pads, dilation
    if not of_signs:
        return plain(lhs, rhs)
    by_integers = functools.partial(_by_integers, plain)
    return lax.platform_dependent(lhs, rhs, cpu=by_integers, default=plain)


def _by_integers(plain: Any, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    sums = plain(
        lhs.astype(jnp.int8), rhs.astype(jnp.int8), preferred_element_type=jnp.int32
    )
    spatial = tuple(range(1, lhs.ndim - 1))
    # Integers have no NaN. Channels go last, for XLA's CPU backend is slow at others.
    in_examples = jnp.isnan(lhs).any(spatial, keepdims=True).any(-1, keepdims=True)
    in_outputs = jnp.isnan(rhs).any(tuple(range(rhs.ndim - 1)), keepdims=True)
    return jnp.where(in_examples | in_outputs, jnp.nan, sums.astype(lhs.dtype))


def _convolve_fwd(
    plain: Any,
    of_signs: bool,
    strides: _Sizes,
    pads: _Pads,
    dilation: _Sizes,
    lhs: jax.Array,
    rhs: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(plain, of_signs, strides, pads, dilation, lhs, rhs), (lhs, rhs)


def _convolve_bwd(
    plain: Any,
    of_signs: bool,
    strides: _Sizes,
    pads: _Pads,
    dilation: _Sizes,
    operands: tuple[jax.Array, jax.Array],
    cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    lhs, rhs = operands
    (lhs_gradient,) = jax.vjp(lambda lhs: plain(lhs, rhs), lhs)[1](cotangent)

    def by_xla(lhs: jax.Array, cotangent: jax.Array) -> jax.Array:
        return jax.vjp(lambda rhs: plain(lhs, rhs), rhs)[1](cotangent)[0]

    def by_shifts(lhs: jax.Array, cotangent: jax.Array) -> jax.Array:
        return kernel_gradient(
            lhs, cotangent, rhs.shape, strides=strides, pads=pads, dilation=dilation
        ).astype(rhs.dtype)

    rhs_gradient = lax.platform_dependent(lhs, cotangent, cpu=by_shifts, default=by_xla)
    return lhs_gradient, rhs_gradient


_convolve.defvjp(_convolve_fwd, _convolve_bwd)


def kernel_gradient(
    lhs: jax.Array,
    cotangent: jax.Array,
    shape: Sequence[int],
    *,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> jax.Array:
    """Returns the gradient with respect to a kernel, by products of shifted inputs.

    Args:
      lhs: inputs, shape ``(batch, *spatial, in_features)``.
      cotangent: of the outputs, shape ``(batch, *spatial, out_features)``.
      shape: of the kernel, ``(*window, in_features, out_features)``.
      strides: of the window.
      pads: zeros before and after each spatial axis, at least 0.
      dilation: of the kernel.
    """
    *window, in_features, out_features = shape
    padded = jnp.pad(lhs, [(0, 0), *pads, (0, 0)])
    batch, *sizes, _ = cotangent.shape

    def shifted(taps: tuple[int, ...]) -> jax.Array:
        """Returns what each output sees through one entry of the window."""
        starts = [tap * step for tap, step in zip(taps, dilation, strict=True)]
        ends = [
            start + (size - 1) * stride + 1
            for start, size, stride in zip(starts, sizes, strides, strict=True)
        ]
        seen = lax.slice(
            padded,
            (0, *starts, 0),
            (batch, *ends, in_features),
            (1, *strides, 1),
        )
        return seen.reshape(-1, in_features)

    views = map(shifted, itertools.product(*map(range, window)))
    gradients = cotangent.reshape(-1, out_features)
    if in_features < _FEW_CHANNELS:
        flat = jnp.concatenate(list(views), axis=1).T @ gradients
    else:
        flat = jnp.concatenate([view.T @ gradients for view in views])
    assert flat.shape == (math.prod(window) * in_features, out_features)
    return flat.reshape(shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def widening(
    product: Callable[..., jax.Array], dtype: Dtype, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    """Returns ``product(x, kernel)`` in a dtype wider than that of its operands."""
    return product(x, kernel, preferred_element_type=dtype)


def _widening_fwd(product, dtype, x, kernel):
    return widening(product, dtype, x, kernel), (x, kernel)


def _widening_bwd(product, dtype, operands, cotangent):
    # JAX's own rule widens the operands instead: two of three products of a training
    # step would run at the speed of the wide dtype.
    _, pull_back = jax.vjp(product, *operands)
    return pull_back(cotangent.astype(operands[0].dtype))


widening.defvjp(_widening_fwd, _widening_bwd)
