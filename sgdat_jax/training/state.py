"""Everything that a run is, as one pytree, and what stays the same throughout it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from sgdat_jax import optimizers
from sgdat_jax.data import sources
from sgdat_jax.training import config as config_lib
from sgdat_jax.training import registry


class TrainState(NamedTuple):
    """What changes during a run."""

    step: jax.Array  # shape (), int32
    params: nnx.State
    stats: nnx.State  # running averages of batch normalization
    opt_state: optax.OptState


class Task(NamedTuple):
    """What stays the same during a run; hashable, a static argument of the steps."""

    train_graph: nnx.GraphDef
    eval_graph: nnx.GraphDef
    tx: optax.GradientTransformationExtraArgs
    mean: tuple[float, ...]  # of the training images in [0, 1], one per channel
    std: tuple[float, ...]
    crop_padding: int  # pixels
    seed: int  # of the augmentation


def build_model(config: config_lib.TrainConfig, dataset: sources.Dataset) -> nnx.Module:
    """Returns the network of a run with the initial weights of its seed."""
    model_type = registry.look_up("model", registry.MODELS, config.model)
    return model_type(
        dataset.num_classes, input_shape=dataset.input_shape, rngs=nnx.Rngs(config.seed)
    )


def create(
    config: config_lib.TrainConfig, dataset: sources.Dataset, steps_per_epoch: int
) -> tuple[Task, TrainState]:
    """Returns the fixed part and the initial state of a run.

    Args:
      config: description of the run.
      dataset: its images, whose training part gives mean and standard deviation.
      steps_per_epoch: training steps in an epoch, for restarts of flip counts.

    Raises:
      ValueError: if the model does not fit the images or has no binary weights.
    """
    model = build_model(config, dataset)
    hyperparameters = config.hyperparameters()
    if config.reset_flips_every_epoch:
        hyperparameters["reset_flips_every"] = steps_per_epoch
    tx = optimizers.partition_binary(
        model,
        binary=registry.binary_optimizer(config.optimizer, hyperparameters),
        real=optax.adam(config.real_learning_rate),
    )
    model.eval()
    eval_graph = nnx.graphdef(model)
    model.train()
    train_graph, state = nnx.split(model)
    params, stats = nnx.split_state(state, nnx.Param, ...)
    scaled = dataset.train_images / 255
    task = Task(
        train_graph=train_graph,
        eval_graph=eval_graph,
        tx=tx,
        mean=tuple(scaled.mean((0, 1, 2)).tolist()),
        std=tuple(scaled.std((0, 1, 2)).tolist()),
        crop_padding=config.crop_padding,
        seed=config.seed,
    )
    return task, TrainState(
        step=jnp.zeros([], jnp.int32),
        params=params,
        stats=stats,
        opt_state=tx.init(params),
    )
