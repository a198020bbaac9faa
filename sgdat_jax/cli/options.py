"""The options of each command, beyond those of its config."""

import contextlib
import dataclasses
import pathlib
from typing import Annotated, Any

import tyro

from sgdat_jax import files, run_folder
from sgdat_jax.experiments import configs, methods, recipes
from sgdat_jax.options import HOUSEKEEPING, Options, options_of


@dataclasses.dataclass(frozen=True)
class Start(Options):
    """Where the defaults of all other options come from."""

    recipe: str | None = None
    """Defaults of an experiment of the paper. `sgdat-jax recipes` names them:
    cifar10, cifar100 or tiny_imagenet; binarynet or resnet18; and in train a row of
    its table, as in cifar10-binarynet-sgdat."""

    config: str | None = None
    """Defaults of a file. The config.json of a run, or a file ending in .toml with
    the same names, as --print-config writes it."""

    print_config: bool = False
    """Print all settings as TOML, and end."""


@dataclasses.dataclass(frozen=True)
class Job(Options):
    """How this process finds the others of a job."""

    distributed: bool = False
    """Train in several processes as one job. One for each host: the same command is
    started on each, with a folder that all of them see."""

    coordinator: str | None = None
    """HOST:PORT of the first process. Such as 10.0.0.1:1234; None: as the cluster
    says, on TPU pods, with Slurm and others."""

    process_id: int | None = None
    """Number of this process, from 0. None: as the cluster says."""

    num_processes: int | None = None
    """How many processes there are. None: as the cluster says."""


@dataclasses.dataclass(frozen=True)
class Train(Job, configs.TrainConfig, Start):
    """Trains a binary network and leaves a folder with its results.

    Binary weights are trained by the binary optimizer, all others by Adam. Without any
    option a small network learns scikit-learn's handwritten digits.
    """

    resume: str | None = None
    """Folder of a run to go on with, or to begin. A run goes on from its last saved
    state with its own settings; a greater --epochs makes it longer. If the folder is
    new or empty, a run with the options given begins there."""


@dataclasses.dataclass(frozen=True)
class Compare(configs.CompareConfig, Start):
    """Trains the same network with several optimizers and seeds, and compares them.

    Can be interrupted and started again: finished runs are not repeated. Restarts at
    every epoch, which a recipe has, are those of all rows: sgdat is then what
    sgdat_restart is otherwise.
    """

    rows: str | None = None
    """File of TOML with rows of your own. A table for each: [NAME], then its label,
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
    """Folder of the run (its last epoch), file of weights, or digits. A file is such as
    the best.npz in it; digits is the network that is installed."""

    allow_changed_data: bool = False
    """Take other images or labels than it was trained with."""

    plugin: tuple[str, ...] = ()
    """Modules that the run needs. As in train."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Compares recorded runs: a table, and plots of all that they recorded.

    Damaged and unfinished runs are named and left out; those that diverged are counted.
    """

    run_dirs: tyro.conf.Positional[tuple[str, ...]]
    """Folders of runs. Or folders that hold such folders at any depth."""

    out: str = "report"
    """Folder of tables, plots and report.html."""

    reference: str | None = None
    """Label of the row that the others are compared with. Differences are over the
    same seeds, with their intervals; None: SGDAT, or else the first."""

    select_on_test: bool = False
    """Show best epochs that the test set chose itself. As the paper does; otherwise
    accuracies are those of the last epoch, or of --validation-share."""

    plugin: tuple[str, ...] = ()
    """Modules that the runs need. As in train."""


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """Prepares a data set for training, once; downloads it where that is possible."""

    name: tyro.conf.Positional[str]
    """Data set to prepare. cifar10, cifar100, mnist, tiny_imagenet or
    tfds:NAME[:CONFIG]."""

    data_dir: str | None = None
    """Folder of prepared sets. None: that of tensorflow-datasets."""

    source: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """What was downloaded by hand. A zip or folder, as tiny_imagenet must be."""


@dataclasses.dataclass(frozen=True)
class InfoConfig:
    """Prints what is in a data set."""

    name: tyro.conf.Positional[str]
    """Data set, as in train."""

    data_dir: str | None = None
    """Folder of prepared sets, or of decoded photos. None: as in train."""

    test_share: float | None = None
    """Share of each class of photos to test with. As in train."""

    image_size: int | None = None
    """Height and width that photos are brought to. As in train."""

    resize: str | None = None
    """How photos are brought to one size. crop or squash, as in train."""

    skip_broken: bool = False
    """Leave out broken photos instead of refusing them."""

    plugin: tuple[str, ...] = ()
    """Modules that add the set. As in train."""


@dataclasses.dataclass(frozen=True)
class ShowConfig(InfoConfig):
    """Draws images of a data set with their labels."""

    out: str = "images.png"
    """PNG file to write."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Prepares data sets, says what is in them and shows them."""

    command: tyro.conf.OmitSubcommandPrefixes[
        Annotated[PrepareConfig, tyro.conf.subcommand("prepare")]
        | Annotated[InfoConfig, tyro.conf.subcommand("info")]
        | Annotated[ShowConfig, tyro.conf.subcommand("show")]
    ]


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Writes a trained network for other programs, and checks what it predicts."""

    source: tyro.conf.Positional[str]
    """File of weights, folder of a run (its best.npz), or digits. As in predict."""

    out: str
    """File to write. Another of the same name with .json says what is in it."""

    format: Annotated[str, tyro.conf.arg(name="to")]
    """Format of the file."""

    target: str | None = None
    """Target triple of iree. Such as aarch64-linux-gnu; None: this machine."""

    cpu: str | None = None
    """Processor of iree's target. As LLVM names it; None: this machine's, or for a
    target any of its kind."""

    batch_size: int | None = None
    """Images that a file of iree or litert takes at once. None: 1."""

    plugin: tuple[str, ...] = ()
    """Modules that the network needs. As in train."""


@dataclasses.dataclass(frozen=True)
class ImportConfig:
    """Makes a file of weights of a PyTorch state_dict of the published networks."""

    source: tyro.conf.Positional[str]
    """PyTorch's file (.pth, .pt, .tar) or .safetensors. No code in it is run."""

    out: str
    """File of weights to write, NAME.npz."""

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Mean of each channel, subtracted in training. Of images in [0, 1]."""

    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Deviation of each channel, divided by in training."""


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Says what pictures show, by a trained network."""

    weights: tyro.conf.Positional[str]
    """File of weights, folder of a run (its best.npz), or digits. digits is a network
    of light 8x8 digits on dark ground that is installed, unless a file or run of that
    name is there."""

    images: tyro.conf.Positional[tuple[str, ...]]
    """Pictures, folders of them, or .npy files. Those hold uint8 images of shape (n,
    height, width, channels), or one of shape (height, width, 1 or 3)."""

    top: int = 3
    """Classes shown of each picture, likeliest first."""

    json: bool = False
    """Print JSON instead of a table."""

    csv: bool = False
    """Print comma-separated values instead of a table."""

    plugin: tuple[str, ...] = ()
    """Modules that the network needs. As in train."""

    skip_broken: bool = False
    """Name and leave out unreadable pictures. Those that are broken, animated or of
    other formats, instead of refusing them."""


@dataclasses.dataclass(frozen=True)
class Recipes:
    """Lists the paper's experiments: data, network, and what each costs."""


@dataclasses.dataclass(frozen=True)
class Names:
    """Lists names that options take, those of plug-ins included."""

    kind: tyro.conf.Positional[str]
    """What to list."""

    plugin: tuple[str, ...] = ()
    """Modules that add names. As in train."""


@dataclasses.dataclass(frozen=True)
class Completion:
    """Prints a script with which a shell completes commands and options."""

    shell: tyro.conf.Positional[str]
    """Shell to complete in."""


# The options of each command, and what of them is its config.
COMMANDS: dict[str, tuple[type, type]] = {
    "train": (Train, configs.TrainConfig),
    "compare": (Compare, configs.CompareConfig),
    "sweep": (Sweep, configs.SweepConfig),
    "evaluate": (Evaluate, Evaluate),
    "report": (Report, Report),
    "data": (DataConfig, DataConfig),
    "export": (ExportConfig, ExportConfig),
    "import": (ImportConfig, ImportConfig),
    "predict": (PredictConfig, PredictConfig),
    "recipes": (Recipes, Recipes),
    "list": (Names, Names),
    "completion": (Completion, Completion),
}


def subcommands(kind: type) -> dict[str, type]:
    """Returns the commands within a command, by name; none for most."""
    if kind is not DataConfig:
        return {}
    return {"prepare": PrepareConfig, "info": InfoConfig, "show": ShowConfig}


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
        start["optimizers"] = _read_rows(pathlib.Path(given["rows"]))
    return options(**start) if start else None


def _read_rows(path: pathlib.Path) -> tuple[str, ...]:
    """Reads the rows of a comparison from a file, with values of the right types."""
    rows = methods.read_rows(path)
    for name in rows:
        try:
            # The comparison itself says what else is wrong with its rows.
            with contextlib.suppress(ValueError):
                configs.TrainConfig(**methods.METHODS[name].settings)
        except TypeError as error:
            raise ValueError(f"{path}: {name}: {error}") from None
    return rows


def _read(path: pathlib.Path, kind: type[Options]) -> dict[str, Any]:
    """Reads settings from a file."""
    read = files.read_toml if path.suffix == ".toml" else files.read_json
    values = read(path)
    found = run_folder.config_of(path, kind, values, values.pop("format", 0))
    housekeeping = options_of(kind, HOUSEKEEPING)
    return {k: v for k, v in vars(found).items() if k not in housekeeping - {"plugin"}}


def config_of(name: str, options: Any) -> Any:
    """Returns the config of a command, without the options that are the command's."""
    kind = COMMANDS[name][1]
    if isinstance(options, kind) and type(options) is kind:
        return options
    fields = dataclasses.fields(kind)
    return kind(**{field.name: getattr(options, field.name) for field in fields})
