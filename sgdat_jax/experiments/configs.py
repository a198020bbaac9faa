"""The typed descriptions of what the training program does."""

import dataclasses
import pathlib
from typing import Any

from sgdat_jax import checks
from sgdat_jax.experiments import hyperparameters, methods, registry, tasks
from sgdat_jax.options import HOUSEKEEPING, PLACEMENT, option
from sgdat_jax.training import settings


@dataclasses.dataclass(frozen=True)
class BaseConfig(settings.Passes, tasks.Task):
    """What all commands that train have in common.

    Raises:
      ValueError: if a number does not fit another.
    """

    def __post_init__(self) -> None:
        """Checks what can be checked without loading anything."""
        super().__post_init__()
        if self.unbiased_variance and self.batch_size < 2:
            raise ValueError(
                "batch_size must be at least 2 with unbiased_variance, got "
                f"{self.batch_size}."
            )
        checks.within(
            "real_warmup_epochs", self.real_warmup_epochs, f"[0, {self.epochs})"
        )


@dataclasses.dataclass(frozen=True)
class RunConfig(settings.Upkeep, BaseConfig):
    """What the commands have in common that leave a folder for each run."""


@dataclasses.dataclass(frozen=True)
class TrainConfig(settings.Settings, RunConfig, tasks.Method):
    """Trains a binary network and leaves a folder with its results.

    Binary weights are trained by the binary optimizer, all others by Adam. Without any
    option a small network learns scikit-learn's handwritten digits. With --recipe NAME,
    such as cifar10-binarynet-sgdat, options have the defaults of one of the paper's
    experiments: cifar10, cifar100 or tiny_imagenet; binarynet or resnet18; and a row of
    its table as in compare. With --resume RUN_DIR an interrupted run goes on from its
    last saved state, with its own options; a greater --epochs makes it longer. If the
    folder is new or empty, a run with the options given begins there.

    With --distributed the same command on each host is one job. On TPU pods, Slurm and
    others the hosts find each other; elsewhere --coordinator HOST:PORT, --process-id N
    and --num-processes N tell them. The run folder must be one that all of them see.
    """

    init: str | None = None
    """File of weights to start from. The best.npz of another run, or the folder of that
    run: of the same network, except for the number of classes. Binary weights may be
    real-valued in it, as --full-precision '*' trains them. None: random weights."""

    init_scale: float | None = None
    """Factor from the file's binary weights to latent weights. The smaller, the sooner
    they flip. None: with sgdat, sgdt and sgd a tenth of the learning rate, with adam
    and lion ten learning rates."""

    tensorboard: bool = option(False, HOUSEKEEPING)
    """Write an event file for TensorBoard too."""

    def __post_init__(self) -> None:
        """Checks what can be checked without loading anything."""
        super().__post_init__()
        registry.binary_optimizer(
            self.optimizer, self.hyperparameters(), schedule=self.binary_schedule
        )
        if self.init_scale is None:
            return
        checks.within("init_scale", self.init_scale, "[0, inf)")
        if self.init is None or self.latent_scale() is None:
            raise ValueError(
                "init_scale must be None without init, or if latent weights start at "
                f"0, got {self.init_scale}."
            )

    def latent_scale(self) -> float | None:
        """Returns at what factor of the weights latent weights start; None: at 0."""
        given = self.hyperparameters().get("start")
        if given == "zero" or not registry.takes_start(self.optimizer):
            return None
        if self.init_scale is not None:
            return self.init_scale
        rate = self.learning_rate or registry.defaults(self.optimizer).get(
            "learning_rate", 0.0
        )
        default = registry.LATENT_STARTS.get(self.optimizer)
        if default is not None:
            return default * rate
        return 1.0 if given == "params" else None

    @property
    def restarts_flips(self) -> bool:
        """Whether flip counts start again at every epoch."""
        return self.reset_flips_every_epoch and self.optimizer == "sgdat"


@dataclasses.dataclass(frozen=True)
class CompareConfig(RunConfig):
    """Trains the same network with several optimizers and seeds, and compares them.

    Can be interrupted and started again: finished runs are not repeated. --recipe NAME
    sets the task as in train, without a method: cifar10-binarynet. Its restarts at
    every epoch are those of all rows: sgdat is then what sgdat_restart is otherwise.
    """

    epochs: int = 10
    """Passes over the training images. Fewer than in train, as there are many runs."""

    optimizers: tuple[str, ...] = tuple(methods.PAPER)
    """Rows of the comparison. Those of the paper's table by default, or any others; a
    star, as in sgd_star, means that the same optimizer trains all parameters."""

    seeds: int = 5
    """Runs of each row, with seeds in a row."""

    seed: int = 0
    """The first seed."""

    reference: str | None = option(None, HOUSEKEEPING)
    """Row that the others are compared with. Differences are over the same seeds, with
    their intervals; None: sgdat, or else the first."""

    select_on_test: bool = option(False, HOUSEKEEPING)
    """Show best epochs that the test set chose itself. As the paper does; otherwise
    accuracies are those of the last epoch, or of --validation-share."""

    run_dir: str | None = option(None, HOUSEKEEPING)
    """Folder of all runs; else one under runs/. None: it is named after data set and
    model."""

    def __post_init__(self) -> None:
        """Checks what can be checked without loading anything."""
        super().__post_init__()
        settings.check_seeds(self.seed, self.seeds)
        if not self.optimizers:
            raise ValueError("optimizers must have at least one name, got none.")
        if self.reference is not None and self.reference not in self.optimizers:
            raise ValueError(
                f"reference must be one of the rows {', '.join(self.optimizers)}, got "
                f"{self.reference!r}."
            )
        rows: dict[TrainConfig, str] = {}
        for name in self.optimizers:
            run = dataclasses.replace(self.run(name, self.seed), run_dir=None)
            if rows.setdefault(run, name) != name:
                raise ValueError(
                    f"optimizers must differ, but with these settings {rows[run]} and "
                    f"{name} are the same."
                )

    @property
    def folder(self) -> pathlib.Path:
        """Folder of all runs."""
        return pathlib.Path(self.run_dir or f"runs/compare-{self.task_name}")

    def run(self, method: str, seed: int) -> TrainConfig:
        """Returns the config of one run."""
        folder = self.folder / method / f"seed{seed}"
        shared = _shared(self, RunConfig) | dict(methods.method(method).settings)
        return TrainConfig(**shared, seed=seed, run_dir=str(folder))


@dataclasses.dataclass(frozen=True)
class SweepConfig(BaseConfig):
    """Trains one model for each combination of hyperparameters and each seed.

    Up to two hyperparameters have several values. Can be interrupted and started
    again: finished models are not repeated. --recipe NAME sets the task as in compare.
    """

    optimizer: str = "sgdat"
    """Optimizer of the binary weights. As in train. Without any values its learning
    rate (or gamma, or eta) and threshold go over a tenth of, once and ten times their
    defaults."""

    learning_rate: tuple[float, ...] | None = None
    """Values of the step size. As in train; none: the default."""

    threshold: tuple[float, ...] | None = None
    """Values of the threshold. As in train; none: the default."""

    momentum: tuple[float, ...] | None = None
    """Values of the momentum. None: no momentum."""

    gamma: tuple[float, ...] | None = None
    """Values of gamma, as in train. None: the default."""

    sigma: tuple[float, ...] | None = None
    """Values of sigma, as in train. None: the default."""

    eta: tuple[float, ...] | None = None
    """Values of eta, as in train. None: the default."""

    set: tuple[str, ...] = ()
    """Other hyperparameters, several values by commas. As in train: decay=0.1,0.3."""

    seeds: int = 3
    """Models of each combination."""

    seed: int = 0
    """The first seed."""

    models_at_once: int | None = option(None, PLACEMENT)
    """Models trained in one compiled program. None: 16, or 1 on a CPU, where more are
    slower."""

    run_dir: str | None = option(None, HOUSEKEEPING)
    """Folder of the results; else one under runs/. None: it is named after data set,
    model and optimizer."""

    def __post_init__(self) -> None:
        """Checks what can be checked without loading anything."""
        super().__post_init__()
        self.run()
        settings.check_seeds(self.seed, self.seeds)
        if self.models_at_once is not None:
            checks.at_least("models_at_once", self.models_at_once, 1)
        for name, values in self._given().items():
            for value in values:
                registry.binary_optimizer(self.optimizer, {name: value})
            if not values or len(set(values)) < len(values):
                raise ValueError(
                    f"{name} must have at least one value, and each once, got {values}."
                )
        grid = self.grid()
        for name, values in self._given().items():
            if len(values) > 1 and not _are_numbers(values):
                raise ValueError(
                    f"{name} must have one value, or numbers alone, got {values}."
                )
        several = [name for name, values in grid.items() if len(values) > 1]
        if not 1 <= len(several) <= 2:
            raise ValueError(
                "One or two hyperparameters must have several values, got "
                f"{', '.join(several) or 'none'}."
            )

    def grid(self) -> dict[str, tuple[float, ...]]:
        """Returns the values of each hyperparameter that has any."""
        grid = {k: v for k, v in self._given().items() if _are_numbers(v)}
        return grid or {
            name: tuple(float(f"{default * factor:g}") for factor in (0.1, 1.0, 10.0))
            for name, default in registry.defaults(self.optimizer).items()
        }

    def _given(self) -> dict[str, tuple[Any, ...]]:
        given = {name: getattr(self, name) for name in tasks.HYPERPARAMETERS}
        given = {name: tuple(v) for name, v in given.items() if v is not None}
        return given | hyperparameters.parse_grid(self.set, taken=tasks.HYPERPARAMETERS)

    @property
    def folder(self) -> pathlib.Path:
        """Folder of the results."""
        default = f"runs/sweep-{self.task_name}-{self.optimizer}"
        return pathlib.Path(self.run_dir or default)

    def run(self) -> TrainConfig:
        """Returns the config that all models share."""
        shared = _shared(self, BaseConfig)
        fixed = tuple(
            word
            for word in self.set
            if not _are_numbers(hyperparameters.parse_grid([word]).popitem()[1])
        )
        return TrainConfig(optimizer=self.optimizer, devices=1, set=fixed, **shared)


def _are_numbers(values: tuple[Any, ...]) -> bool:
    """Returns whether values are numbers, with which many models run in one program."""
    return all(isinstance(v, float | int) and not isinstance(v, bool) for v in values)


def _shared(config: BaseConfig, kind: type[BaseConfig]) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(kind)}
