"""Checks the classes that the files of a prepared set name.

tensorflow-datasets imports the modules of these classes, so the author of such a file
decides what code runs. The names are checked before tensorflow-datasets opens the set.
"""

import json
import os
import pathlib
import re
from collections.abc import Collection, Iterator
from typing import Any

# Files that may name classes, and the keys that do. In the second file, "type" is the
# type of a column.
_KEYS = {
    "features.json": ("pythonClassName", "python_class_name", "type"),
    "dataset_info.json": ("pythonClassName", "python_class_name"),
}
_OWN = "tensorflow_datasets."
_NAME = re.compile(r"\w+", re.ASCII)
_CONFIG = re.compile(r"(?!\.+$)[\w+.-]*", re.ASCII)  # but not "..", a folder above


def check(
    name: str, config: str = "", data_dir: str | pathlib.Path | None = None
) -> None:
    """Raises ValueError if a set names classes that are not tensorflow-datasets' own.

    All versions and configs of the set are looked at, as tensorflow-datasets chooses
    among them.

    Args:
      name: of the set.
      config: of the set; empty: its default.
      data_dir: folder of prepared sets; None: those that tensorflow-datasets knows.
    """
    if not _NAME.fullmatch(name) or not _CONFIG.fullmatch(config):
        raise ValueError(
            f"tfds:{name}{':' * bool(config)}{config} cannot be opened: it must be "
            "tfds:NAME[:CONFIG]."
        )
    known = _known_classes()
    for file in _files(name, data_dir):
        for found in _names(_read(file), _KEYS[file.name]):
            if found not in known:
                raise ValueError(
                    f"{file} must name feature classes of tensorflow-datasets, got "
                    f"{found!r}: nothing else is imported."
                )


def _known_classes() -> Collection[str]:
    import tensorflow_datasets as tfds

    classes = [tfds.features.FeatureConnector]
    for cls in classes:  # grows
        classes += cls.__subclasses__()
    names = {f"{cls.__module__}.{cls.__name__}" for cls in classes}
    aliases = {alias for cls in classes for alias in cls.ALIASES}
    return {name for name in names | aliases if name.startswith(_OWN)}


def _files(name: str, data_dir: str | pathlib.Path | None) -> Iterator[Any]:
    """Yields the files of a set that may name classes, as paths of etils."""
    from etils import epath  # as tensorflow-datasets, which also reads remote folders
    from tensorflow_datasets.core import naming
    from tensorflow_datasets.core.utils import file_utils

    parsed, _ = naming.parse_builder_name_kwargs(name)
    for root in file_utils.list_data_dirs(data_dir):
        place = epath.Path(os.path.expanduser(root)) / parsed.name
        versions = _folders(place)  # or configs, with versions in them
        for folder in (
            *versions,
            *(v for config in versions for v in _folders(config)),
        ):
            yield from (folder / file for file in _KEYS if (folder / file).exists())


def _folders(folder: Any) -> list[Any]:
    return [p for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []


def _read(file: Any) -> Any:
    """Returns what is in a file; None if tensorflow-datasets cannot parse it either."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return None


def _names(values: Any, keys: Collection[str]) -> Iterator[str]:
    """Yields the names of classes at any depth, in JSON within text too."""
    pending = [values]
    while pending:
        value = pending.pop()
        if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
            try:
                pending.append(json.loads(value))
            except (ValueError, RecursionError):
                continue  # text that only looks like JSON
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            pending += value.values()
            yield from (v for k, v in value.items() if k in keys and isinstance(v, str))
