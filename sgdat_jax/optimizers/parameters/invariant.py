"""A check that binary weights are binary still."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from sgdat_jax import layers
from sgdat_jax.optimizers.parameters import paths


def check_binary(params: Any, model: Any = None) -> None:
    """Raises ValueError if a binary weight of a model is neither -1 nor +1.

    Call it outside of `jax.jit`, once in a while: nothing else tells when binary
    weights become real-valued. The updates of a binary optimizer are exactly 0 or -2w,
    so whatever changes them afterwards breaks the weights, and so does an ordinary
    optimizer on a `BinaryParam`. What scales, decays, averages or projects updates
    (`optax.scale`, weight decay, `optax.contrib.schedule_free`, `optax.lookahead`,
    `optax.contrib.reduce_on_plateau`, `optax.contrib.mechanize`) belongs

    - inside `latent`, for the latent weights: ``latent(optax.adamw(1e-3))``, or
    - around the optimizer of the real-valued parameters:
      ``partition_binary(model, binary=sgdat(), real=optax.lookahead(...))``.

    What changes gradients before (clipping, accumulation, `optax.apply_if_finite`) may
    be anywhere. Weights that were trained as real numbers, and latents of
    ``start="params"``, become -1 and +1 with the first or second update.

    Args:
      params: an ``nnx.Module``, its ``nnx.State``, a Linen model's variables, or any
        tree shaped like the parameters of `model`.
      model: says which weights are binary, as in `partition_binary`, where `params` are
        bare arrays; None: `params` themselves say so.

    Raises:
      TypeError: if the weights have no values, as in a function under `jax.jit`.
      ValueError: if there are no binary weights, or naming the first one with entries
        that are neither -1 nor +1, how many they are, and between which magnitudes.

    Example:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> import sgdat_jax as sj
      >>> model = sj.BinaryLinear(4, 2, rngs=nnx.Rngs(0))
      >>> sj.check_binary(model)
      >>> model.kernel[...] *= 0.5
      >>> sj.check_binary(model)
      Traceback (most recent call last):
      ...
      ValueError: `params` must be -1 and +1 where they are binary, got 8 of 8 \
weights at kernel that are not, of magnitudes from 0.5 to 0.5. What scales, decays or \
averages updates belongs inside `latent`, or to the optimizer of the real-valued \
parameters.
    """
    found = False
    for path, leaf in _binary_leaves(params, params if model is None else model):
        found = True
        if isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct):
            raise TypeError(
                f"`params` must have values, got {leaf} at {paths.join(path)}: call "
                "`check_binary` outside of compiled functions."
            )
        off = [abs(part[np.abs(part) != 1].astype(float)) for part in _parts(leaf)]
        wrong = np.concatenate(off)
        if wrong.size:
            size = sum(part.size for part in _parts(leaf))
            raise ValueError(
                f"`params` must be -1 and +1 where they are binary, got {wrong.size} "
                f"of {size} weights at {paths.join(path)} that are not, of magnitudes "
                f"from {wrong.min():.6g} to {wrong.max():.6g}. What scales, decays or "
                "averages updates belongs inside `latent`, or to the optimizer of the "
                "real-valued parameters."
            )
    if not found:
        raise ValueError(
            "`params` must hold binary weights (of type BinaryParam, or in the "
            f"collection {layers.LINEN_COLLECTION!r}), got none in "
            f"{type(params).__name__}; for bare arrays, give the `model`, too."
        )


def _binary_leaves(params: Any, model: Any) -> Iterator[tuple[paths.Path, Any]]:
    binary = paths.binary_paths(model)
    for path, leaf in paths.leaves_with_path(paths.as_tree(params)):
        if path in binary:
            yield path, paths.value_of(leaf)


def _parts(leaf: Any) -> list[np.ndarray]:
    """Returns an array's values, or those that this process holds, each once."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        shards = leaf.addressable_shards
        return [np.asarray(s.data) for s in shards if s.replica_id == 0]
    return [np.asarray(leaf)]
