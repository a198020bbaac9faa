"""One step of training and one of evaluation: pure functions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from sgdat_jax import optimizers
from sgdat_jax.data import augment
from sgdat_jax.training import state as state_lib


class Batch(NamedTuple):
    """Images with labels."""

    images: jax.Array  # (batch, height, width, channels), uint8
    labels: jax.Array  # (batch,), int32


class Metrics(NamedTuple):
    """Sums over examples, so that those of several steps add up."""

    examples: jax.Array  # shape (), float32
    loss: jax.Array  # shape (), float32: sum of the cross-entropies, in nats
    correct: jax.Array  # shape (), float32
    correct_top5: jax.Array  # shape (), float32


def train_step(
    task: state_lib.Task, state: state_lib.TrainState, batch: Batch
) -> tuple[state_lib.TrainState, Metrics, optimizers.FlipRatio]:
    """Takes one step of both optimizers.

    Returns:
      The next state, the metrics of the batch before the step, and the share of binary
      weights that the step flips.
    """
    key = jax.random.fold_in(jax.random.key(state.seed), state.step)
    images = augment.augment(key, batch.images, task.augmentation)
    images = augment.normalize(images, task.mean, task.std)

    def loss_fn(params: nnx.State) -> tuple[jax.Array, tuple[nnx.State, Metrics]]:
        model = nnx.merge(task.train_graph, params, state.stats, copy=True)
        logits = model(images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        stats = nnx.state(model, nnx.Not(nnx.Param))
        weights = jnp.ones_like(losses)
        return losses.mean(), (stats, _metrics(logits, losses, batch.labels, weights))

    gradients, (stats, metrics) = jax.grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = task.tx.update(gradients, state.opt_state, state.params)
    flips = optimizers.flip_ratio(optimizers.select_binary(state.params, updates))
    next_state = state_lib.TrainState(
        step=optax.safe_increment(state.step),
        seed=state.seed,
        params=optax.apply_updates(state.params, updates),
        stats=stats,
        opt_state=opt_state,
    )
    return next_state, metrics, flips


def eval_step(
    task: state_lib.Task,
    state: state_lib.TrainState,
    batch: Batch,
    weights: jax.Array,
) -> Metrics:
    """Returns the metrics of a batch with the running averages of normalization.

    Args:
      task: fixed part of the run.
      state: state of the run; its optimizer state is not used.
      batch: images with labels.
      weights: shape (batch,), 1 for an example that counts and 0 for padding.
    """
    model = nnx.merge(task.eval_graph, state.params, state.stats)
    logits = model(augment.normalize(batch.images, task.mean, task.std))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    return _metrics(logits, losses, batch.labels, weights)


def _metrics(
    logits: jax.Array, losses: jax.Array, labels: jax.Array, weights: jax.Array
) -> Metrics:
    _, ranking = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    hits = (ranking == labels[:, jnp.newaxis]) * weights[:, jnp.newaxis]
    return Metrics(
        examples=weights.sum(),
        loss=(losses * weights).sum(),
        correct=hits[:, 0].sum(),
        correct_top5=hits.sum(),
    )
