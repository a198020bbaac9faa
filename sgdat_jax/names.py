"""Looking up what a user names."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


def look_up(kind: str, table: Mapping[str, Any], name: str) -> Any:
    """Returns the entry of a name.

    Raises:
      ValueError: if there is none; the message has the nearest name and all names.

    Example:
      >>> from sgdat_jax import names
      >>> names.look_up("colour", {"red": 1, "green": 2}, "red")
      1
    """
    if name in table:
        return table[name]
    raise ValueError(
        f"unknown {kind} {name!r}; the nearest is {nearest(table, name)!r} "
        f"(known: {', '.join(sorted(table))})."
    )


def nearest(table: Iterable[str], name: str) -> str:
    """Returns the name of a table that is most like a given one.

    Example:
      >>> from sgdat_jax import names
      >>> names.nearest(["red", "green"], "gren")
      'green'
    """
    return difflib.get_close_matches(name, table, n=1, cutoff=0)[0]
