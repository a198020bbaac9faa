"""Everything that a run is, as one pytree, and what stays the same throughout it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from sgdat_jax import optimizers
from sgdat_jax.data import augment
from sgdat_jax.models import specs
from sgdat_jax.optimizers.parameters import trees
from sgdat_jax.training.devices import parallel
from sgdat_jax.training.settings import Settings


class TrainState(NamedTuple):
    """What changes during a run."""

    step: jax.Array  # shape (), int32
    seed: jax.Array  # shape (), uint32: of the augmentation
    params: nnx.State
    stats: nnx.State  # running averages of batch normalization
    opt_state: optax.OptState
    skipped: jax.Array  # shape (), int32: steps skipped in a row, up to now
    counts_before: Any  # flip counts when the epoch began; None without diagnostics


class Task(NamedTuple):
    """What stays the same during a run; hashable, a static argument of the steps."""

    train_graph: nnx.GraphDef
    eval_graph: nnx.GraphDef
    tx: optax.GradientTransformationExtraArgs
    mean: tuple[float, ...]  # of images in [0, 1], one per channel
    std: tuple[float, ...]
    augmentation: augment.Augmentation
    label_smoothing: float
    diagnostics: bool
    steps: int  # of the whole run
    model: str  # name of the network's class
    binary_layers: tuple[str, ...]  # paths of layers with binary weights
    layout: parallel.Layout  # the devices
    choices: Any = None  # what the network says of itself: a hashable dataclass
    network: specs.Spec | None = None  # what builds it; None: unknown
    counts_flips: bool = False  # whether the optimizer does

    @property
    def is_binary(self) -> bool:
        """Whether the network has any binary weights."""
        return bool(self.binary_layers)


Init = Callable[[Any], TrainState]  # of the seed


def create(
    model: nnx.Module,
    tx: optax.GradientTransformation,
    settings: Settings,
    normalization: tuple[Sequence[float], Sequence[float]],
    steps_per_epoch: int,
    layout: parallel.Layout,
    network: specs.Spec | None = None,
) -> Task:
    """Returns the fixed part of a run.

    Args:
      model: the network, or its shapes.
      tx: optimizer of its parameters.
      settings: how it is trained; the seed does not matter.
      normalization: mean and standard deviation of each channel of images in [0, 1].
      steps_per_epoch: training steps in an epoch.
      layout: the devices of the run.
      network: what builds the network, for files of weights; None: unknown.

    Raises:
      TypeError: if `tx` is no optimizer.
      ValueError: if a batch cannot be divided among the devices.
    """
    layout.check_batch_size(settings.batch_size)
    model = nnx.clone(model)
    params = nnx.state(model, nnx.Param)
    model.eval()
    eval_graph = nnx.graphdef(model)
    model.train()
    mean, std = normalization
    return Task(
        train_graph=nnx.graphdef(model),
        eval_graph=eval_graph,
        tx=trees.as_optimizer("`tx`", tx),
        mean=tuple(mean),
        # A constant channel, such as most alphas, is 0 once its mean is taken off.
        std=tuple(deviation or 1.0 for deviation in std),
        augmentation=augment.Augmentation(
            settings.crop_padding, settings.flip, settings.resized_crop
        ),
        label_smoothing=settings.label_smoothing,
        diagnostics=settings.diagnostics,
        steps=settings.epochs * steps_per_epoch,
        model=type(model).__name__,
        binary_layers=tuple(
            optimizers.layers_of(optimizers.select_binary(params, params))
        ),
        layout=layout,
        choices=getattr(model, "choices", None),
        network=network,
        counts_flips=_counts_flips(tx, params),
    )


def _counts_flips(tx: optax.GradientTransformation, params: nnx.State) -> bool:
    try:
        jax.eval_shape(lambda params: optimizers.flip_counts(tx.init(params)), params)
    except ValueError:
        return False
    return True


def first(task: Task, seed: int | jax.Array, variables: nnx.State) -> TrainState:
    """Returns the state that a run starts from.

    Args:
      task: the fixed part of the run.
      seed: of the augmentation.
      variables: parameters and running averages of the network.
    """
    params, stats = nnx.split_state(variables, nnx.Param, ...)
    opt_state = task.tx.init(params)
    counts = None
    if task.diagnostics and task.counts_flips:
        counts = optimizers.flip_counts(opt_state)
    state = TrainState(
        step=jnp.zeros([], jnp.int32),
        seed=jnp.asarray(seed, jnp.uint32),
        params=params,
        stats=stats,
        opt_state=opt_state,
        skipped=jnp.zeros([], jnp.int32),
        counts_before=counts,
    )
    return task.layout.settle(state)
