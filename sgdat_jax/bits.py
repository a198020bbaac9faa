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
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sgdat_jax.bit_sums import Geometry as Geometry
from sgdat_jax.bit_sums import count_bits as count_bits
from sgdat_jax.bit_sums import sums_of_words as sums_of_words

WORD = 32  # signs in a word
# Below, packing or the last sum of bits costs more than a product of floats.
_FEWEST_ROWS, _FEWEST_WORDS = 32, 8

Sums = Callable[[jax.Array, jax.Array, int, Geometry], jax.Array]  # `sums_of_words`
_other_sums: contextvars.ContextVar[Sums | None] = contextvars.ContextVar(
    "other_sums", default=None
)


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
        jnp.uint32, [WORD if i == axis else 1 for i in range(rank)], axis
    )


def _in_words(truths: jax.Array, axis: int) -> jax.Array:
    """Divides an axis in two: words, and places in a word."""
    widths = [(0, 0)] * truths.ndim
    widths[axis] = 0, -truths.shape[axis] % WORD
    padded = jnp.pad(truths, widths)
    return padded.reshape(*truths.shape[:axis], -1, WORD, *truths.shape[axis + 1 :])


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
    words = math.prod(kernel[:-2]) * -(-kernel[-2] // WORD)
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
    words, in_words = pack_and_find_nan(x)
    has_nan = in_words.any()
    kernel_words = kernel
    if not is_packed:
        has_nan |= jnp.isnan(kernel).any()
        kernel_words = pack(kernel, axis=-2)

    def by_floats(words, in_words, kernel, kernel_words):
        # An output sums all features, so it is NaN whichever of them is.
        signs = jnp.where(
            jnp.repeat(in_words, WORD, -1)[..., :features],
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


def pack_and_find_nan(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns `pack` along the last axis, and in which words a sign is NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> from sgdat_jax import bits
      >>> words, are_nan = bits.pack_and_find_nan(jnp.array([1.0, -1.0, jnp.nan]))
      >>> words, are_nan
      (Array([2], dtype=uint32), Array([ True], dtype=bool))
    """
    # In one reduction, for two would read `x` twice.
    axis = x.ndim - 1
    return lax.reduce(
        (_placed(x, axis), _in_words(jnp.isnan(x), axis)),
        (np.uint32(0), np.False_),
        lambda one, other: (one[0] | other[0], one[1] | other[1]),
        (axis + 1,),
    )
