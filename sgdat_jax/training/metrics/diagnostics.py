"""What an epoch did to the binary weights: flips, thresholds and margins."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sgdat_jax import optimizers

# Powers of two: magnitudes of thresholds, and of |latent| / threshold.
THRESHOLD_EXPONENTS = (-40, 0)
MARGIN_EXPONENTS = (-10, 10)


class Diagnostics(NamedTuple):
    """Distributions over the binary weights, as shares of them."""

    flip_histogram: optimizers.FlipRatio  # flips since the start or restart
    epoch_flip_histogram: optimizers.FlipRatio  # flips in the epoch
    threshold_histogram: jax.Array | None  # by powers of two; zero is left out
    margin_histogram: jax.Array | None  # likewise; without threshold it is left out


def diagnose(opt_state: optax.OptState, counts_before: Any) -> Diagnostics:
    """Returns the distributions at the end of an epoch; may be jitted.

    Args:
      opt_state: at the end of the epoch.
      counts_before: flip counts at its start, zero if they restarted there.
    """
    counts = optimizers.flip_counts(opt_state)
    growth = jax.tree.map(jnp.subtract, counts, counts_before)
    return Diagnostics(
        flip_histogram=optimizers.flip_histogram(counts),
        epoch_flip_histogram=optimizers.flip_histogram(growth),
        threshold_histogram=_read(
            optimizers.thresholds, opt_state, *THRESHOLD_EXPONENTS
        ),
        margin_histogram=_read(
            optimizers.threshold_margins, opt_state, *MARGIN_EXPONENTS
        ),
    )


def _read(
    reader: Any, opt_state: optax.OptState, low: int, high: int
) -> jax.Array | None:
    try:
        values = reader(opt_state)
    except ValueError:  # the optimizer has no latent weights or no thresholds
        return None
    return log2_histogram(values, low, high)


def log2_histogram(values: Any, low: int, high: int) -> jax.Array:
    """Returns the shares of a tree's values by powers of two.

    Args:
      values: a pytree of arrays of numbers that are not negative.
      low: exponent of the first bin, which also takes smaller values above zero.
      high: exponent after the last bin, which also takes larger finite values.

    Returns:
      Shape ``(high - low,)``, float32; zeros and infinities count in no bin.
    """
    leaves = jax.tree.leaves(values)

    def hits(leaf: jax.Array) -> jax.Array:
        exponents = jnp.clip(jnp.frexp(leaf)[1] - 1, low, high - 1)
        counted = (leaf > 0) & (leaf < jnp.inf)
        bins = jnp.where(counted, exponents - low, -1)  # -1 is in no bin
        in_bins = jax.nn.one_hot(bins, high - low, dtype=jnp.bool_)
        return jnp.sum(in_bins, axis=range(leaf.ndim), dtype=jnp.float32)

    return sum(map(hits, leaves)) / sum(leaf.size for leaf in leaves)
