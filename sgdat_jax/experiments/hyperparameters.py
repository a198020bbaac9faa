"""Hyperparameters by name, as ``--set NAME=VALUE`` gives them."""

import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from sgdat_jax import checks

# What the program itself hands to an optimizer, by the option of its hyperparameters.
_OF_THE_PROGRAM = {
    "set": {
        "steps_per_epoch": "--batch-size",
        "restart_every": "--restart-binary-every-epoch",
        "reset_flips_every": "--reset-flips-every-epoch",
    },
    "real_set": {"restart_every": "--restart-real-every-epoch"},
}
_WORDS = {"true": True, "false": False, "none": None, "null": None}


def parse(
    words: Iterable[str], taken: Iterable[str] = (), option: str = "set"
) -> dict[str, Any]:
    """Returns the values of settings, each with its name.

    Args:
      words: such as ``decay=0.3``, ``nesterov=true`` or ``layout=compact``: numbers,
        true, false, none, or else text.
      taken: names that have an option of their own.
      option: ``"set"`` or ``"real_set"``, whose words they are.

    Raises:
      ValueError: if one is no setting, is given twice, or has an option of its own.

    Example:
      >>> from sgdat_jax.experiments import hyperparameters
      >>> hyperparameters.parse(["decay=0.3", "nesterov=true", "layout=compact"])
      {'decay': 0.3, 'nesterov': True, 'layout': 'compact'}
    """
    found: dict[str, Any] = {}
    prefix = option.removesuffix("set").replace("_", "-")
    owners = {name: f"--{prefix}{name.replace('_', '-')}" for name in taken}
    owners |= _OF_THE_PROGRAM[option]
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"{option} must be NAME=VALUE, got {word!r}.")
        if name in owners:
            raise ValueError(
                f"{option} must leave {name} to {owners[name]}, got {word!r}."
            )
        if name in found:
            raise ValueError(f"{option} must have {name} once, got {word!r} too.")
        found[name] = _value(text)
    return found


def parse_grid(
    words: Iterable[str], taken: Iterable[str] = ()
) -> dict[str, tuple[Any, ...]]:
    """Returns the values of settings that may have several, divided by commas.

    Raises:
      ValueError: as in `parse`.

    Example:
      >>> from sgdat_jax.experiments import hyperparameters
      >>> hyperparameters.parse_grid(["decay=0.1,0.3", "nesterov=true"])
      {'decay': (0.1, 0.3), 'nesterov': (True,)}
    """
    texts = dict(word.partition("=")[::2] for word in words)
    return {
        name: tuple(_value(part) for part in texts[name].split(","))
        for name in parse(words, taken)
    }


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, int | float) else text


def check(name: str, factory: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Checks that an optimizer takes hyperparameters, and that float32 holds them.

    Args:
      name: of the optimizer, for errors.
      factory: makes the optimizer.
      values: of its hyperparameters.

    Raises:
      ValueError: if it has no such hyperparameter, or a number is too large or too
        small for float32.
    """
    accepted = inspect.signature(factory).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    for key, value in values.items():
        if key not in accepted and not takes_all:
            known = [k for k in accepted if k not in _OF_THE_PROGRAM["set"]]
            hint = f"; the nearest is `{checks.nearest(known, key)}`" if known else ""
            raise ValueError(f"{name} has no `{key}`, got {key}={value!r}{hint}.")
        check_float32(key, value)


def check_float32(name: str, value: Any) -> None:
    """Raises ValueError if a number overflows float32, or becomes 0 in it.

    Example:
      >>> from sgdat_jax.experiments import hyperparameters
      >>> hyperparameters.check_float32("threshold", 1e39)
      Traceback (most recent call last):
      ...
      ValueError: threshold must be at most 3.4e+38 in float32, got 1e+39.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    bounds, size = np.finfo(np.float32), abs(value)
    # A float may be infinite, which optimizers refuse or take; an integer may be huge.
    if float(bounds.max) < size < math.inf:
        raise ValueError(f"{name} must be at most 3.4e+38 in float32, got {value!r}.")
    if 0 < size < float(bounds.smallest_normal):
        raise ValueError(
            f"{name} must be 0 or at least 1.2e-38 in float32, got {value!r}."
        )
