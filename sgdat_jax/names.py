"""Looking up what a user names."""

import difflib
import functools
import importlib.metadata
from collections.abc import Iterable, Mapping
from typing import Any


class Table(dict[str, Any]):
    """Things of one kind by name, to which anybody may add.

    It is a dictionary that also knows the entry points of installed packages, of the
    group ``sgdat_jax.<group>``; one is loaded when its name is looked up.

    Args:
      group: last part of the entry points' group.
      entries: what it has from the start.

    Example:
      >>> from sgdat_jax import names
      >>> table = names.Table("colors", {"red": 1})
      >>> table["green"] = 2
      >>> names.look_up("color", table, "green")
      2
    """

    def __init__(self, group: str, entries: Mapping[str, Any]):
        super().__init__(entries)
        self._group = f"sgdat_jax.{group}"

    def __contains__(self, name: object) -> bool:
        """Returns whether a name is known; loads nothing."""
        return super().__contains__(name) or name in _entry_points(self._group)

    def __missing__(self, name: str) -> Any:
        """Loads the entry point of a name."""
        self[name] = _entry_points(self._group)[name].load()
        return self[name]

    def known(self) -> list[str]:
        """Returns all names, those of entry points included."""
        return sorted({*self, *_entry_points(self._group)})


@functools.cache
def _entry_points(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    found = importlib.metadata.entry_points(group=group)
    return {point.name: point for point in found}


def look_up(kind: str, table: Mapping[str, Any], name: str) -> Any:
    """Returns the entry of a name.

    Raises:
      ValueError: if there is none; the message has the nearest name and all names.

    Example:
      >>> from sgdat_jax import names
      >>> names.look_up("colour", {"red": 1, "green": 2}, "red")
      1
    """
    check(kind, table, name)
    return table[name]


def check(kind: str, table: Mapping[str, Any], name: str) -> None:
    """Raises ValueError as `look_up` does, without loading what is named."""
    if name in table:
        return
    known = table.known() if isinstance(table, Table) else sorted(table)
    raise ValueError(
        f"unknown {kind} {name!r}; the nearest is {nearest(known, name)!r} "
        f"(known: {', '.join(known)})."
    )


def nearest(table: Iterable[str], name: str) -> str:
    """Returns the name of a table that is most like a given one.

    Example:
      >>> from sgdat_jax import names
      >>> names.nearest(["red", "green"], "gren")
      'green'
    """
    return difflib.get_close_matches(name, table, n=1, cutoff=0)[0]
