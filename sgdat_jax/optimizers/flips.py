"""What happens to binary weights during training: flips, silence, oscillation, margins.

Arrays in, arrays out; every function may run inside a jitted step. Trees may hold
``optax.MaskedNode()`` in place of parameters that are not binary.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from sgdat_jax.optimizers import binary


class FlipRatio(NamedTuple):
    """Shares of binary weights that flip, each in [0, 1]; 0 of a leaf without entries.

    Of shape () each, or with an entry per bin of a histogram.
    """

    total: jax.Array  # float32
    per_leaf: chex.ArrayTree  # nested like the binary parameters; leaves like total


def flip_ratio(updates: optax.Updates) -> FlipRatio:
    """Returns the share of binary weights that an update flips.

    A weight in {-1, +1} flips where its update is not zero, which is then -2 or +2; of
    a real-valued start in (-2, 2), whose first update rounds it to -1 or +1, only those
    count whose sign changes.

    Args:
      updates: the updates of binary weights alone; `select_binary` takes them out of
        the updates of a whole model.

    Returns:
      A `FlipRatio`: the share of all weights, and the share of each leaf.

    Raises:
      ValueError: if ``updates`` has no leaves.

    Example:
      >>> import jax.numpy as jnp
      >>> import sgdat_jax as sj
      >>> updates = {"a": jnp.array([0.0, 2.0]), "b": jnp.array([0.0, 0.0, 0.0, -2.0])}
      >>> ratio = sj.flip_ratio(updates)
      >>> print(f"{ratio.total:.4f}", ratio.per_leaf["a"], ratio.per_leaf["b"])
      0.3333 0.5 0.25
    """
    return _share(updates, lambda u: jnp.abs(u) > 1)


def silent_ratio(flip_counts: chex.ArrayTree) -> FlipRatio:
    """Returns the share of binary weights that have not flipped since a restart.

    Args:
      flip_counts: what `flip_counts` returns.

    Returns:
      The share of all weights, and the share of each leaf.

    Raises:
      ValueError: if ``flip_counts`` has no leaves.

    Example:
      >>> import jax.numpy as jnp
      >>> import sgdat_jax as sj
      >>> print(sj.silent_ratio(jnp.array([0, 3, 0, 1])).total)
      0.5
    """
    return _share(flip_counts, lambda n: n == 0)


def oscillating_ratio(
    before: chex.ArrayTree, after: chex.ArrayTree, *, more_than: int
) -> FlipRatio:
    """Returns the share of binary weights that flipped often between two moments.

    Args:
      before: flip counts at the first moment, for example the start of an epoch.
      after: flip counts at the second, with no restart between.
      more_than: a weight oscillates if it flipped more often than this.

    Returns:
      The share of all weights, and the share of each leaf.

    Raises:
      ValueError: if the trees have no leaves.

    Example:
      >>> import jax.numpy as jnp
      >>> import sgdat_jax as sj
      >>> before, after = jnp.array([0, 3, 5, 1]), jnp.array([4, 3, 7, 9])
      >>> print(sj.oscillating_ratio(before, after, more_than=2).total)
      0.5
    """
    growth = jax.tree.map(jnp.subtract, after, before)
    # JAX would wrap a bound that the counter's dtype does not hold.
    return _share(growth, lambda n: n.astype(jnp.int32) > more_than)


# Lower ends of the bins of `flip_histogram`.
FLIP_BINS = (0, *(2**k for k in range(15)))


def flip_histogram(flip_counts: chex.ArrayTree) -> FlipRatio:
    """Returns the shares of binary weights by how often they flipped.

    Args:
      flip_counts: what `flip_counts` returns, or the difference of two such trees.

    Returns:
      The shares of all weights, and those of each leaf, of shape ``(16,)`` each: with
      0, 1, 2 to 3, 4 to 7, ... flips, the last with 16,384 or more.

    Raises:
      ValueError: if ``flip_counts`` has no leaves.

    Example:
      >>> import jax.numpy as jnp
      >>> import sgdat_jax as sj
      >>> print(sj.flip_histogram(jnp.array([0, 3, 0, 1])).total[:4])
      [0.5  0.25 0.25 0.  ]
    """

    def in_bins(counts: jax.Array) -> jax.Array:
        bits = 32 - jax.lax.clz(counts.astype(jnp.int32))  # 0, 1, 2, 2, 3, ...
        last = len(FLIP_BINS) - 1
        return jax.nn.one_hot(jnp.minimum(bits, last), last + 1, dtype=jnp.bool_)

    return _share(flip_counts, in_bins)


def threshold_margins(opt_state: optax.OptState) -> chex.ArrayTree:
    """Returns each latent weight's distance to its threshold, ``|latent| / threshold``.

    A weight may flip where the margin is above 1. It is infinite for a weight that
    never flipped, whose threshold is zero.

    Args:
      opt_state: as in `latent_weights`.

    Returns:
      A pytree shaped like the binary parameters, float32.

    Raises:
      ValueError: if ``opt_state`` holds no latent weights or thresholds.

    Example:
      >>> import jax.numpy as jnp
      >>> import sgdat_jax as sj
      >>> params = jnp.array([1.0, -1.0])
      >>> tx = sj.sgdat(learning_rate=1.0, threshold=0.5)
      >>> _, state = tx.update(jnp.array([1.0, 1.0]), tx.init(params), params)
      >>> print(sj.threshold_margins(state))
      [ 2. inf]
    """

    def margin(latent: jax.Array, threshold: jax.Array) -> jax.Array:
        # No division by zero: `jax.debug_nans` would stop at its 0 / 0.
        divisor = jnp.where(threshold > 0, threshold, 1)
        return jnp.where(threshold > 0, jnp.abs(latent) / divisor, jnp.inf)

    return jax.tree.map(
        margin, binary.latent_weights(opt_state), binary.thresholds(opt_state)
    )


def _share(tree: chex.ArrayTree, holds: Any) -> FlipRatio:
    """Returns the share of weights for which something holds.

    Args:
      tree: of the binary weights.
      holds: from a leaf to a boolean array of its shape, or of one with a last
        dimension more.
    """
    sizes = [jnp.size(leaf) for leaf in jax.tree.leaves(tree)]
    if not sizes:
        raise ValueError(f"The tree must hold binary weights, got {tree!r}.")

    def hits(leaf: jax.Array) -> jax.Array:
        return jnp.sum(holds(leaf), axis=range(jnp.ndim(leaf)), dtype=jnp.float32)

    counts = jax.tree.map(hits, tree)
    return FlipRatio(
        total=jnp.stack(jax.tree.leaves(counts)).sum(0) / max(sum(sizes), 1),
        per_leaf=jax.tree.map(lambda n, leaf: n / max(jnp.size(leaf), 1), counts, tree),
    )
