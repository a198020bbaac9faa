"""Sums of products of packed signs, by counting the bits that differ.

Carry-save adders count what an exclusive or finds in a few operations per word; a
processor that counts the bits of whole vectors is faster without them. The sums are the
same. `bits` packs the signs and says when this is worth it.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sgdat_jax import cpu

# How many words one loop counts. With fewer, their sum costs more than they do; more of
# them, for all outputs, leave the first cache, and of far more XLA's CPU backend makes
# no vectors any longer.
_FEWEST, _MOST = 16, 64
_CACHED = 9216  # words for all outputs together
# Counted one by one; of more, vectors of 256 bits take up to 1.7 times as long.
_CACHED_IN_VECTORS = 4608


class Geometry(NamedTuple):
    """How a window moves over inputs; without spatial axes, a product is of matrices.

    Example:
      >>> from sgdat_jax import bits
      >>> bits.Geometry(strides=(2,), pads=((1, 1),), dilation=(1,))
      Geometry(strides=(2,), pads=((1, 1),), dilation=(1,))
    """

    strides: tuple[int, ...] = ()  # step along each spatial axis
    pads: tuple[tuple[int, int], ...] = ()  # zeros before and after, which add nothing
    dilation: tuple[int, ...] = ()  # distance of the window's entries


def sums_of_words(
    words: jax.Array, kernel: jax.Array, features: int, geometry: Geometry
) -> jax.Array:
    """Returns sums of products of packed signs.

    Args:
      words: inputs packed along the last axis, uint32 of shape
        ``(*batch, *spatial, words)``.
      kernel: uint32 of shape ``(*window, words, out_features)``, packed along the last
        axis but one.
      features: how many signs the words of an input hold.
      geometry: of the window.

    Returns:
      int32 of shape ``(*batch, *spatial, out_features)``.

    Example:
      >>> import jax.numpy as jnp
      >>> from sgdat_jax import bits
      >>> x, kernel = jnp.array([[1.0, -1.0]]), jnp.array([[1.0], [1.0]])
      >>> geometry = bits.Geometry()
      >>> bits.sums_of_words(bits.pack(x), bits.pack(kernel, axis=0), 2, geometry)
      Array([[0]], dtype=int32)
    """
    in_vectors = cpu.counts_bits_in_vectors()
    window = kernel.shape[:-2]
    taps = list(itertools.product(*map(range, window)))
    outer = words.ndim - 1 - len(window)  # how many axes are of the batch
    masks = list(map(is_inside, words.shape[outer:-1], window, *geometry))
    sizes = [len(mask) for mask in masks]
    zeros = jnp.zeros((*words.shape[:outer], *sizes, kernel.shape[-1]), jnp.int32)
    if not zeros.size:
        return zeros

    def count(words: jax.Array, kernel: jax.Array) -> jax.Array:
        """Counts the signs that differ."""
        # By slices, for the indexing of JAX's arrays takes far longer to trace.
        columns = [
            lax.slice_in_dim(seen, i, i + 1, axis=-1)
            for seen in (view(words, tap, sizes, geometry) for tap in taps)
            for i in range(words.shape[-1])
        ]
        rows = kernel.reshape(*[1] * (words.ndim - 1), len(columns), -1)
        differ = [
            column ^ lax.index_in_dim(rows, i, axis=-2, keepdims=False)
            for i, column in enumerate(columns)
        ]
        return _count_each(differ) if in_vectors else count_bits(differ)

    pads = [(low, high, 0) for low, high in geometry.pads]
    padded = lax.pad(words, np.uint32(0), [(0, 0, 0)] * outer + [*pads, (0, 0, 0)])
    sums = len(taps) * features - 2 * _count_by_steps(count, zeros, padded, kernel)
    if all(mask.all() for mask in masks):
        return sums
    beyond = sums_beyond(kernel, features, masks)
    return sums - jnp.expand_dims(beyond, range(outer))


def is_inside(
    size: int, window: int, stride: int, pads: tuple[int, int], dilation: int
) -> np.ndarray:
    """Returns which entries of a window see no pads, for each of its places."""
    reach = (window - 1) * dilation
    places = max(0, (size + sum(pads) - reach - 1) // stride + 1)
    seen = stride * np.arange(places)[:, np.newaxis] + dilation * np.arange(window)
    return (seen >= pads[0]) & (seen < pads[0] + size)


def view(
    words: jax.Array, tap: Sequence[int], sizes: Sequence[int], geometry: Geometry
) -> jax.Array:
    """Returns what each output sees through one entry of the window."""
    starts = [t * distance for t, distance in zip(tap, geometry.dilation, strict=True)]
    limits = [
        start + (size - 1) * stride + 1
        for start, size, stride in zip(starts, sizes, geometry.strides, strict=True)
    ]
    batch = words.shape[: -len(sizes) - 1]
    outer = len(batch)
    return lax.slice(
        words,
        (*[0] * outer, *starts, 0),
        (*batch, *limits, words.shape[-1]),
        (*[1] * outer, *geometry.strides, 1),
    )


def _count_by_steps(
    count: Callable[[jax.Array, jax.Array], jax.Array],
    zeros: jax.Array,
    words: jax.Array,
    kernel: jax.Array,
) -> jax.Array:
    """Returns ``zeros + count(words, kernel)``, summed over parts of the words."""
    *window, depth, out_features = kernel.shape
    cached = _CACHED_IN_VECTORS if cpu.counts_bits_in_vectors() else _CACHED
    most = min(max(cached // out_features, _FEWEST), _MOST)
    size = _step(depth, math.prod(window), most)
    steps = -(-depth // size)
    if steps == 1:
        return count(words, kernel)

    def parts(array: jax.Array, axis: int) -> jax.Array:
        widths = [(0, 0)] * array.ndim
        widths[axis] = 0, steps * size - depth
        array = jnp.pad(array, widths)  # equal bits, which do not differ
        shape = *array.shape[:axis], steps, size, *array.shape[axis + 1 :]
        return jnp.moveaxis(array.reshape(shape), axis, 0)

    operands = parts(words, words.ndim - 1), parts(kernel, kernel.ndim - 2)
    total, _ = lax.scan(
        lambda total, part: (total + count(*part), None), zeros, operands
    )
    return total


def _step(depth: int, taps: int, most: int) -> int:
    """Returns how many words of each entry of a window to count at a time."""
    if depth * taps <= most:
        return depth
    low = -(-_FEWEST // taps)
    sizes = range(low, max(low, most // taps) + 1)
    return min(sizes, key=lambda size: (-depth % size, -size))


def count_bits(words: Sequence[jax.Array]) -> jax.Array:
    """Returns how many bits are set in all words together, as int32.

    Args:
      words: arrays of uint32, all of one shape, which is that of the result.

    Example:
      >>> import jax.numpy as jnp
      >>> from sgdat_jax import bits
      >>> bits.count_bits([jnp.array([7, 0], jnp.uint32)] * 3)
      Array([9, 0], dtype=int32)
    """
    # Adders turn three words of a weight into one, and one of twice the weight.
    total, weight = jnp.zeros([], jnp.int32), 1
    while words:
        *rest, last = words
        carries = []
        for one, other in zip(rest[::2], rest[1::2], strict=False):
            last, carry = _add_bits(one, other, last)
            carries.append(carry)
        if len(rest) % 2:
            carries.append(rest[-1] & last)
            last = rest[-1] ^ last
        total += weight * lax.population_count(last).astype(jnp.int32)
        words, weight = carries, 2 * weight
    return total


def _count_each(words: Sequence[jax.Array]) -> jax.Array:
    """Returns what `count_bits` does, one word at a time."""
    total = jnp.zeros([], jnp.int32)
    for word in words:
        total += lax.population_count(word).astype(jnp.int32)
    return total


def _add_bits(a: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the low and the high bits of ``a + b + c``, bit by bit."""
    differ = a ^ b
    return differ ^ c, (a & b) | (differ & c)


def sums_beyond(
    kernel: jax.Array, features: int, masks: Sequence[np.ndarray]
) -> jax.Array:
    """Returns what pads of +1, which clear bits stand for, add to each output.

    Args:
      kernel: as in `sums_of_words`.
      features: likewise.
      masks: which entries of the window see no pads, for each place along each axis.
    """
    rank = len(masks)
    inside = jnp.ones([], jnp.bool_)  # places of all axes, then entries of all axes
    for i, mask in enumerate(masks):
        others = [axis for axis in range(2 * rank) if axis % rank != i]
        inside &= jnp.expand_dims(mask, others)
    sums = features - 2 * lax.population_count(kernel).astype(jnp.int32).sum(-2)
    # Small integers, exact as floats, which every backend multiplies.
    beyond = jnp.tensordot(
        (~inside).astype(jnp.float32),
        sums.astype(jnp.float32),
        rank,
        precision="highest",
    )
    return beyond.astype(jnp.int32)
