"""Everything that a run is, as one pytree, and what stays the same throughout it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from sgdat_jax import optimizers, summary
from sgdat_jax.data import augment, sources
from sgdat_jax.data import dataset as dataset_lib
from sgdat_jax.experiments import configs, registry
from sgdat_jax.models import blocks, fitting, specs
from sgdat_jax.training import parallel


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
    network: specs.Spec
    choices: blocks.Choices  # how the network was built
    layout: parallel.Layout | None = None  # None: on one device

    @property
    def is_binary(self) -> bool:
        """Whether the network has any binary weights."""
        return bool(self.choices.binary_layers)


Init = Callable[[Any], TrainState]  # of the seed


class Images(Protocol):
    """What a network is built by: a data set, or what a file of weights says of one."""

    @property
    def num_classes(self) -> int: ...  # noqa: D102

    @property
    def input_shape(self) -> tuple[int, ...]: ...  # noqa: D102


def spec_of(config: configs.BaseConfig, dataset: Images) -> specs.Spec:
    """Returns what builds the network of a run."""
    choices = {name: getattr(config, name) for name in specs.CHOICES}
    choices["model"] = config.model or fitting.choose(dataset.input_shape)
    return specs.Spec(
        num_classes=dataset.num_classes, input_shape=dataset.input_shape, **choices
    )


def summarize(
    config: configs.BaseConfig, dataset: sources.Dataset
) -> list[summary.LayerSummary]:
    """Returns a summary of the network of a run, without building it for real."""
    layers: list[summary.LayerSummary] = []

    def trace() -> None:
        model = spec_of(config, dataset).build()
        layers.extend(summary.summarize(model, dataset.input_shape))

    jax.eval_shape(trace)
    return layers


def create_optimizer(
    config: configs.TrainConfig,
    params: nnx.State,
    steps_per_epoch: int,
    hyperparameters: Mapping[str, Any],
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer of all parameters.

    Without binary weights among them, it is the real-valued parameters' alone.

    Args:
      config: description of the run.
      params: the parameters, or their shapes.
      steps_per_epoch: as in `create`.
      hyperparameters: of the binary optimizer; numbers, or traced arrays where many
        settings run in one program. Those that are None keep their default.
    """
    if config.restarts_flips:
        hyperparameters = {**hyperparameters, "reset_flips_every": steps_per_epoch}
    steps = config.epochs * steps_per_epoch
    tx = registry.real_optimizer(
        config.real_optimizer,
        registry.schedule(
            config.real_schedule,
            config.real_learning_rate,
            steps,
            config.real_warmup_epochs * steps_per_epoch,
        ),
        config.real_momentum,
        steps_per_epoch if config.restart_real_every_epoch else None,
    )
    if jax.tree.leaves(optimizers.select_binary(params, params)):
        binary = registry.binary_optimizer(
            config.optimizer,
            hyperparameters,
            steps_per_epoch,
            restart=config.restart_binary_every_epoch,
            schedule=config.binary_schedule,
            steps=steps,
        )
        tx = optimizers.partition_binary(params, binary=binary, real=tx)
    if config.clip_norm is not None:
        tx = optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)
    return tx


def create(
    config: configs.TrainConfig,
    dataset: sources.Dataset,
    steps_per_epoch: int,
    layout: parallel.Layout | None = None,
) -> tuple[Task, Init]:
    """Returns the fixed part of a run, and the function from a seed to its first state.

    Neither depends on the seed of ``config``. The function is pure and jitted;
    `jax.eval_shape` of it has all shapes without any work.

    Args:
      config: description of the run.
      dataset: its images, whose training part gives mean and standard deviation if
        ``config`` does not.
      steps_per_epoch: training steps in an epoch, for schedules and restarts of flip
        counts.
      layout: the devices of the run; None: one device.

    Raises:
      ValueError: if the model does not fit the images, or a batch cannot be divided
        among the devices.
    """
    parallel.check_batch_size(layout, config.batch_size)
    network = spec_of(config, dataset)
    model = network.shapes()
    tx = create_optimizer(
        config, nnx.state(model, nnx.Param), steps_per_epoch, config.hyperparameters()
    )
    model.eval()
    eval_graph = nnx.graphdef(model)
    model.train()
    constants = registry.NORMALIZATIONS[config.normalization]
    mean, std = constants or dataset_lib.channel_statistics(dataset.train_images)
    # A constant channel, such as most alphas, is 0 once its mean is taken off.
    std = tuple(deviation or 1.0 for deviation in std)
    task = Task(
        train_graph=nnx.graphdef(model),
        eval_graph=eval_graph,
        tx=tx,
        mean=mean,
        std=std,
        augmentation=augment.Augmentation(
            config.crop_padding, config.flip, config.resized_crop
        ),
        label_smoothing=config.label_smoothing,
        diagnostics=config.diagnostics,
        network=network,
        choices=model.choices,
        layout=layout,
    )

    def init(seed: int | jax.Array) -> TrainState:
        variables = nnx.state(network.build(seed))
        params, stats = nnx.split_state(variables, nnx.Param, ...)
        opt_state = tx.init(params)
        counts = None
        if task.diagnostics and task.is_binary:
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
        return parallel.settle(layout, state)

    # One program: layer by layer, each small operation would be compiled by itself.
    return task, jax.jit(init)
