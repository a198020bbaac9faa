"""Signs as single bits, and products of signs by counting bits.

A sum of products of signs has +1 where two signs agree and -1 where they differ, so it
is the number of pairs less twice the number of those that differ. With 32 signs in a
word an exclusive or compares 32 pairs at a time, and carry-save adders count what it
finds in a few operations per word (Rastegari et al., "XNOR-Net", 2016,
https://arxiv.org/abs/1603.05279; Warren, "Hacker's Delight", 2012, section 5-1). All of
it is plain arithmetic that XLA fuses into loops, and the sums are exact: to the bit
those of a product of floats. On a CPU they take a third to a fifth of its time.

The functions know of no layers and have no gradients; `products` gives them one.
"""

import contextlib
import contextvars
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_WORD = 32  # signs in a word
# How many words one loop counts. With fewer, their sum costs more than they do; more of
# them, for all outputs, leave the first cache, and of far more XLA's CPU backend makes
# no vectors any longer.
_FEWEST, _MOST = 16, 64
_CACHED = 9216  # words for all outputs together
# Below, packing or the last sum of bits costs more than a product of floats.
_FEWEST_ROWS, _FEWEST_WORDS = 32, 8

Sums = Callable[[jax.Array, jax.Array, int, "Geometry"], jax.Array]  # `sums_of_words`
_other_sums: contextvars.ContextVar[Sums | None] = contextvars.ContextVar(
    "other_sums", default=None
)


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


def pack(x: jax.Array, axis: int = -1) -> jax.Array:
    """Returns the signs of an array as bits, 32 to a word.

    Args:
      x: floating-point array; NaN counts as positive.
      axis: along which 32 signs become a word, the first its lowest bit. Those that the
        last word lacks count as positive.

    Returns:
      An array of uint32 whose bits are set where entries are negative. Along `axis` it
      has a 32nd of the entries, rounded up.

    Example:
      >>> import jax.numpy as jnp
      >>> from sgdat_jax import bits
      >>> bits.pack(jnp.array([[1.0, -1.0, -1.0, -1.0], [-2.0, 0.0, -0.0, 5.0]]))
      Array([[14],
             [ 1]], dtype=uint32)
    """
    axis %= x.ndim
    return _placed(x, axis).sum(axis + 1, dtype=jnp.uint32)


def unpack(
    words: jax.Array, size: int, axis: int = -1, dtype: jax.typing.DTypeLike = "float32"
) -> jax.Array:
    """Returns the signs, -1 and +1, that `pack` made words of.

    Args:
      words: array of uint32.
      size: of the result along `axis`.
      axis: as in `pack`.
      dtype: of the result.

    Example:
      >>> import jax.numpy as jnp
      >>> from sgdat_jax import bits
      >>> bits.unpack(jnp.array([14], jnp.uint32), size=5)
      Array([ 1., -1., -1., -1.,  1.], dtype=float32)
    """
    axis %= words.ndim
    spread = jnp.expand_dims(words, axis + 1)
    spread = spread >> _places(spread.ndim, axis + 1)
    spread = spread.reshape(*words.shape[:axis], -1, *words.shape[axis + 1 :])
    spread = lax.slice_in_dim(spread, 0, size, axis=axis)
    return jnp.where(spread & 1, -1, 1).astype(dtype)


def _placed(x: jax.Array, axis: int) -> jax.Array:
    """Returns the bit of each sign at its place in its word, which is a new axis."""
    negative = _in_words(x < 0, axis)
    return negative.astype(jnp.uint32) << _places(negative.ndim, axis + 1)


def _places(rank: int, axis: int) -> jax.Array:
    """Returns the places in a word along one of several axes."""
    return lax.broadcasted_iota(
        jnp.uint32, [_WORD if i == axis else 1 for i in range(rank)], axis
    )


def _in_words(truths: jax.Array, axis: int) -> jax.Array:
    """Divides an axis in two: words, and places in a word."""
    widths = [(0, 0)] * truths.ndim
    widths[axis] = 0, -truths.shape[axis] % _WORD
    padded = jnp.pad(truths, widths)
    return padded.reshape(*truths.shape[:axis], -1, _WORD, *truths.shape[axis + 1 :])


def are_faster(x: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
    """Returns whether a CPU gains from `product` of floats, by the shapes of both.

    Example:
      >>> from sgdat_jax import bits
      >>> bits.are_faster((64, 8, 8, 128), (3, 3, 128, 128))
      True
      >>> bits.are_faster((1, 8192), (8192, 1024))  # packing the kernel takes longer
      False
    """
    if not all(isinstance(size, int) for size in x):
        return False  # exported for any batch
    words = math.prod(kernel[:-2]) * -(-kernel[-2] // _WORD)
    return math.prod(x[:-1]) >= _FEWEST_ROWS and words >= _FEWEST_WORDS


@contextlib.contextmanager
def summing_by(sums: Sums) -> Iterator[None]:
    """Has packed kernels that are traced in the block be multiplied by a function.

    For compilers other than XLA, which need another form of the same sums. Inputs must
    be free of NaN.

    Args:
      sums: takes and returns what `sums_of_words` does.

    Example:
      >>> import jax.numpy as jnp
      >>> from sgdat_jax import bits
      >>> x, kernel = jnp.ones((1, 3)), bits.pack(jnp.ones((3, 2)), axis=0)
      >>> with bits.summing_by(lambda *operands: -bits.sums_of_words(*operands)):
      ...     bits.product(jnp.matmul, bits.Geometry(), "float32", x, kernel)
      Array([[-3., -3.]], dtype=float32)
    """
    token = _other_sums.set(sums)
    try:
        yield
    finally:
        _other_sums.reset(token)


@jax.named_scope("bits")  # what profiles show
def product(
    multiply: Callable[[jax.Array, jax.Array], jax.Array],
    geometry: Geometry,
    dtype: jax.typing.DTypeLike,
    x: jax.Array,
    kernel: jax.Array,
) -> jax.Array:
    """Returns ``multiply(x, kernel)`` of signs, by counting bits.

    Args:
      multiply: the same product of floats, which is called for if one of them is NaN.
      geometry: what it does.
      dtype: of the sums, one that holds them exactly, as float32 does up to 2**24.
      x: inputs of nothing but -1, +1 and NaN, shape ``(*batch, *spatial, features)``.
      kernel: likewise, shape ``(*window, features, out_features)``; or packed along the
        last axis but one.

    Returns:
      Sums of products, of shape ``(*batch, *spatial, out_features)``.

    Example:
      >>> import jax.numpy as jnp
      >>> from sgdat_jax import bits
      >>> x = jnp.array([[1.0, -1.0, 1.0]])
      >>> kernel = jnp.array([[1.0, -1.0], [1.0, 1.0], [1.0, -1.0]])
      >>> bits.product(jnp.matmul, bits.Geometry(), "float32", x, kernel)
      Array([[ 1., -3.]], dtype=float32)
    """
    features = x.shape[-1]
    is_packed = kernel.dtype == jnp.uint32
    other_sums = _other_sums.get()
    if is_packed and other_sums:
        return other_sums(pack(x), kernel, features, geometry).astype(dtype)
    words, in_words = _pack_and_find_nan(x)
    has_nan = in_words.any()
    kernel_words = kernel
    if not is_packed:
        has_nan |= jnp.isnan(kernel).any()
        kernel_words = pack(kernel, axis=-2)

    def by_floats(words, in_words, kernel, kernel_words):
        # An output sums all features, so it is NaN whichever of them is.
        signs = jnp.where(
            jnp.repeat(in_words, _WORD, -1)[..., :features],
            jnp.nan,
            unpack(words, features),
        )
        if is_packed:
            kernel = unpack(kernel_words, features, axis=-2)
        return multiply(signs.astype(x.dtype), kernel.astype(x.dtype)).astype(dtype)

    def by_bits(words, in_words, kernel, kernel_words):
        del in_words, kernel
        return sums_of_words(words, kernel_words, features, geometry).astype(dtype)

    # A branch also keeps XLA from counting anew for each use of the sums.
    operands = words, in_words, kernel, kernel_words
    return lax.cond(_in_any(has_nan), by_floats, by_bits, *operands)


@jax.custom_batching.custom_vmap
def _in_any(truth: jax.Array) -> jax.Array:
    """Returns a truth; under `jax.vmap`, whether it is true for any."""
    return truth


@_in_any.def_vmap
def _in_any_of_batch(
    size: int, are_batched: list[bool], truth: jax.Array
) -> tuple[jax.Array, bool]:
    # Not batched, or each of the two branches would be taken for all.
    del size, are_batched
    return _in_any(truth.any()), False


def _pack_and_find_nan(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns `pack` along the last axis, and in which words a sign is NaN."""
    # In one reduction, for two would read `x` twice.
    axis = x.ndim - 1
    return lax.reduce(
        (_placed(x, axis), _in_words(jnp.isnan(x), axis)),
        (np.uint32(0), np.False_),
        lambda one, other: (one[0] | other[0], one[1] | other[1]),
        (axis + 1,),
    )


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
        return count_bits(
            [
                column ^ lax.index_in_dim(rows, i, axis=-2, keepdims=False)
                for i, column in enumerate(columns)
            ]
        )

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
    size = _step(depth, math.prod(window), out_features)
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


def _step(depth: int, taps: int, out_features: int) -> int:
    """Returns how many words of each entry of a window to count at a time."""
    most = min(max(_CACHED // out_features, _FEWEST), _MOST)
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
