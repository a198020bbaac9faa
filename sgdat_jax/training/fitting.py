"""Training from Python: objects in, a result out."""

import contextlib
import dataclasses
import functools
import pathlib
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from sgdat_jax import optimizers, run_folder
from sgdat_jax.data.dataset import Dataset, channel_statistics, fingerprint, hold_out
from sgdat_jax.run_folder import formats
from sgdat_jax.training import interruption, keepers, loop, runs, settings, states
from sgdat_jax.training.devices import agreement, hosts


class _BinaryCheck(loop.Watcher):
    """Warns once if binary weights are no longer -1 and +1."""

    def __init__(self) -> None:
        self._warned = False

    def epoch_trained(self, state: states.TrainState) -> None:
        binary = optimizers.select_binary(state.params, state.params)
        if self._warned or not jax.tree.leaves(binary):
            return
        try:
            optimizers.check_binary(state.params)
        except ValueError as error:
            self._warned = True
            warnings.warn(str(error), stacklevel=2)


class Fitted(NamedTuple):
    """What `fit` returns."""

    model: Any  # the network, of its own class, with the weights of the last epoch
    best: Any  # likewise, of the best epoch: by validation if there is a part for it
    opt_state: optax.OptState  # after the last step; for `sgdat_jax.flip_counts`
    lines: tuple[formats.EpochLine, ...]  # metrics, one line per epoch
    result: dict[str, Any]  # as in ``result.json``


@dataclasses.dataclass(frozen=True)
class FitConfig(settings.Settings):
    """The config in the folder of a run by `fit`."""

    model: str = ""
    """Name of the network's class."""

    dataset: str = ""
    """Name of the data set."""


def fit(
    model: nnx.Module,
    tx: optax.GradientTransformation,
    dataset: Dataset,
    *,
    run_dir: str | pathlib.Path | None = None,
    resume: bool = False,
    label: str = "",
    normalization: tuple[Sequence[float], Sequence[float]] | None = None,
    watchers: Sequence[loop.Watcher] = (),
    **options: Any,
) -> Fitted:
    """Trains any network with any Optax optimizer, and evaluates it after each epoch.

    This is what ``sgdat-jax train`` does, without names: the same steps, metrics, saved
    states and devices. Images are shifted and flipped at random if asked, then
    normalized. A step whose loss or gradients are not finite changes nothing.

    Args:
      model: takes float32 images ``(batch, height, width, channels)`` to logits
        ``(batch, classes)``; it is left as it is. It need not have binary layers.
      tx: optimizer of its parameters, as `partition_binary` makes it.
      dataset: labelled uint8 images, as `data.sources.load` returns them.
      run_dir: folder of the run, new or empty, for metrics, saved states and files of
        weights; None: nothing is written.
      resume: whether a run in ``run_dir`` goes on from its last saved state, or is
        returned if it has finished; the result is that of a run without a pause, to the
        bit. If the folder is new or empty, the run begins there.
      label: what reports call the method of the run. Give each method its own, since
        runs with the same label, seed and options are taken for one repeated.
      normalization: mean and standard deviation of each channel of images in [0, 1];
        None: those of the training images.
      watchers: hear of each step and epoch; see `Watcher`.
      **options: fields of `Settings`: ``epochs``, ``batch_size``, ``seed``,
        ``crop_padding``, ``flip``, ``label_smoothing``, ``validation_share``,
        ``devices``, ``diagnostics`` and the rest.

    Returns:
      The trained networks, the optimizer's state, metrics and result.

    Raises:
      TypeError: if an option is unknown or of another type than its field, or ``tx`` is
        no optimizer.
      ValueError: if an option is out of its range or does not fit the images, or if
        ``run_dir`` holds another run or anything else.
      FloatingPointError: if training diverges; ``max_skipped_steps`` says when.
      KeyboardInterrupt: if it is interrupted; its state is saved in ``run_dir`` first.

    Example:
      >>> from flax import nnx
      >>> import optax
      >>> import sgdat_jax as sj
      >>> from sgdat_jax import training
      >>> from sgdat_jax.data import sources
      >>> model = nnx.jit(sj.models.DigitsNet)(rngs=nnx.Rngs(0))
      >>> tx = sj.partition_binary(model, binary=sj.sgdat(), real=optax.adam(1e-3))
      >>> fitted = training.fit(model, tx, sources.digits(), epochs=1)
      >>> [line["epoch"] for line in fitted.lines]
      [1]
      >>> type(fitted.best).__name__
      'DigitsNet'
    """
    config = FitConfig(
        **options,
        run_dir=None if run_dir is None else str(run_dir),
        label=label,
        model=type(model).__name__,
        dataset=dataset.name,
    )
    if resume and run_dir is None:
        raise ValueError("run_dir must be a folder with resume, got None.")
    _check_model(model, dataset)
    dataset = hold_out(dataset, config.validation_share)
    runs.check_fits(config, dataset)
    agreement.check_config(runs.with_devices(config))
    agreement.check_data(dataset)
    run = _run(_plan(model, tx, dataset, config, normalization), config, resume=resume)
    keeper = keepers.of(run)
    if run.folder is not None and hosts.as_writer(run_folder.is_finished(run.folder)):
        result = _finished_result(run, run.folder)
    else:
        told = loop.Watchers([*watchers, _BinaryCheck()])
        with _until_interrupt() as check:
            run, result = loop.train(run, told, check, keeper)
    best = keeper.best(run)
    return Fitted(
        model=_with_weights(model, run.state.params, run.state.stats),
        best=_with_weights(model, best.params, best.stats),
        opt_state=run.state.opt_state,
        lines=run.progress.lines,
        result=result,
    )


def _check_model(model: nnx.Module, dataset: Dataset) -> None:
    """Raises ValueError unless a network takes images to a logit per class."""
    images = jax.ShapeDtypeStruct((2, *dataset.input_shape), jnp.float32)
    logits = nnx.eval_shape(lambda model, images: model(images), model, images)
    if getattr(logits, "shape", None) != (2, dataset.num_classes):
        raise ValueError(
            "`model` must take images (batch, height, width, channels) to logits "
            f"(batch, {dataset.num_classes}) for {dataset.name}, got "
            f"{jax.tree.map(jnp.shape, logits)} for images {images.shape}."
        )


def _finished_result(run: runs.Run, folder: pathlib.Path) -> dict[str, Any]:
    if not runs.is_over(run):
        raise ValueError(
            f"{folder} holds a finished run whose states are damaged or gone."
        )
    return run_folder.read_result(folder)


@contextlib.contextmanager
def _until_interrupt() -> Iterator[interruption.Check]:
    """Holds signals back where Python takes any: in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield interruption.never
        return
    try:
        with interruption.until_signal() as check:
            yield check
    except interruption.Interrupted as interrupted:
        raise KeyboardInterrupt(str(interrupted)) from None


def _plan(
    model: nnx.Module,
    tx: optax.GradientTransformation,
    dataset: Dataset,
    config: FitConfig,
    normalization: tuple[Sequence[float], Sequence[float]] | None,
) -> runs.Plan:
    normalization = normalization or channel_statistics(dataset.train_images)
    steps_per_epoch = runs.steps_per_epoch(config, dataset)
    task = states.create(
        model, tx, config, normalization, steps_per_epoch, runs.lay_out(config)
    )
    # On the host, so that each device gets what is its own.
    variables = jax.device_get(nnx.state(model))
    first = jax.jit(functools.partial(states.first, task))
    return runs.Plan(
        config,
        dataset,
        task,
        lambda seed: first(seed, variables),
        steps_per_epoch,
        fingerprint(dataset),
    )


def _run(plan: runs.Plan, config: FitConfig, *, resume: bool) -> runs.Run:
    if config.run_dir is None:
        return runs.begin(plan, config.seed, None)
    folder = pathlib.Path(config.run_dir)
    return (runs.go_on if resume else runs.begin)(plan, config.seed, folder)


def _with_weights(model: nnx.Module, params: nnx.State, stats: nnx.State) -> Any:
    copy = nnx.clone(model)
    nnx.update(copy, params, stats)
    return copy
