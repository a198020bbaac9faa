"""Checks of arguments and options, with one wording of errors for the whole library.

A name comes as messages show it: an argument of Python in backticks, an option bare.
"""

import difflib
import numbers
from collections.abc import Iterable, Sequence
from typing import Any


def at_least(name: str, value: float, bound: float) -> None:
    """Raises ValueError if a number is below its bound.

    Example:
      >>> from sgdat_jax import checks
      >>> checks.at_least("epochs", 0, 1)
      Traceback (most recent call last):
      ...
      ValueError: epochs must be at least 1, got 0.
    """
    if not value >= bound:
        raise ValueError(f"{name} must be at least {bound}, got {value!r}.")


def at_most(name: str, value: float, bound: float) -> None:
    """Raises ValueError if a number is above its bound.

    Example:
      >>> from sgdat_jax import checks
      >>> checks.at_most("image_size", 70_000, 65_535)
      Traceback (most recent call last):
      ...
      ValueError: image_size must be at most 65535, got 70000.
    """
    if not value <= bound:
        raise ValueError(f"{name} must be at most {bound}, got {value!r}.")


def within(name: str, value: float, interval: str) -> None:
    """Raises ValueError unless a number lies in an interval; NaN never does.

    Args:
      name: as the message shows it.
      value: a number.
      interval: such as ``"[0, 1)"``, ``"(0, inf)"`` or ``"[0, 2**32)"``.

    Example:
      >>> from sgdat_jax import checks
      >>> checks.within("`momentum`", 1.0, "[0, 1)")
      Traceback (most recent call last):
      ...
      ValueError: `momentum` must be in [0, 1), got 1.0.
    """
    low, high = map(_bound, interval[1:-1].split(", "))
    above = low <= value if interval[0] == "[" else low < value
    below = value <= high if interval[-1] == "]" else value < high
    if not (above and below):
        raise ValueError(f"{name} must be in {interval}, got {value!r}.")


def _bound(text: str) -> float:
    base, _, exponent = text.partition("**")
    return float(base) ** float(exponent or 1)


def number(
    name: str,
    value: Any,
    interval: str = "[0, inf)",
    *,
    optional: bool = False,
    schedule: bool = False,
) -> None:
    """Checks that a hyperparameter is a number in an interval.

    Arrays of shape () count as numbers. Traced ones have no value yet, and schedules
    give theirs later: both pass.

    Args:
      name: as the message shows it.
      value: what was given.
      interval: as in `within`.
      optional: whether None passes.
      schedule: whether a function passes.

    Raises:
      ValueError: if a number is outside, NaN included.
      TypeError: if it is something else.
    """
    if (optional and value is None) or (schedule and callable(value)):
        return
    if _is_traced(value):
        return
    found = _of_array(value)
    if isinstance(found, bool) or not isinstance(found, numbers.Real):
        allowed = "a number or an array of shape ()"
        allowed += ", or a schedule" if schedule else ", or None" if optional else ""
        raise TypeError(f"{name} must be {allowed}, got {value!r}.")
    within(name, found, interval)  # type: ignore[arg-type]


def integer(name: str, value: Any, least: float = 1, *, optional: bool = False) -> Any:
    """Returns an integer of at least so much, traced arrays and, if optional, None.

    Raises:
      ValueError: if it is an integer below that.
      TypeError: if it is something else.

    Example:
      >>> from sgdat_jax import checks
      >>> checks.integer("`in_features`", 2.0)
      Traceback (most recent call last):
      ...
      TypeError: `in_features` must be an integer, got 2.0.
    """
    if (optional and value is None) or _is_traced(value):
        return value
    found = _of_array(value)
    if isinstance(found, bool) or not isinstance(found, numbers.Integral):
        kinds = "an integer or None" if optional else "an integer"
        raise TypeError(f"{name} must be {kinds}, got {value!r}.")
    at_least(name, int(found), least)
    return int(found)


def _is_traced(value: Any) -> bool:
    if getattr(value, "ndim", None) != 0:
        return False
    import jax  # at hand where there are arrays, and slow to load where there are none

    return isinstance(value, jax.core.Tracer)


def _of_array(value: Any) -> Any:
    """Returns what an array of shape () holds; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def choice(
    name: str, value: object, choices: Sequence[str], *, optional: bool = False
) -> None:
    """Raises ValueError, with the nearest choice, if a value is not one of a few words.

    Args:
      name: as the message shows it.
      value: what was given.
      choices: what it may be.
      optional: whether None passes.

    Example:
      >>> from sgdat_jax import checks
      >>> checks.choice("`padding`", "all", ("ALL", "NO"))
      Traceback (most recent call last):
      ...
      ValueError: `padding` must be 'ALL' or 'NO', got 'all'; the nearest is 'ALL'.
    """
    if value in choices or (optional and value is None):
        return
    *others, last = [*map(repr, choices), *["None"] * optional]
    allowed = f"{', '.join(others)} or {last}" if others else last
    raise ValueError(
        f"{name} must be {allowed}, got {value!r}; the nearest is "
        f"{nearest(choices, str(value))!r}."
    )


def function(name: str, value: object, *, optional: bool = False) -> None:
    """Raises TypeError if a value is no function, nor None if that may be."""
    if not callable(value) and not (optional and value is None):
        kinds = "a function or None" if optional else "a function"
        raise TypeError(f"{name} must be {kinds}, got {value!r}.")


def nearest(choices: Iterable[str], name: str) -> str:
    """Returns the choice that is most like a name, in capitals or not.

    Example:
      >>> from sgdat_jax import checks
      >>> checks.nearest(["red", "green"], "GREN")
      'green'
    """
    lower = {choice.lower(): choice for choice in choices}
    return lower[difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0)[0]]
