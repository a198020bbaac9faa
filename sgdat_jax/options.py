"""Options of commands and functions: typed, and each of a kind."""

import dataclasses
import types
import typing
from typing import Any

# Kinds of options that leave the result of a run as it is.
HOUSEKEEPING = "housekeeping"  # where files are, and when states are saved
PLACEMENT = "placement"  # where arrays lie: this changes the order of sums alone


def option(default: Any, kind: str) -> Any:
    """Returns the field of an option of a kind."""
    return dataclasses.field(default=default, metadata={"kind": kind})


def options_of(settings: type, *kinds: str) -> set[str]:
    """Returns the options of a class of settings that are of some kinds.

    Example:
      >>> from sgdat_jax.options import PLACEMENT, options_of
      >>> from sgdat_jax.training import Settings
      >>> sorted(options_of(Settings, PLACEMENT))
      ['devices', 'sharded', 'stream_above']
    """
    fields = dataclasses.fields(settings)
    return {field.name for field in fields if field.metadata.get("kind") in kinds}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options whose values have the types of their fields.

    Raises:
      TypeError: if a value is of another type than its field.
    """

    def __post_init__(self) -> None:
        """Checks the type of each value; subclasses check more."""
        kinds = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            _check_type(field.name, kinds[field.name], getattr(self, field.name))


def _check_type(name: str, kind: Any, value: object) -> None:
    """Raises TypeError if a value is not of its field's type; an int is a float too.

    ValueError is for an integer that no array of integers holds.
    """
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError(f"{name} must be less than 2**63 in magnitude, got {value}.")
    if not _fits(kind, value):
        kind_name = kind.__name__ if isinstance(kind, type) else str(kind)
        raise TypeError(f"{name} must be of type {kind_name}, got {value!r}.")


def _fits(kind: Any, value: object) -> bool:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(argument, value) for argument in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(
            _fits(arguments[0], item) for item in value
        )
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
