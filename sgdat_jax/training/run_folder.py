"""The folder of a run: its config, a line of metrics per epoch, its result."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from sgdat_jax.training import config as config_lib

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
CHECKPOINTS = "checkpoints"
PLOTS = "plots"


def create(path: pathlib.Path, config: config_lib.TrainConfig) -> None:
    """Makes a run folder with its config.

    Raises:
      ValueError: if the folder holds a run or anything else, or cannot be written.
    """
    try:
        if path.is_dir() and any(path.iterdir()):
            held = "a run" if (path / CONFIG).exists() else "other files"
            raise ValueError(f"run_dir must be new or empty, {path} holds {held}.")
        path.mkdir(parents=True, exist_ok=True)
        _write_json(path / CONFIG, dataclasses.asdict(config))
    except OSError as error:
        raise ValueError(
            f"run_dir must be a folder that can be written, got {path}: "
            f"{error.strerror}."
        ) from None


def append_metrics(path: pathlib.Path, metrics: Mapping[str, Any]) -> None:
    """Adds the line of one epoch."""
    with (path / METRICS).open("a") as file:
        file.write(json.dumps(metrics) + "\n")


def write_result(path: pathlib.Path, result: Mapping[str, Any]) -> None:
    """Writes the result of a finished run."""
    _write_json(path / RESULT, result)


def read_config(path: pathlib.Path) -> config_lib.TrainConfig:
    """Reads the config of a run.

    Raises:
      ValueError: if there is no run in the folder, or its config is damaged.
    """
    values = _read_json(path, CONFIG)
    try:
        return config_lib.TrainConfig(**values)
    except TypeError as error:
        raise ValueError(f"{path / CONFIG} is not a run's config: {error}.") from None


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the metrics of all epochs.

    Raises:
      ValueError: if there are none or a line is damaged.
    """
    file = path / METRICS
    try:
        return [json.loads(line) for line in file.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}.") from None


def read_result(path: pathlib.Path) -> dict[str, Any]:
    """Reads the result of a finished run.

    Raises:
      ValueError: if the run has not finished or its result is damaged.
    """
    return _read_json(path, RESULT)


def _write_json(file: pathlib.Path, values: Mapping[str, Any]) -> None:
    # The rename leaves either the whole file or none.
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=2) + "\n")
    partial.replace(file)


def _read_json(path: pathlib.Path, name: str) -> dict[str, Any]:
    file = path / name
    if not file.is_file():
        kind = "finished run" if name == RESULT else "run"
        raise ValueError(f"{path} is not the folder of a {kind}: it has no {name}.")
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}.") from None
