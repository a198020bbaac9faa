"""Words of 32 bits that each hold a latent weight, a flip count and a weight.

From its highest bit on, a word holds a float32 of 16 significant bits (a sign, 8 bits
of exponent, 15 of mantissa), 7 bits of flip count, and a bit that is 1 where the weight
is +1. The lower 8 bits alone, in a uint32 whose other bits are 0, are a *counter*.
"""

import jax
import jax.numpy as jnp
import numpy as np

MAX_FLIPS = 127
_MANTISSA_BITS = 15
_COUNTER = np.uint32(0xFF)
_ONE = np.uint32(0x3F800000)  # the bits of 1 as a float32


def pack(latent: jax.Array, counter: jax.Array) -> jax.Array:
    """Returns words of latents, rounded to nearest with ties to even, and counters."""
    rounded = jax.lax.reduce_precision(
        latent.astype(jnp.float32), exponent_bits=8, mantissa_bits=_MANTISSA_BITS
    )
    return jax.lax.bitcast_convert_type(rounded, jnp.uint32) & ~_COUNTER | counter


def unpack(words: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the latents and counters of words."""
    latent = jax.lax.bitcast_convert_type(words & ~_COUNTER, jnp.float32)
    return latent, words & _COUNTER


def counter(flips: jax.Array, is_positive: jax.Array) -> jax.Array:
    """Returns the counters of flip counts, at most `MAX_FLIPS` of each, and signs."""
    kept = jnp.minimum(flips, MAX_FLIPS).astype(jnp.uint32)
    return kept << 1 | is_positive.astype(jnp.uint32)


def weight(counter: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Returns the weights, -1 or +1, of counters or of words."""
    # Cheaper for a CPU than a selection, whose two sides it would narrow to the dtype.
    bits = ~counter << 31 | _ONE
    return jax.lax.bitcast_convert_type(bits, jnp.float32).astype(dtype)


def against(counter: jax.Array, latent: jax.Array) -> jax.Array:
    """Returns the latents as float32, with another sign where the weight is +1."""
    bits = jax.lax.bitcast_convert_type(latent.astype(jnp.float32), jnp.uint32)
    return jax.lax.bitcast_convert_type(bits ^ counter << 31, jnp.float32)


def flip_count(counter: jax.Array) -> jax.Array:
    """Returns how often each weight has flipped, as int32."""
    return (counter >> 1).astype(jnp.int32)


def restart(counter: jax.Array) -> jax.Array:
    """Returns counters with the same weights and zero flips."""
    return counter & 1


def flipped(counter: jax.Array) -> jax.Array:
    """Returns counters after one more flip; a full one stays full."""
    grown = jnp.minimum(counter + 2, counter | 2 * MAX_FLIPS)
    return grown ^ 1
