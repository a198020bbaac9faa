"""One step of training and one of evaluation: pure functions."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from sgdat_jax import optimizers, signs
from sgdat_jax.data import augment
from sgdat_jax.training import states

_STEPS_PER_CALL = 256


class Batch(NamedTuple):
    """Images with labels."""

    images: jax.Array  # (batch, height, width, channels), uint8
    labels: jax.Array  # (batch,), int32


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("rows", "labels"),
    meta_fields=("shape",),
)
@dataclasses.dataclass(frozen=True)
class Images:
    """All training images with labels, to be taken by their numbers.

    Each image is a row: a TPU lays arrays out in tiles of their last two dimensions,
    and would copy images of 32x32x3 at each call into four times their memory.
    """

    rows: jax.Array  # (images, height * width * channels), uint8
    labels: jax.Array  # (images,), int32
    shape: tuple[int, ...]  # height, width and channels

    @classmethod
    def of(cls, images: Any, labels: Any) -> "Images":
        """Returns images of shape (images, height, width, channels) as rows."""
        return cls(images.reshape(len(images), -1), labels, images.shape[1:])

    def take(self, numbers: jax.Array) -> Batch:
        """Returns the images of some numbers, of shape (batch,)."""
        images = self.rows[numbers].reshape(-1, *self.shape)
        return Batch(images, self.labels[numbers])


class Metrics(NamedTuple):
    """Sums over examples, so that those of several steps add up; 0 if skipped."""

    examples: jax.Array  # shape (), float32
    loss: jax.Array  # shape (), float32: sum of the cross-entropies, in nats
    correct: jax.Array  # shape (), float32
    correct_top5: jax.Array  # shape (), float32


class WeightMetrics(NamedTuple):
    """What a step does to the weights."""

    skipped: jax.Array  # shape (), int32: steps skipped in a row, up to this one
    flips: optimizers.FlipRatio | None  # None for a network without binary weights
    gradients: Any  # mean magnitude per parameter, shape () each; None if not asked for


def train_step(
    task: states.Task, state: states.TrainState, batch: Batch
) -> tuple[states.TrainState, Metrics, WeightMetrics]:
    """Takes one step of both optimizers.

    If the loss or a gradient is not finite, the step is skipped: nothing changes but
    the number of the step, and with it the images' augmentation.

    Returns:
      The next state, the metrics of the batch before the step, and what the step does
      to the weights.
    """
    # Names of scopes are what profiles show.
    with jax.named_scope("augmentation"):
        key = jax.random.fold_in(jax.random.key(state.seed), state.step)
        images = augment.augment(key, batch.images, task.augmentation)
        images = augment.normalize(images, task.mean, task.std)

    def loss_fn(params: nnx.State) -> tuple[jax.Array, tuple[nnx.State, Metrics]]:
        model = nnx.merge(task.train_graph, params, state.stats, copy=True)
        with jax.named_scope("model"), signs.annealing(state.step / task.steps):
            logits = model(images)
            losses = _losses(logits, batch.labels, task.label_smoothing)
        stats = nnx.state(model, nnx.Not(nnx.Param))
        weights = jnp.ones_like(losses)
        return losses.mean(), (stats, _metrics(logits, losses, batch.labels, weights))

    params = task.layout.whole_params(state.params, state.opt_state)
    gradients, (stats, metrics) = jax.grad(loss_fn, has_aux=True)(params)
    gradients = task.layout.sums(gradients)
    stats, metrics = task.layout.whole((stats, metrics))
    with jax.named_scope("optimizer"):
        updates, opt_state = task.tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
    flips = None
    if task.is_binary:
        with jax.named_scope("metrics"):
            changes = optimizers.select_binary(state.params, updates)
            flips = optimizers.flip_ratio(changes)
    magnitudes = jax.tree.map(_mean_magnitude, gradients)
    with jax.named_scope("skip"):
        # A mean is finite only if every entry is.
        losses_and_means = [metrics.loss, *jax.tree.leaves(magnitudes)]
        is_finite = jnp.isfinite(jnp.stack(losses_and_means)).all()
    taken = state._replace(
        params=params,
        stats=stats,
        opt_state=opt_state,
        skipped=jnp.zeros_like(state.skipped),
    )
    skipped = state._replace(skipped=state.skipped + 1)
    next_state = _select(is_finite, taken, skipped)
    next_state = next_state._replace(step=optax.safe_increment(state.step))
    record = metrics, flips, magnitudes if task.diagnostics else None
    metrics, flips, magnitudes = _select(
        is_finite, record, jax.tree.map(jnp.zeros_like, record)
    )
    weights = WeightMetrics(next_state.skipped, flips, magnitudes)
    metrics, weights = task.layout.whole((metrics, weights))
    return task.layout.settle(next_state), metrics, weights


def begin_epoch(task: states.Task, state: states.TrainState) -> states.TrainState:
    """Marks the flip counts from which those of an epoch are counted."""
    if state.counts_before is not None:
        counts = optimizers.flip_counts(state.opt_state)
        state = state._replace(counts_before=counts)
    return task.layout.settle(state)


@jax.named_scope("skip")
def _select(condition: jax.Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)


@jax.named_scope("metrics")
def _mean_magnitude(gradient: jax.Array) -> jax.Array:
    # By columns first: XLA's CPU backend sums a whole array in one slow chain.
    gradient = jnp.atleast_1d(gradient)
    if not gradient.size:
        return jnp.zeros([], gradient.dtype)  # not NaN, which would skip the step
    columns = jnp.abs(gradient).reshape(-1, gradient.shape[-1])
    return columns.mean(0).mean()


Record = tuple[Metrics, WeightMetrics]  # of one step, or with an entry per step


def _recorded_step(
    task: states.Task, state: states.TrainState, batch: Batch
) -> tuple[states.TrainState, Record]:
    state, metrics, weights = train_step(task, state, batch)
    return state, (metrics, weights)


def train_steps(
    task: states.Task, state: states.TrainState, data: Images, indices: jax.Array
) -> tuple[states.TrainState, Record]:
    """Takes several steps.

    Args:
      task: fixed part of the run.
      state: state of the run.
      data: all training images.
      indices: shape (steps, batch): numbers of the images of each step.
    """

    def take(state: states.TrainState, numbers: jax.Array) -> Any:
        return _recorded_step(task, state, data.take(numbers))

    if len(indices) > 1:
        return jax.lax.scan(take, state, indices)
    return train_batch(task, state, data.take(indices[0]))


def train_batch(
    task: states.Task, state: states.TrainState, batch: Batch
) -> tuple[states.TrainState, Record]:
    """Takes one step on a batch at hand; its record has an entry for that step."""
    state, record = _recorded_step(task, state, batch)
    return state, jax.tree.map(lambda leaf: leaf[jnp.newaxis], record)


def steps_per_call(platform: str | None = None) -> int:
    """Returns how many steps to take in one program.

    XLA's CPU backend runs a convolution's gradient far slower in a loop than alone.

    Args:
      platform: of the devices; None: of those that jax chooses.
    """
    platform = platform or jax.default_backend()
    return 1 if platform == "cpu" else _STEPS_PER_CALL


def eval_step(
    task: states.Task,
    state: states.TrainState,
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
    params = task.layout.whole_params(state.params, state.opt_state)
    stats = task.layout.whole(state.stats)
    model = nnx.merge(task.eval_graph, params, stats)
    logits = model(augment.normalize(batch.images, task.mean, task.std))
    losses = _losses(logits, batch.labels)
    metrics = _metrics(logits, losses, batch.labels, weights)
    return task.layout.whole(metrics)


def _losses(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Returns the cross-entropies of a batch, of shape (batch,)."""
    if not smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, smoothing))


@jax.named_scope("metrics")
def _metrics(
    logits: jax.Array, losses: jax.Array, labels: jax.Array, weights: jax.Array
) -> Metrics:
    _, ranking = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    hits = (ranking == labels[:, jnp.newaxis]).astype(weights.dtype)
    hits = hits * weights[:, jnp.newaxis]
    return Metrics(
        examples=weights.sum(),
        loss=(losses * weights).sum(),
        correct=hits[:, 0].sum(),
        correct_top5=hits.sum(),
    )
