"""The config of a run, in its folder, with the fingerprint of its data."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sgdat_jax import files
from sgdat_jax.options import HOUSEKEEPING, PLACEMENT, Options, options_of
from sgdat_jax.run_folder import places

if TYPE_CHECKING:
    import filelock

_Config = TypeVar("_Config", bound=Options)

_DATA = "data"  # entries of the file
_BEFORE = "data_before"


def create(
    path: pathlib.Path,
    config: Options,
    name: str = places.CONFIG,
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
    places.check_path(path)
    if path.is_dir() and not places.is_empty(path):
        held = "a run" if (path / name).exists() else "other files"
        raise ValueError(f"run_dir must be new or empty, {path} holds {held}.")
    made = files.make([path])
    try:
        held_lock = places.lock(path)
        write_config(path, config, name, data)
    except OSError as error:
        with contextlib.suppress(OSError):
            (path / places.LOCK).unlink()
        files.remove_empty(made)
        raise files.not_writable(path, "run_dir", error) from None
    return held_lock


def write_config(
    path: pathlib.Path,
    config: Options,
    name: str = places.CONFIG,
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
    content = {"format": places.FORMAT, **dataclasses.asdict(config), **extra}
    files.write_json(path / name, content)


def reopen(path: pathlib.Path, config: Options, data: Mapping[str, str]) -> None:
    """Makes a run folder one of a run that has not finished, with config and data."""
    recorded = places.read_json(path, places.CONFIG)
    before = recorded.get(_BEFORE, [])
    if recorded.get(_DATA, data) != data:
        before = [*before, recorded[_DATA]]
    for name in (places.RESULT, places.DIVERGED):
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


def read_data(path: pathlib.Path, name: str = places.CONFIG) -> Any:
    """Reads the fingerprint of the data that a run began with, None if it is unknown.

    Raises:
      ValueError: if there is no run in the folder, or its config is damaged.
    """
    return places.read_json(path, name).get(_DATA)


def read_config(path: pathlib.Path, kind: type[_Config]) -> _Config:
    """Reads the config of a run.

    Args:
      path: of the folder.
      kind: class of the config.

    Raises:
      ValueError: if there is no run in the folder, or its config is damaged.
    """
    values = places.read_json(path, places.CONFIG)
    for name in (_DATA, _BEFORE):
        values.pop(name, None)
    return config_of(path / places.CONFIG, kind, values, values.pop("format", 0))


def config_of(
    file: pathlib.Path, kind: type[_Config], values: Any, found: Any
) -> _Config:
    """Returns a config from its values in JSON and the format of the file.

    Raises:
      ValueError: if they are not those of a config, or of a newer format.
    """
    if found not in range(places.FORMAT + 1):
        raise ValueError(
            f"{file} is of format {found!r}, of another version of sgdat-jax; this one "
            f"reads formats up to {places.FORMAT}."
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
    found: Options,
    wanted: Options,
    free: Sequence[str] = (),
) -> None:
    """Raises ValueError if a folder holds something with other settings.

    Args:
      folder: for the message.
      found: its config.
      wanted: the config of the run that is to go on there.
      free: fields that may differ, in addition to those that always may.
    """
    kinds = HOUSEKEEPING, PLACEMENT
    may_differ = options_of(type(wanted), *kinds).union(free)
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
