"""The names that a run is described with: data sets, models and optimizers."""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import optax

from sgdat_jax import models, optimizers
from sgdat_jax.data import sources

DATASETS = {"digits": sources.digits}
MODELS = {"DigitsNet": models.DigitsNet}
OPTIMIZERS = {"sgdat": optimizers.sgdat}
SCHEDULES = {
    "constant": lambda value, steps: optax.constant_schedule(value),
    "cosine": optax.cosine_decay_schedule,
}


def look_up(kind: str, table: Mapping[str, Any], name: str) -> Any:
    """Returns the entry of a name.

    Raises:
      ValueError: if there is none; the message has the nearest name and all names.
    """
    if name in table:
        return table[name]
    nearest = difflib.get_close_matches(name, table, n=1, cutoff=0)[0]
    raise ValueError(
        f"unknown {kind} {name!r}; the nearest is {nearest!r} "
        f"(known: {', '.join(sorted(table))})."
    )


def binary_optimizer(
    name: str, hyperparameters: Mapping[str, Any]
) -> optax.GradientTransformationExtraArgs:
    """Returns the binary optimizer of a name.

    Args:
      name: a key of `OPTIMIZERS`.
      hyperparameters: those that are None keep the optimizer's own default.

    Raises:
      ValueError: if the optimizer is unknown, has no such hyperparameter, or refuses
        a value.
    """
    factory = look_up("optimizer", OPTIMIZERS, name)
    given = {key: value for key, value in hyperparameters.items() if value is not None}
    for key in given:
        if key not in inspect.signature(factory).parameters:
            raise ValueError(f"{name} has no `{key}`, got {key}={given[key]!r}.")
    return factory(**given)
