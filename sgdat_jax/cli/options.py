"""What each command can be told: options of its own, besides those of its config."""

import dataclasses
import pathlib
from typing import Any

import tyro

from sgdat_jax import files
from sgdat_jax.cli import data, export, predict
from sgdat_jax.experiments import configs, methods, recipes
from sgdat_jax.training import run_folder, settings


@dataclasses.dataclass(frozen=True)
class Start(settings.Options):
    """Where the defaults of all other options come from."""

    recipe: str | None = None
    """The paper's experiment whose settings are the defaults: cifar10, cifar100 or
    tiny_imagenet; binarynet or resnet18; and in train a row of its table, as in
    cifar10-binarynet-sgdat."""

    config: str | None = None
    """File whose settings are the defaults: the config.json of a run, or a file ending
    in .toml with the same names, as --print-config writes it."""

    print_config: bool = False
    """Prints all settings as TOML, and does nothing else."""


@dataclasses.dataclass(frozen=True)
class Job(settings.Options):
    """How this process finds the others of a job."""

    distributed: bool = False
    """Trains in several processes, one for each host, as one job: the same command is
    started on each, with a folder that all of them see."""

    coordinator: str | None = None
    """Host and port of the first process, such as 10.0.0.1:1234; None: as the cluster
    says, on TPU pods, with Slurm and others."""

    process_id: int | None = None
    """Number of this process, from 0; None: likewise."""

    num_processes: int | None = None
    """How many processes there are; None: likewise."""


@dataclasses.dataclass(frozen=True)
class Train(Job, configs.TrainConfig, Start):
    """Trains a binary network and leaves a folder with its results.

    Binary weights are trained by the binary optimizer, all others by Adam. Without any
    option a small network learns scikit-learn's handwritten digits.
    """

    resume: str | None = None
    """Folder of an interrupted run, which goes on from its last saved state with its
    own settings; a greater --epochs makes it longer. If the folder is new or empty, a
    run with the options given begins there."""


@dataclasses.dataclass(frozen=True)
class Compare(configs.CompareConfig, Start):
    """Trains the same network with several optimizers and seeds, and compares them.

    Can be interrupted and started again: finished runs are not repeated. Restarts at
    every epoch, which a recipe has, are those of all rows: sgdat is then what
    sgdat_restart is otherwise.
    """

    rows: str | None = None
    """File of TOML with rows of one's own, a table for each: [NAME], then its label,
    optimizer, hyperparameters and other options of train. They are compared if
    --optimizers names no others."""


@dataclasses.dataclass(frozen=True)
class Sweep(configs.SweepConfig, Start):
    """Trains one model for each combination of hyperparameters and each seed.

    Up to two hyperparameters have several values. Can be interrupted and started
    again: finished models are not repeated.
    """


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluates a finished run on the whole test set, and prints what it reached."""

    run_dir: tyro.conf.Positional[str]
    """Folder of the run, for its last state; or a file of weights, such as the best.npz
    in it."""

    allow_changed_data: bool = False
    """Whether other images or labels than it was trained with will do."""

    plugin: tuple[str, ...] = ()
    """Modules that the run needs, as in train."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Compares recorded runs: a table, and plots of all that they recorded.

    Damaged and unfinished runs are named and left out; those that diverged are counted.
    """

    run_dirs: tyro.conf.Positional[tuple[str, ...]]
    """Folders of runs, or folders that hold such folders at any depth."""

    out: str = "report"
    """Folder of the table and the plots."""

    plugin: tuple[str, ...] = ()
    """Modules that the runs need, as in train."""


# The options of each command, and what of them is its config.
COMMANDS: dict[str, tuple[type, type]] = {
    "train": (Train, configs.TrainConfig),
    "compare": (Compare, configs.CompareConfig),
    "sweep": (Sweep, configs.SweepConfig),
    "evaluate": (Evaluate, Evaluate),
    "report": (Report, Report),
    "data": (data.DataConfig, data.DataConfig),
    "export": (export.ExportConfig, export.ExportConfig),
    "import": (export.ImportConfig, export.ImportConfig),
    "predict": (predict.PredictConfig, predict.PredictConfig),
}


def defaults(name: str, given: dict[str, str | None]) -> Any:
    """Returns the defaults of a command's options; None: those of their type.

    Args:
      name: of the command.
      given: values of ``recipe``, ``config``, ``resume`` and ``rows``, or None.

    Raises:
      ValueError: if the command has no such option, if two of them say different
        things, or if a file or name is wrong.
    """
    options, config = COMMANDS[name]
    fields = {field.name for field in dataclasses.fields(options)}
    for key, value in given.items():
        if value is not None and key not in fields:
            raise ValueError(f"{name} takes no --{key}, got {value}.")
    sources = [key for key in ("recipe", "config") if given[key] is not None]
    if len(sources) == 2:
        raise ValueError("recipe and config must not both be given.")
    start: dict[str, Any] = {}
    if given["recipe"] is not None:
        start = dict(recipes.settings(config, given["recipe"]))
    elif given["config"] is not None:
        start = _read(pathlib.Path(given["config"]), config)
    elif given["resume"] is not None:
        folder = pathlib.Path(given["resume"])
        if not run_folder.is_empty(folder):
            start = dict(vars(run_folder.read_config(folder, config)))
    if given["rows"] is not None:
        start["optimizers"] = methods.read_rows(pathlib.Path(given["rows"]))
    return options(**start) if start else None


def _read(path: pathlib.Path, kind: type[settings.Options]) -> dict[str, Any]:
    """Reads settings from a file."""
    read = files.read_toml if path.suffix == ".toml" else files.read_json
    values = read(path)
    found = run_folder.config_of(path, kind, values, values.pop("format", 0))
    housekeeping = settings.options_of(kind, settings.HOUSEKEEPING)
    return {k: v for k, v in vars(found).items() if k not in housekeeping - {"plugin"}}


def config_of(name: str, options: Any) -> Any:
    """Returns the config of a command, without the options that are the command's."""
    kind = COMMANDS[name][1]
    if isinstance(options, kind) and type(options) is kind:
        return options
    fields = dataclasses.fields(kind)
    return kind(**{field.name: getattr(options, field.name) for field in fields})
