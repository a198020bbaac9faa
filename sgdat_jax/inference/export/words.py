"""Sums of products of packed signs for IREE: a count of each word, without a loop."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sgdat_jax import bits

# IREE fuses operations of up to 32 operands, and cuts a longer sum anywhere. With fewer
# than these, the partial sums of all outputs go to memory too often.
_OPERANDS = 28


def sums(
    words: jax.Array, kernel: jax.Array, features: int, geometry: bits.Geometry
) -> jax.Array:
    """Returns what `bits.sums_of_words` does.

    IREE makes vector instructions of ``popcount(x ^ k) + popcount(...) + ...``, but
    nothing good of a loop, a reduction or the carry-save adders that suit XLA. Pads are
    masked in each word: a correction of the outputs would read the kernel once more.
    """
    window = kernel.shape[:-2]
    outer = words.ndim - 1 - len(window)
    spatial = words.shape[outer:-1]
    masks = list(map(bits.is_inside, spatial, window, *geometry))
    sizes = [len(mask) for mask in masks]
    no_pads = [(0, 0, 0)]
    pads = [(low, high, 0) for low, high in geometry.pads]
    padded = lax.pad(words, np.uint32(0), [*no_pads * outer, *pads, *no_pads])
    # Turned round, so that the file has the kernel once: slices of a constant would
    # become constants, too, and so would one that the sums over pads read beside these.
    rows = lax.optimization_barrier(~kernel)
    count, operands = jnp.zeros([], jnp.int32), 0
    taps = list(itertools.product(*map(range, window)))
    for tap in taps:
        seen = bits.view(padded, tap, sizes, geometry)
        for i in range(words.shape[-1]):
            if operands + 3 > _OPERANDS:
                count, operands = lax.optimization_barrier(count), 0
            agree = lax.slice_in_dim(seen, i, i + 1, axis=-1) ^ rows[(*tap, i)]
            count += lax.population_count(agree).astype(jnp.int32)
            operands += 2
    spare = 32 * words.shape[-1] - features  # equal bits at the end of the words
    total = 2 * count - len(taps) * (features + 2 * spare)
    if all(mask.all() for mask in masks):
        return total
    beyond = bits.sums_beyond(kernel, features, masks)
    return total - jnp.expand_dims(beyond, range(outer))
