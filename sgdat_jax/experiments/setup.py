"""From a config to a run that can take its next step: a new one, or one resumed."""

import dataclasses
import importlib.util
import pathlib
import time
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from sgdat_jax.data import pictures, sources
from sgdat_jax.experiments import configs, registry
from sgdat_jax.inference import weight_files
from sgdat_jax.models import fitting
from sgdat_jax.training import (
    agreement,
    checkpoint,
    hosts,
    parallel,
    records,
    run_folder,
    states,
)

_Config = TypeVar("_Config", bound=configs.BaseConfig)


class Progress(NamedTuple):
    """How far a run has come, besides its state."""

    lines: tuple[dict[str, Any], ...] = ()  # of metrics, one per epoch that has ended
    times: tuple[dict[str, Any], ...] = ()  # of the same epochs
    seconds: float = 0.0  # of the whole run so far
    steps: int = 0  # of the epoch under way
    epoch_seconds: float = 0.0  # that these took
    record: records.EpochRecord | None = None  # of these


class Run(NamedTuple):
    """A run that is set up: all that its next step needs."""

    config: configs.TrainConfig
    folder: pathlib.Path
    dataset: sources.Dataset
    task: states.Task
    state: states.TrainState
    steps_per_epoch: int
    progress: Progress = Progress()
    lock: Any = None  # of the folder, while it is written to
    notes: tuple[str, ...] = ()  # what was found amiss when it was restored

    @property
    def steps_done(self) -> int:
        """Steps of all epochs so far."""
        epochs = len(self.progress.lines)
        return epochs * self.steps_per_epoch + self.progress.steps


class Plan(NamedTuple):
    """What the runs of a config with any seed have in common."""

    config: configs.TrainConfig
    dataset: sources.Dataset
    task: states.Task
    init: states.Init
    steps_per_epoch: int


def set_up(config: configs.TrainConfig) -> Run:
    """Loads the images, builds the network and then makes the run folder.

    Raises:
      ValueError: if the config does not fit the images, if the run folder holds
        something or cannot be written, or if the processes of a job differ in config,
        versions or images. Nothing is left on disk then.
    """
    agreement.check_config(_with_devices(config))
    planned = plan(config, _load_alike(config))
    folder = config.run_dir or _default_folder(planned.config)
    return begin(planned, config.seed, pathlib.Path(folder))


def load(config: configs.BaseConfig) -> sources.Dataset:
    """Loads the images; notes of the data set tell of the network, too.

    Raises:
      ValueError: if the config does not fit them.
    """
    dataset = sources.load(config.dataset, config.data_dir, config.pictures())
    num_images = len(dataset.train_images)
    if config.batch_size > num_images:
        raise ValueError(
            f"batch_size must be at most the {num_images} training images, got "
            f"{config.batch_size}."
        )
    side = min(dataset.input_shape[:2])
    if config.crop_padding >= side:
        raise ValueError(
            f"crop_padding must be less than the {side} pixels of an image's side, got "
            f"{config.crop_padding}."
        )
    constants = registry.NORMALIZATIONS[config.normalization]
    channels = dataset.input_shape[2]
    if constants and len(constants[0]) != channels:
        raise ValueError(
            f"normalization {config.normalization} is for images of "
            f"{len(constants[0])} channels, {dataset.name} has {channels}."
        )
    if _streams(config, dataset) and importlib.util.find_spec("grain") is None:
        raise ValueError(
            "grain is not installed, and so many training images need it: pip install "
            f"grain, or a higher stream_above, got {config.stream_above}."
        )
    spec = states.spec_of(config, dataset)
    spec.shapes()
    note = fitting.warning(spec)
    if config.model is None:
        height, width, _ = dataset.input_shape
        note = f"{spec.model} was chosen for {height}x{width} images (--model)"
    return dataset._replace(notes=(*dataset.notes, *filter(None, [note])))


def settle(config: _Config, dataset: sources.Dataset) -> _Config:
    """Returns a config with what was chosen for the images in place of None."""
    chosen = {} if dataset.options is None else dataclasses.asdict(dataset.options)
    model = states.spec_of(config, dataset).model
    return dataclasses.replace(config, model=model, **chosen)


def _as_recorded(config: _Config, recorded: configs.BaseConfig) -> _Config:
    """Returns a config with what was chosen for a run before in place of None."""
    names = ("model", *(f.name for f in dataclasses.fields(pictures.Options)))
    chosen = {n: getattr(recorded, n) for n in names if getattr(config, n) is None}
    return dataclasses.replace(config, **chosen)


def _load_alike(config: configs.TrainConfig) -> sources.Dataset:
    """Loads the images in each process of a job, and checks that they are the same."""
    with hosts.failing_together():
        dataset = load(config)
    agreement.check_data(dataset)
    return dataset


def plan(config: configs.TrainConfig, dataset: sources.Dataset) -> Plan:
    """Builds the network, in shapes alone, and what else the runs of any seed share.

    Raises:
      ValueError: if the network does not fit the images.
    """
    config = settle(config, dataset)
    steps_per_epoch = len(dataset.train_images) // config.batch_size
    layout = parallel.lay_out(_devices(config.devices), sharded=config.sharded)
    task, init = states.create(config, dataset, steps_per_epoch, layout)
    return Plan(config, dataset, task, init, steps_per_epoch)


def _devices(count: int | None) -> list[jax.Device]:
    """Returns the devices to train on: as many of each host as are asked for.

    Raises:
      ValueError: if a host has not so many.
    """
    local = jax.local_device_count()
    count = _device_count(count)
    if count > local:
        raise ValueError(f"devices must be at most the {local} there are, got {count}.")
    return [
        device
        for process in range(jax.process_count())
        for device in jax.local_devices(process)[:count]
    ]


def _device_count(count: int | None) -> int:
    if count is not None:
        return count
    return 1 if jax.default_backend() == "cpu" else jax.local_device_count()


def _with_devices(config: configs.TrainConfig) -> configs.TrainConfig:
    """Returns a config with the number of devices of this host in place of None."""
    return dataclasses.replace(config, devices=_device_count(config.devices))


def begin(plan: Plan, seed: int, folder: pathlib.Path) -> Run:
    """Makes the run folder and the first state; runs of one plan share their programs.

    Raises:
      ValueError: if the run folder holds something or cannot be written.
    """
    run, lock = _run(plan, seed, folder), None
    with hosts.failing_together():
        if hosts.is_writer():
            lock = run_folder.create(run.folder, run.config)
    return run._replace(state=plan.init(np.uint32(seed)), lock=lock)


def resume(config: configs.TrainConfig) -> Run:
    """Goes on with the run in ``config.run_dir``, or begins one if there is none.

    The result is that of a run without a pause, to the bit, on the same machine. A
    finished run is left alone, unless the config has more epochs.

    Raises:
      ValueError: if the folder holds a run with other settings or fewer epochs to go,
        something else, or what another process writes to; or as in `set_up`.
    """
    agreement.check_config(_with_devices(config))
    folder = pathlib.Path(str(config.run_dir))
    if hosts.as_writer(run_folder.is_empty(folder)):
        return set_up(config)
    with hosts.failing_together():
        config = _as_recorded(config, run_folder.read_config(folder))
        _check_recorded(folder, config)
    return go_on(plan(config, _load_alike(config)), config.seed, folder)


def go_on(plan: Plan, seed: int, folder: pathlib.Path) -> Run:
    """Returns the run in a folder from its last whole checkpoint, or from its start.

    If the folder is new or empty, this is `begin`.

    Raises:
      ValueError: as in `resume`.
    """
    if hosts.as_writer(run_folder.is_empty(folder)):
        return begin(plan, seed, folder)
    is_longer = _check_recorded(folder, dataclasses.replace(plan.config, seed=seed))
    hosts.meet("before the config is written anew")
    with hosts.failing_together():
        lock = _lock(folder) if hosts.is_writer() else None
    try:
        is_finished = bool(hosts.as_writer(run_folder.is_finished(folder)))
        run = _run(plan, seed, folder)
        if not is_finished or is_longer:
            return _reopen(run, plan.init, is_finished)._replace(lock=lock)
        run = _as_finished(run)
    except BaseException:
        if lock is not None:
            lock.release()
        raise
    if lock is not None:
        lock.release()
    return run


def _lock(folder: pathlib.Path) -> Any:
    try:
        return run_folder.lock(folder)
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error.strerror}.") from None


def _reopen(run: Run, init: states.Init, is_finished: bool) -> Run:
    """Returns a run where its last whole checkpoint is, or else at its start.

    Raises:
      ValueError: if it is a finished run without a whole checkpoint.
    """
    folder = run.folder / run_folder.CHECKPOINTS
    step = checkpoint.newest_whole(folder)[0] if is_finished else 0
    with hosts.failing_together():
        if step < 0:
            raise ValueError(
                f"{run.folder} holds a finished run whose states are damaged or gone: "
                f"it cannot go on to epochs={run.config.epochs}; choose another "
                "run_dir."
            )
    found, notes = checkpoint.restore_newest_whole(folder, run.state)
    run = run._replace(notes=tuple(notes))
    if found is None:
        run = run._replace(state=init(np.uint32(run.config.seed)))
    else:
        run = _at(run, found)
    if hosts.is_writer() and not _is_over(run):
        run_folder.write_epochs(run.folder, run.progress.lines, run.progress.times)
        run_folder.reopen(run.folder, run.config)
    return run


def _as_finished(run: Run) -> Run:
    """Returns a finished run with its last state, and changes nothing.

    Without a whole checkpoint of its end, the state has shapes alone and there is no
    progress.

    Raises:
      ValueError: if the result is damaged.
    """
    run_folder.read_result(run.folder)
    folder = run.folder / run_folder.CHECKPOINTS
    step, damage = checkpoint.newest_whole(folder)
    run = run._replace(notes=tuple(damage.values()))
    last = _at(run, checkpoint.restore(folder, run.state, step)) if step >= 0 else run
    return last if _is_over(last) else run


def _is_over(run: Run) -> bool:
    return len(run.progress.lines) == run.config.epochs


def _check_recorded(folder: pathlib.Path, config: configs.TrainConfig) -> bool:
    """Raises ValueError unless a run in a folder may go on with a config.

    Returns:
      Whether the config has more epochs than were recorded.
    """
    recorded = run_folder.read_config(folder)
    run_folder.check_same(folder, recorded, config, free=("epochs",))
    if config.epochs < recorded.epochs:
        raise ValueError(
            f"epochs must be at least the {recorded.epochs} of the run in {folder}, "
            f"got {config.epochs}."
        )
    return config.epochs > recorded.epochs


def restore(folder: pathlib.Path) -> Run:
    """Returns a finished run with its last state.

    Raises:
      ValueError: if the folder holds no run, or a damaged one.
    """
    config = run_folder.read_config(folder)
    run = _to_evaluate(config, folder)
    found = checkpoint.restore(folder / run_folder.CHECKPOINTS, run.state)
    return _at(run, found)


def restore_weights(file: pathlib.Path) -> Run:
    """Returns a run with the weights of a file, and no state of its optimizers.

    Raises:
      ValueError: if the file is not a whole file of weights.
    """
    about = weight_files.read_about(file)
    config = run_folder.config_of(file, about.config, run_folder.FORMAT)
    run = _to_evaluate(config, file.parent)
    params, stats = weight_files.read(file, run.state.params, run.state.stats)
    state = run.state._replace(params=params, stats=stats, opt_state=())
    return run._replace(state=state)


def _to_evaluate(config: configs.TrainConfig, folder: pathlib.Path) -> Run:
    """Returns a run on one device, on however many it was trained."""
    alone = dataclasses.replace(config, devices=1, sharded=False)
    run = _run(plan(alone, load(config)), config.seed, folder)
    return run._replace(config=dataclasses.replace(config, run_dir=str(folder)))


def checkpoint_of(run: Run) -> checkpoint.Checkpoint:
    """Returns what is to be saved of a run."""
    progress = run.progress._asdict()
    if run.progress.record is not None:
        progress["record"] = run.progress.record.sums()
    return checkpoint.Checkpoint(run.state, progress)


def is_streamed(plan: Plan | Run) -> bool:
    """Returns whether the training images go to the device batch by batch."""
    return _streams(plan.config, plan.dataset)


def _streams(config: configs.BaseConfig, dataset: sources.Dataset) -> bool:
    return dataset.train_images.nbytes > config.stream_above * 1e9


def _run(plan: Plan, seed: int, folder: pathlib.Path) -> Run:
    """Returns a run whose state is but shapes."""
    return Run(
        config=dataclasses.replace(plan.config, seed=seed, run_dir=str(folder)),
        folder=folder,
        dataset=plan.dataset,
        task=plan.task,
        state=parallel.shapes(
            plan.task.layout, jax.eval_shape(plan.init, np.uint32(seed))
        ),
        steps_per_epoch=plan.steps_per_epoch,
    )


def _at(run: Run, found: checkpoint.Checkpoint) -> Run:
    """Returns a run where it was when a checkpoint was saved."""
    progress = Progress(**found.progress)
    if found.progress["record"] is not None:
        record = records.EpochRecord(found.progress["record"])
        progress = progress._replace(record=record)
    return run._replace(state=found.state, progress=progress)


def _default_folder(config: configs.TrainConfig) -> str:
    moment = time.strftime("%Y%m%d-%H%M%S")
    return f"runs/{config.task_name}-{config.optimizer}-seed{config.seed}-{moment}"
