"""Sums of products of packed signs for IREE: a count of each word, without a loop."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from sgdat_jax import bit_sums

# How many words one fused loop counts. IREE fuses operations of up to 32 operands, two
# of which are of a word, and cuts a longer sum anywhere; with fewer words, the partial
# sums of all outputs go to memory too often.
_WORDS = 13
_NARROW = 4  # input channels


def sums(
    words: jax.Array, kernel: jax.Array, features: int, geometry: bit_sums.Geometry
) -> jax.Array:
    """Returns what `bit_sums.sums_of_words` does.

    IREE makes vector instructions of ``popcount(x ^ k) + popcount(...) + ...``, but
    nothing good of a loop, a reduction or the carry-save adders that suit XLA. Pads are
    masked in each word: a correction of the outputs would read the kernel once more.
    """
    window = kernel.shape[:-2]
    outer = words.ndim - 1 - len(window)
    spatial = words.shape[outer:-1]
    masks = list(map(bit_sums.is_inside, spatial, window, *geometry))
    sizes = [len(mask) for mask in masks]
    no_pads = [(0, 0, 0)]
    pads = [(low, high, 0) for low, high in geometry.pads]
    padded = lax.pad(words, np.uint32(0), [*no_pads * outer, *pads, *no_pads])
    # Turned round, so that the file has the kernel once: slices of a constant would
    # become constants, too, and so would one that the sums over pads read beside these.
    rows = lax.optimization_barrier(~kernel)
    rows = rows.reshape(*[1] * (words.ndim - 1), -1, kernel.shape[-1])
    count = jnp.zeros([], jnp.int32)
    taps = list(itertools.product(*map(range, window)))
    views = [bit_sums.view(padded, tap, sizes, geometry) for tap in taps]
    places = itertools.product(views, range(words.shape[-1]))
    for number, (seen, i) in enumerate(places):
        if number and number % _WORDS == 0:
            count = lax.optimization_barrier(count)
        row = lax.index_in_dim(rows, number, axis=-2, keepdims=False)
        agree = lax.slice_in_dim(seen, i, i + 1, axis=-1) ^ row
        count += lax.population_count(agree).astype(jnp.int32)
    spare = 32 * words.shape[-1] - features  # equal bits at the end of the words
    total = 2 * count - len(taps) * (features + 2 * spare)
    if all(mask.all() for mask in masks):
        return total
    beyond = bit_sums.sums_beyond(kernel, features, masks)
    return total - jnp.expand_dims(beyond, range(outer))


def is_narrow(conv: nnx.Conv) -> bool:
    """Returns whether `convolve` can replace a convolution, and is faster in IREE."""
    return (
        conv.kernel.shape[-2] <= _NARROW
        and conv.feature_group_count == 1
        and not isinstance(conv.padding, str)
        and conv.input_dilation in (1, None)
        and conv.conv_general_dilated is lax.conv_general_dilated
    )


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    rhs_dilation: Sequence[int],
    **others: Any,
) -> jax.Array:
    """Returns what `jax.lax.conv_general_dilated` does with channels last.

    A sum of an input channel times its weights, for each entry of the window: IREE
    makes no vectors of a convolution of one or three channels.
    """
    del others
    window = kernel.shape[:-2]
    geometry = bit_sums.Geometry(
        tuple(window_strides), tuple(padding), tuple(rhs_dilation)
    )
    masks = map(bit_sums.is_inside, x.shape[1:-1], window, *geometry)
    sizes = [len(mask) for mask in masks]
    padded = jnp.pad(x, ((0, 0), *geometry.pads, (0, 0)))
    rows = kernel.reshape(*[1] * (x.ndim - 1), -1, kernel.shape[-1])
    taps = itertools.product(*map(range, window))
    views = [bit_sums.view(padded, tap, sizes, geometry) for tap in taps]
    total = jnp.zeros([], x.dtype)
    for number, (seen, i) in enumerate(itertools.product(views, range(x.shape[-1]))):
        if number and number % _WORDS == 0:
            total = lax.optimization_barrier(total)
        row = lax.index_in_dim(rows, number, axis=-2, keepdims=False)
        total += lax.slice_in_dim(seen, i, i + 1, axis=-1) * row
    return total
