"""The folder of a run: its config, a line of metrics per epoch, its result."""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sgdat_jax.training import config as config_lib

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
DIVERGED = "diverged.json"
CHECKPOINTS = "checkpoints"
PLOTS = "plots"
TENSORBOARD = "tensorboard"


def create(
    path: pathlib.Path, config: config_lib.BaseConfig, name: str = CONFIG
) -> None:
    """Makes a run folder with its config, in a file of the given name.

    Raises:
      ValueError: if the folder holds a run or anything else, or cannot be written;
        nothing is left on disk then.
    """
    check_path(path)
    made = make([path])
    try:
        if any(path.iterdir()):
            held = "a run" if (path / name).exists() else "other files"
            raise ValueError(f"run_dir must be new or empty, {path} holds {held}.")
        write_json(path / name, dataclasses.asdict(config))
    except OSError as error:
        _remove(made)
        raise _not_writable(path, "run_dir", error) from None


def check_path(path: pathlib.Path) -> None:
    """Raises ValueError if no run can be kept at a path.

    Orbax looks for its own files by a pattern, and would lose the checkpoint.
    """
    if set("*?[") & set(str(path.absolute())):
        raise ValueError(
            f"run_dir must have none of *, ? and [ in its path, got {path}."
        )


def make(paths: Iterable[pathlib.Path], option: str = "run_dir") -> list[pathlib.Path]:
    """Makes folders, and those above them, unless they are there.

    Args:
      paths: of the folders.
      option: what gave the paths, for the message of an error.

    Returns:
      What was not there before, outermost first.

    Raises:
      ValueError: if one of them cannot be made or written; nothing is left on disk
        then.
    """
    made: list[pathlib.Path] = []
    for path in paths:
        try:
            for folder in (*reversed(path.parents), path):
                if not folder.is_dir():
                    folder.mkdir(exist_ok=True)  # another process may be faster
                    made.append(folder)
            if not os.access(path, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            _remove(made)
            raise _not_writable(path, option, error) from None
    return made


def _remove(folders: Sequence[pathlib.Path]) -> None:
    for folder in reversed(folders):
        with contextlib.suppress(OSError):  # another process has filled it
            folder.rmdir()


def _not_writable(path: pathlib.Path, option: str, error: OSError) -> ValueError:
    return ValueError(
        f"{option} must be a folder that can be written, got {path}: {error.strerror}."
    )


def append_metrics(path: pathlib.Path, metrics: Mapping[str, Any]) -> None:
    """Adds the line of one epoch."""
    append_line(path / METRICS, metrics)


def append_line(file: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Adds a line to a file of JSON lines."""
    with file.open("a") as lines:
        lines.write(json.dumps(values) + "\n")


def write_result(path: pathlib.Path, result: Mapping[str, Any]) -> None:
    """Writes the result of a finished run."""
    write_json(path / RESULT, result)


def write_diverged(path: pathlib.Path, epoch: int, loss: float) -> None:
    """Writes in which epoch, from 1, a run ended as its loss was not finite."""
    # The loss as text, since JSON has no such numbers.
    write_json(path / DIVERGED, {"epoch": epoch, "train_loss": str(loss)})


def read_config(path: pathlib.Path) -> config_lib.TrainConfig:
    """Reads the config of a run.

    Raises:
      ValueError: if there is no run in the folder, or its config is damaged.
    """
    values = read_json(path, CONFIG)
    # JSON has no tuples; what is read equals what was written, and can be hashed.
    fields: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
    }
    try:
        return config_lib.TrainConfig(**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path / CONFIG} is not a run's config: {error}") from None


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the metrics of all epochs.

    Raises:
      ValueError: if there are none or a line is damaged.
    """
    file = path / METRICS
    lines = read_lines(file)
    if not lines:
        raise ValueError(f"{file} has no epoch.")
    return lines


def read_result(path: pathlib.Path) -> dict[str, Any]:
    """Reads the result of a finished run.

    Raises:
      ValueError: if the run has not finished or its result is damaged.
    """
    return read_json(path, RESULT)


def has_diverged(path: pathlib.Path) -> bool:
    """Returns whether a run ended as its loss was not finite."""
    return (path / DIVERGED).exists()


def read_diverged(path: pathlib.Path) -> dict[str, Any]:
    """Reads where a run diverged.

    Raises:
      ValueError: if it has not, or what it left is damaged.
    """
    return read_json(path, DIVERGED)


def seconds_per_epoch(lines: Sequence[Mapping[str, Any]]) -> float:
    """Returns the seconds of training in the median epoch.

    The first epoch, which holds the compiling, counts only if there is no other.

    Args:
      lines: of the metrics of all epochs.
    """
    seconds = [line["seconds"] for line in lines]
    return statistics.median(seconds[1:] or seconds)


def read_lines(file: pathlib.Path) -> list[dict[str, Any]]:
    """Reads a file of JSON lines.

    Raises:
      ValueError: if it cannot be read or a line is damaged.
    """
    return [_parse_json(file, line) for line in _read_text(file).splitlines()]


def read_json(path: pathlib.Path, name: str) -> dict[str, Any]:
    """Reads a file of a run folder.

    Raises:
      ValueError: if it is not there or damaged.
    """
    file = path / name
    if not os.path.isfile(file):  # unlike pathlib's, it bears a name that is too long
        kind = {RESULT: "finished run", DIVERGED: "run that diverged"}.get(name, "run")
        raise ValueError(f"{path} is not the folder of a {kind}: it has no {name}.")
    return _parse_json(file, _read_text(file))


def write_json(file: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    partial = file.with_suffix(".partial")
    try:
        partial.write_text(json.dumps(values, indent=2) + "\n")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _read_text(file: pathlib.Path) -> str:
    try:
        return file.read_text()
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}.") from None


def _parse_json(file: pathlib.Path, text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read: {error}.") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} must hold a JSON object, got {text[:40]}.")
    return values
