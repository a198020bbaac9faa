"""The folder of a run: its config, a line of metrics per epoch, its result.

The times of the epochs are in a file of their own, so that the metrics of two runs with
the same bits are equal files.
"""

import contextlib
import dataclasses
import os
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sgdat_jax import files
from sgdat_jax.training import formats, settings

if TYPE_CHECKING:
    import filelock

_Settings = TypeVar("_Settings", bound=settings.Options)

CONFIG = "config.json"
_DATA = "data"  # entries of the file of the config
_BEFORE = "data_before"
METRICS = "metrics.jsonl"
TIMES = "times.jsonl"
RESULT = "result.json"
DIVERGED = "diverged.json"
CHECKPOINTS = "checkpoints"
BEST = "best.npz"  # weights of the best epoch
LAST = "last.npz"  # weights of the last epoch
PLOTS = "plots"
TENSORBOARD = "tensorboard"
LOCK = "lock"
FORMAT = 1  # of the folder and all that is in it; 0 had neither this number nor TIMES
# A killed run of a former version leaves these.
_OLD_PARTIALS = frozenset(
    pathlib.Path(name).with_suffix(files.PARTIAL).name
    for name in (CONFIG, METRICS, TIMES, RESULT, DIVERGED, BEST, LAST, "sweep.json")
)


def create(
    path: pathlib.Path,
    config: settings.Options,
    name: str = CONFIG,
    data: Mapping[str, str] | None = None,
) -> "filelock.BaseFileLock":
    """Makes a run folder with its config, in a file of the given name.

    Args:
      path: of the folder.
      config: of the run.
      name: of the file.
      data: fingerprint of the data set.

    Returns:
      The folder's lock, acquired.

    Raises:
      ValueError: if the folder holds a run or anything else, or cannot be written;
        nothing is left on disk then.
    """
    check_path(path)
    if path.is_dir() and not is_empty(path):
        held = "a run" if (path / name).exists() else "other files"
        raise ValueError(f"run_dir must be new or empty, {path} holds {held}.")
    made = files.make([path])
    try:
        held_lock = lock(path)
        write_config(path, config, name, data)
    except OSError as error:
        with contextlib.suppress(OSError):
            (path / LOCK).unlink()
        files.remove_empty(made)
        raise files.not_writable(path, "run_dir", error) from None
    return held_lock


def check_path(path: pathlib.Path) -> None:
    """Raises ValueError if no run can be kept at a path.

    Orbax looks for its own files by a pattern, and would lose the checkpoint. Names
    that are not UTF-8 it cannot open.
    """
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"run_dir must have a path in UTF-8, got {str(path.absolute())!r}."
        ) from None
    if set("*?[") & set(str(path.absolute())):
        raise ValueError(
            f"run_dir must have none of *, ? and [ in its path, got {path}."
        )


def is_empty(path: pathlib.Path) -> bool:
    """Returns whether a folder is not there yet, or holds nothing."""
    # A run that was killed at its very beginning leaves these.
    return not path.exists() or (
        path.is_dir()
        and all(
            (file.name == LOCK or file.suffix == files.PARTIAL)
            and files.is_regular(file)
            for file in path.iterdir()
        )
    )


def lock(path: pathlib.Path) -> "filelock.BaseFileLock":
    """Takes the lock of a folder, which the system frees when the process ends.

    Files that a killed process was writing there are removed.

    Raises:
      ValueError: if another process holds it, or as in `check_links`.
      OSError: if the folder cannot be written.
    """
    import filelock  # not needed by who only reads a file of weights

    check_links(path)
    held = filelock.FileLock(path / LOCK, blocking=False, thread_local=False)
    try:
        held.acquire()
    except filelock.Timeout:
        raise ValueError(f"{path} is in use by another process.") from None
    try:
        for folder in filter(files.is_folder, (path.resolve(), path / PLOTS)):
            files.remove_partials(folder, _OLD_PARTIALS)
    except OSError:
        held.release()
        raise
    return held


def check_links(
    path: pathlib.Path,
    names: Iterable[str] = (LOCK, CHECKPOINTS, PLOTS, TENSORBOARD),
) -> None:
    """Raises ValueError if what a run writes into is a symbolic link.

    Args:
      path: of the run folder.
      names: of what is written into, which need not be there.
    """
    _refuse_links(path / name for name in names)


def check_inner(folder: pathlib.Path, paths: Iterable[pathlib.Path]) -> None:
    """Raises ValueError if a run within a folder would be written through a link.

    Args:
      folder: of many runs.
      paths: of the runs.
    """
    for path in paths:
        _refuse_links(p for p in (*path.parents, path) if folder in p.parents)
        check_links(path)


def _refuse_links(paths: Iterable[pathlib.Path]) -> None:
    for path in paths:
        if path.is_symlink():
            raise ValueError(
                f"{path} must not be a symbolic link: nothing is written or removed "
                "through links."
            )


def write_config(
    path: pathlib.Path,
    config: settings.Options,
    name: str = CONFIG,
    data: Mapping[str, str] | None = None,
    before: Sequence[Mapping[str, str]] = (),
) -> None:
    """Writes the config of a run, with the format of its folder.

    Args:
      path: of the folder.
      config: of the run.
      name: of the file.
      data: fingerprint of the data set.
      before: those of the data sets with which the run began, if they were others.
    """
    extra: dict[str, Any] = {} if data is None else {_DATA: data}
    if before:
        extra[_BEFORE] = before
    content = {"format": FORMAT, **dataclasses.asdict(config), **extra}
    files.write_json(path / name, content)


def lock_there(path: pathlib.Path) -> tuple[int, int] | None:
    """Returns what tells the lock of a folder from any other; None without a lock."""
    try:
        found = (path / LOCK).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def check_there(path: pathlib.Path, held: tuple[int, int] | None = None) -> None:
    """Raises OSError if the folder of a run that trains is no longer its own.

    Args:
      path: of the folder.
      held: of the lock that the run holds, from `lock_there`; None: it may have any.
    """
    if not files.is_file(path / CONFIG):
        raise OSError(f"{path} has lost its {CONFIG}: was the folder removed?")
    found = lock_there(path)
    if held is not None and found not in (None, held):
        raise OSError(
            f"{path} has a lock of another process now: was the folder moved, and "
            "another run begun in its place?"
        )


def append_epoch(
    path: pathlib.Path, metrics: Mapping[str, Any], times: Mapping[str, Any]
) -> None:
    """Adds the lines of one epoch."""
    files.append_line(path / TIMES, times)
    files.append_line(path / METRICS, metrics)


def write_epochs(
    path: pathlib.Path,
    metrics: Sequence[Mapping[str, Any]],
    times: Sequence[Mapping[str, Any]],
) -> None:
    """Writes the lines of all epochs anew."""
    files.write_lines(path / TIMES, times)
    files.write_lines(path / METRICS, metrics)


def reopen(
    path: pathlib.Path, config: settings.Settings, data: Mapping[str, str]
) -> None:
    """Makes a run folder one of a run that has not finished, with config and data."""
    recorded = read_json(path, CONFIG)
    before = recorded.get(_BEFORE, [])
    if recorded.get(_DATA, data) != data:
        before = [*before, recorded[_DATA]]
    for name in (RESULT, DIVERGED):
        (path / name).unlink(missing_ok=True)
    write_config(path, config, data=data, before=before)


def check_data(
    file: pathlib.Path, recorded: Any, data: Mapping[str, str], *, allow: bool | None
) -> None:
    """Raises ValueError if a run was trained on other images, unless that is allowed.

    Args:
      file: that says what it was trained on.
      recorded: what it says, a fingerprint; of former versions None.
      data: fingerprint of the data set at hand.
      allow: whether the data may be others; None: they never may.
    """
    if recorded is None or recorded == data or allow:
        return
    known = recorded if isinstance(recorded, dict) else {}
    differ = [name for name, digest in data.items() if known.get(name) != digest]
    way_out = "--allow-changed-data takes them all the same"
    if allow is None:
        way_out = "choose another run_dir"
    raise ValueError(
        f"{file} is of a run on other data: {', '.join(differ)} have changed since; "
        f"{way_out}."
    )


def read_data(path: pathlib.Path, name: str = CONFIG) -> Any:
    """Reads the fingerprint of the data that a run began with, None if it is unknown.

    Raises:
      ValueError: if there is no run in the folder, or its config is damaged.
    """
    return read_json(path, name).get(_DATA)


def write_result(path: pathlib.Path, result: Mapping[str, Any]) -> None:
    """Writes the result of a finished run."""
    files.write_json(path / RESULT, result)


def write_diverged(path: pathlib.Path, epoch: int, step: int) -> None:
    """Writes in which epoch, from 1, and after which step a run ended as diverged."""
    files.write_json(path / DIVERGED, {"epoch": epoch, "step": step})


def read_config(path: pathlib.Path, kind: type[_Settings]) -> _Settings:
    """Reads the config of a run.

    Args:
      path: of the folder.
      kind: class of the config.

    Raises:
      ValueError: if there is no run in the folder, or its config is damaged.
    """
    values = read_json(path, CONFIG)
    for name in (_DATA, _BEFORE):
        values.pop(name, None)
    return config_of(path / CONFIG, kind, values, values.pop("format", 0))


def config_of(
    file: pathlib.Path, kind: type[_Settings], values: Any, found: Any
) -> _Settings:
    """Returns a config from its values in JSON and the format of the file.

    Raises:
      ValueError: if they are none of a config, or of a newer format.
    """
    if found not in range(FORMAT + 1):
        raise ValueError(
            f"{file} is of format {found!r}, of another version of sgdat-jax; this one "
            f"reads formats up to {FORMAT}."
        )
    try:
        # JSON has no tuples; what is read equals what was written, and can be hashed.
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return kind(**fields)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not a run's config: {error}") from None


def check_same(
    folder: pathlib.Path,
    found: settings.Options,
    wanted: settings.Options,
    free: Sequence[str] = (),
) -> None:
    """Raises ValueError if a folder holds something with other settings.

    Args:
      folder: for the message.
      found: its config.
      wanted: the config of the run that is to go on there.
      free: fields that may differ, besides those that always may.
    """
    kinds = settings.HOUSEKEEPING, settings.PLACEMENT
    may_differ = settings.options_of(type(wanted), *kinds).union(free)
    differences = [
        f"{field.name}={old!r}, not {new!r}"
        for field in dataclasses.fields(wanted)
        if field.name not in may_differ
        and (old := getattr(found, field.name)) != (new := getattr(wanted, field.name))
    ]
    if differences:
        raise ValueError(
            f"{folder} holds a run with {'; '.join(differences)}; choose another "
            "run_dir."
        )


def read_metrics(path: pathlib.Path) -> list[formats.EpochLine]:
    """Reads the metrics of all epochs, with their times.

    Raises:
      ValueError: if there are none or a line is damaged.
    """
    file = path / METRICS
    lines = formats.check_all(file, files.read_lines(file), formats.EpochLine)
    if not lines:
        raise ValueError(f"{file} has no epoch.")
    if not (path / TIMES).exists():
        return lines  # of format 0
    found = files.read_lines(path / TIMES)
    formats.check_all(path / TIMES, found, formats.Times)
    times: dict[int, Any] = {line["epoch"]: line for line in found}
    for line in lines:
        line.update(times.get(line["epoch"], {}))
    return lines


def read_result(path: pathlib.Path) -> dict[str, Any]:
    """Reads the result of a finished run.

    Raises:
      ValueError: if the run has not finished or its result is damaged.
    """
    return formats.check(path / RESULT, read_json(path, RESULT), formats.Result)


def has_diverged(path: pathlib.Path) -> bool:
    """Returns whether a run ended as its loss was not finite."""
    return files.is_file(path / DIVERGED)


def is_finished(path: pathlib.Path) -> bool:
    """Returns whether a run has come to its end, and has a result.

    Raises:
      OSError: if that cannot be found out.
    """
    return files.is_file(path / RESULT)


def read_diverged(path: pathlib.Path) -> dict[str, Any]:
    """Reads where a run diverged.

    Raises:
      ValueError: if it has not, or what it left is damaged.
    """
    return formats.check(path / DIVERGED, read_json(path, DIVERGED), formats.Diverged)


def seconds_per_epoch(lines: Sequence[formats.EpochLine]) -> float | None:
    """Returns the seconds of training in the median epoch after the first.

    The first holds the compiling; without another there is no such number, nor in
    folders of former versions that have no times.

    Args:
      lines: of the metrics of all epochs.
    """
    seconds = [line["seconds"] for line in lines[1:] if "seconds" in line]
    return statistics.median(seconds) if seconds else None


def read_json(path: pathlib.Path, name: str) -> dict[str, Any]:
    """Reads a file of a run folder.

    Raises:
      ValueError: if it is not there or damaged.
    """
    file = path / name
    if not os.path.isfile(file):  # unlike pathlib's, it bears a name that is too long
        kind = {RESULT: "finished run", DIVERGED: "run that diverged"}.get(name, "run")
        raise ValueError(f"{path} is not the folder of a {kind}: it has no {name}.")
    return files.read_json(file)
