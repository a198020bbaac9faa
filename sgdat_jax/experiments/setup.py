"""From a config to a run that can take its next step: a new one, or one resumed."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import optax
from flax import nnx

from sgdat_jax import optimizers, run_folder, summary
from sgdat_jax.data import pictures, sources
from sgdat_jax.data.dataset import channel_statistics, fingerprint, hold_out
from sgdat_jax.experiments import configs, initial, registry
from sgdat_jax.inference import weight_files
from sgdat_jax.models import sizes, specs
from sgdat_jax.training import checkpoint, runs, states
from sgdat_jax.training.devices import agreement, hosts, parallel

_Config = TypeVar("_Config", bound=configs.BaseConfig)


def set_up(config: configs.TrainConfig) -> runs.Run:
    """Loads the images, builds the network and then makes the run folder.

    Raises:
      ValueError: if the config does not fit the images, if the run folder holds
        something or cannot be written, or if the processes of a job differ in config,
        versions, images or weights at start. Nothing is left on disk then.
    """
    agreement.check_config(runs.with_devices(config))
    config, planned = _planned(config)
    planned = _with_start(config, planned)
    folder = config.run_dir or _default_folder(config)
    return runs.begin(planned, config.seed, pathlib.Path(folder))


def _with_start(config: configs.TrainConfig, planned: runs.Plan) -> runs.Plan:
    """Returns a plan that tells of the weights at start, once they are known to fit."""
    if config.init is None:
        return planned
    network = planned.task.network
    assert network is not None and isinstance(planned.dataset, sources.Dataset)
    with hosts.failing_together():
        found = initial.read(config.init, network)
    agreement.check_start(found.values)
    told = initial.notes(config.init, found, network, config.latent_scale())
    dataset = planned.dataset
    return planned._replace(dataset=dataset._replace(notes=(*dataset.notes, *told)))


def load(config: configs.BaseConfig) -> sources.Dataset:
    """Loads the images; notes of the data set tell of the network, too.

    Raises:
      ValueError: if the config does not fit them.
    """
    dataset = sources.load(config.dataset, config.data_dir, config.pictures())
    dataset = hold_out(dataset, config.validation_share)
    runs.check_fits(config, dataset)
    constants = registry.NORMALIZATIONS[config.normalization]
    channels = dataset.input_shape[2]
    if constants and len(constants[0]) != channels:
        raise ValueError(
            f"normalization {config.normalization} is for images of "
            f"{len(constants[0])} channels, {dataset.name} has {channels}."
        )
    spec = spec_of(config, dataset)
    spec.shapes()
    note = sizes.warning(spec)
    if config.model is None:
        height, width, _ = dataset.input_shape
        note = f"{spec.model} was chosen for {height}x{width} images (--model)"
    alone = ""
    if dataset.num_classes == 1:
        alone = "there is one class alone, so every prediction is right"
    return dataset._replace(notes=(*dataset.notes, *filter(None, [note, alone])))


def settle(config: _Config, dataset: sources.Dataset) -> _Config:
    """Returns a config with what was chosen for the images in place of None."""
    chosen = {} if dataset.options is None else dataclasses.asdict(dataset.options)
    model = spec_of(config, dataset).model
    return dataclasses.replace(config, model=model, **chosen)


def _as_recorded(config: _Config, recorded: configs.BaseConfig) -> _Config:
    """Returns a config with what was chosen for a run before in place of None."""
    names = ("model", *(f.name for f in dataclasses.fields(pictures.Options)))
    chosen = {n: getattr(recorded, n) for n in names if getattr(config, n) is None}
    return dataclasses.replace(config, **chosen)


def _planned(config: configs.TrainConfig) -> tuple[configs.TrainConfig, runs.Plan]:
    """Loads images, the same in each process of a job; returns the config settled."""
    with hosts.failing_together():
        dataset = load(config)
    agreement.check_data(dataset)
    return settle(config, dataset), plan(config, dataset)


def plan(
    config: configs.TrainConfig,
    dataset: sources.Dataset,
    layout: parallel.Layout | None = None,
) -> runs.Plan:
    """Builds the network, in shapes alone, and what else the runs of any seed share.

    Args:
      config: description of the runs.
      dataset: their images.
      layout: their devices, which need not be there; None: those that ``config`` asks
        for.

    Raises:
      ValueError: if the network does not fit the images.
    """
    config = settle(config, dataset)
    steps_per_epoch = runs.steps_per_epoch(config, dataset)
    task, init = create(config, dataset, steps_per_epoch, layout)
    data = fingerprint(dataset)
    return runs.Plan(config, dataset, task, init, steps_per_epoch, data)


def create(
    config: configs.TrainConfig,
    dataset: sources.Dataset,
    steps_per_epoch: int,
    layout: parallel.Layout | None = None,
) -> tuple[states.Task, states.Init]:
    """Returns the fixed part of a run, and the function from a seed to its first state.

    Neither depends on the seed of ``config``. The function is compiled, and reads
    ``config.init`` each time; `jax.eval_shape` of it has all shapes without any work.

    Args:
      config: description of the run.
      dataset: its images, whose training part gives mean and standard deviation if
        ``config`` does not.
      steps_per_epoch: training steps in an epoch, for schedules and restarts.
      layout: the devices of the run; None: those that ``config`` asks for.

    Raises:
      ValueError: if the model does not fit the images, or a batch cannot be divided
        among the devices.
    """
    network = spec_of(config, dataset)
    model = network.shapes()
    hyperparameters = config.hyperparameters()
    scale = None if config.init is None else config.latent_scale()
    if scale is not None:
        hyperparameters["start"] = "params"
    tx = create_optimizer(
        config, nnx.state(model, nnx.Param), steps_per_epoch, hyperparameters
    )
    constants = registry.NORMALIZATIONS[config.normalization]
    normalization = constants or channel_statistics(dataset.train_images)
    task = states.create(
        model,
        tx,
        config,
        normalization,
        steps_per_epoch,
        layout or runs.lay_out(config),
        network,
    )

    # One program: layer by layer, each small operation would be compiled by itself.
    @jax.jit
    def first(seed: int | jax.Array, values: Mapping[str, Any]) -> states.TrainState:
        variables = nnx.state(network.build(seed))
        if not values:
            return states.first(task, seed, variables)
        variables = initial.put(variables, values, 1.0 if scale is None else scale)
        state = states.first(task, seed, variables)
        return state._replace(params=initial.signed(state.params))

    def init(seed: int | jax.Array) -> states.TrainState:
        values: Mapping[str, Any] = {}
        # The shapes need no file, which may be gone when a run is evaluated.
        if config.init is not None and not isinstance(seed, jax.core.Tracer):
            values = initial.read(config.init, network).values
            agreement.check_start(values)
        return first(seed, values)

    return task, init


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
        config.real_hyperparameters(),
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


def resume(config: configs.TrainConfig) -> runs.Run:
    """Goes on with the run in ``config.run_dir``, or begins one if there is none.

    The result is that of a run without a pause, to the bit, on the same machine. A
    finished run is left alone, unless the config has more epochs.

    Raises:
      ValueError: if the folder holds a run with other settings or fewer epochs to go,
        something else, or what another process writes to; or as in `set_up`.
    """
    agreement.check_config(runs.with_devices(config))
    folder = pathlib.Path(str(config.run_dir))
    if hosts.as_writer(run_folder.is_empty(folder)):
        return set_up(config)
    with hosts.failing_together():
        recorded = run_folder.read_config(folder, configs.TrainConfig)
        config = _as_recorded(config, recorded)
        runs.check_recorded(folder, config)
    return runs.go_on(_planned(config)[1], config.seed, folder)


def restore(folder: pathlib.Path, *, allow_changed_data: bool = False) -> runs.Run:
    """Returns a finished run with its last state.

    Raises:
      ValueError: if the folder holds no run, or a damaged one, or if the images or
        labels have changed and that is not allowed.
    """
    config = run_folder.read_config(folder, configs.TrainConfig)
    config = dataclasses.replace(config, allow_changed_data=allow_changed_data)
    run = _to_evaluate(config, folder)
    runs.check_data(run, folder)
    found = checkpoint.restore(folder / run_folder.CHECKPOINTS, run.state)
    return runs.at(run, found)


def restore_weights(
    file: pathlib.Path, *, allow_changed_data: bool = False
) -> runs.Run:
    """Returns a run with the weights of a file, and no state of its optimizers.

    Raises:
      ValueError: if the file is not a whole file of weights, or of no run by command,
        or if the images or labels have changed and that is not allowed.
    """
    about = weight_files.read_about(file)
    if not about.config:
        raise ValueError(
            f"{file} does not tell which images to evaluate it on, as no run of this "
            "command made it; inference.load(file).predict(images) classifies yours."
        )
    config = run_folder.config_of(
        file, configs.TrainConfig, about.config, run_folder.FORMAT
    )
    run = _to_evaluate(config, file.parent)
    run_folder.check_data(file, about.data, run.data, allow=allow_changed_data)
    params, stats = weight_files.read(file, run.state.params, run.state.stats)
    state = run.state._replace(params=params, stats=stats, opt_state=())
    return run._replace(state=state)


def _to_evaluate(config: configs.TrainConfig, folder: pathlib.Path) -> runs.Run:
    """Returns a run on one device, on however many it was trained."""
    alone = dataclasses.replace(config, devices=1, sharded=False)
    run = runs.unstarted(plan(alone, load(config)), config.seed, folder)
    return run._replace(config=dataclasses.replace(config, run_dir=str(folder)))


class Images(Protocol):
    """Shapes that a network is built for: a data set's, or a weights file's."""

    @property
    def num_classes(self) -> int: ...  # noqa: D102

    @property
    def input_shape(self) -> tuple[int, ...]: ...  # noqa: D102


class Shape(NamedTuple):
    """Images that are known by their shape alone."""

    num_classes: int
    input_shape: tuple[int, ...]


def spec_of(config: configs.BaseConfig, dataset: Images) -> specs.Spec:
    """Returns what builds the network of a run."""
    choices = {name: getattr(config, name) for name in specs.CHOICES}
    choices["model"] = config.model or sizes.choose(dataset.input_shape)
    return specs.Spec(
        num_classes=dataset.num_classes, input_shape=dataset.input_shape, **choices
    )


def summarize(
    config: configs.BaseConfig, dataset: Images
) -> list[summary.LayerSummary]:
    """Returns a summary of the network of a run, without building it for real."""
    layers: list[summary.LayerSummary] = []
    # That variance is not defined for the one image of a summary, and counts alike.
    config = dataclasses.replace(config, unbiased_variance=False)

    def trace() -> None:
        model = spec_of(config, dataset).build()
        layers.extend(summary.summarize(model, dataset.input_shape))

    jax.eval_shape(trace)
    return layers


def _default_folder(config: configs.TrainConfig) -> str:
    moment = time.strftime("%Y%m%d-%H%M%S")
    return f"runs/{config.task_name}-{config.optimizer}-seed{config.seed}-{moment}"
