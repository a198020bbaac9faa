"""Looking up what a user names."""

import collections
import functools
import importlib
import importlib.metadata
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from sgdat_jax import checks


class Table(collections.UserDict[str, Any]):
    """Things of one kind by name, to which anybody may add.

    It is a dictionary whose entries may be places, as `places` makes them: each is
    imported when its name is looked up, so all names are known at no cost. It also
    knows the entry points of installed packages, of the group ``sgdat_jax.<group>``.

    Args:
      group: last part of the entry points' group; None: it knows none.
      entries: what it has from the start.

    Example:
      >>> from sgdat_jax import names
      >>> table = names.Table("colors", {"red": 1} | names.places(blue="math:pi"))
      >>> table["green"] = 2
      >>> names.look_up("color", table, "green")
      2
      >>> round(table["blue"], 2)
      3.14
    """

    def __init__(self, group: str | None, entries: Mapping[str, Any]):
        super().__init__(entries)
        self._group = None if group is None else f"sgdat_jax.{group}"

    def __contains__(self, name: object) -> bool:
        """Returns whether a name is known; loads nothing."""
        return super().__contains__(name) or name in self._entry_points()

    def __getitem__(self, name: str) -> Any:
        """Returns an entry, which is imported if it is a place."""
        entry = self.data[name] if name in self.data else self._entry_points()[name]
        if isinstance(entry, importlib.metadata.EntryPoint):
            entry = self.data[name] = entry.load()
        return entry

    def known(self) -> list[str]:
        """Returns all names, those of entry points included."""
        return sorted({*self, *self._entry_points()})

    def _entry_points(self) -> dict[str, importlib.metadata.EntryPoint]:
        return {} if self._group is None else _entry_points(self._group)


def places(**named: str) -> dict[str, Any]:
    """Returns entries of a table that are imported when they are first used.

    Args:
      **named: by name, the module and the attribute in it: ``"math:pi"``.
    """
    return {
        name: importlib.metadata.EntryPoint(name, place, "sgdat_jax")
        for name, place in named.items()
    }


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns the `__getattr__` of a package whose names stand in other modules.

    Args:
      package: the package's own name.
      homes: by name, the module that it is, or the module and the attribute in it.

    Example:
      >>> from sgdat_jax import names
      >>> find = names.lazily("shapes", {"pi": "math:pi"})
      >>> round(find("pi"), 2)
      3.14
      >>> find("tau")
      Traceback (most recent call last):
      ...
      AttributeError: module 'shapes' has no attribute 'tau'
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return importlib.metadata.EntryPoint(name, homes[name], package).load()

    return find


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


def check(kind: str, table: Collection[str], name: str) -> None:
    """Raises ValueError as `look_up` does, without loading what is named."""
    if name in table:
        return
    known = table.known() if isinstance(table, Table) else sorted(table)
    raise ValueError(
        f"unknown {kind} {name!r}; the nearest is {checks.nearest(known, name)!r} "
        f"(known: {', '.join(known)})."
    )


def check_text(names: Iterable[str]) -> None:
    """Raises ValueError if a name is not of characters that can be shown.

    Terminals obey control characters, and UTF-8 has no surrogates.
    """
    for name in names:
        kinds = {unicodedata.category(character) for character in name}
        if kinds & {"Cc", "Cs"}:
            raise ValueError(
                "names of classes must have no control characters or surrogates, got "
                f"{name!r}."
            )


# Classes of networks, or functions that make them: of the number of classes, of `rngs`,
# and of those other arguments in `models.specs.Spec.build` that they take.
NETWORKS = Table(
    "networks",
    places(
        DigitsNet="sgdat_jax.models:DigitsNet",
        BinaryNet="sgdat_jax.models:BinaryNet",
        SgdatResNet18="sgdat_jax.models:SgdatResNet18",
        BiRealResNet18="sgdat_jax.models:BiRealResNet18",
    ),
)
# Quantizers of activations; those with a schedule in their paper follow it in training.
SIGNS = Table(
    "signs",
    places(
        ste_sign="sgdat_jax.signs:ste_sign",
        approx_sign="sgdat_jax.signs:approx_sign",
        swish_sign="sgdat_jax.signs:swish_sign",
        ede_sign="sgdat_jax.models.specs:annealed_ede_sign",
        reste_sign="sgdat_jax.models.specs:annealed_reste_sign",
        magnitude_aware_sign="sgdat_jax.signs:magnitude_aware_sign",
        ste_heaviside="sgdat_jax.signs:ste_heaviside",
        ste_ternary="sgdat_jax.signs:ste_ternary",
        dorefa="sgdat_jax.signs:dorefa",
    ),
)
COMPUTE_DTYPES = ("float32", "bfloat16")  # keys of `models.specs.DTYPES`
