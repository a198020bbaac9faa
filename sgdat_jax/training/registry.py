"""The names that a run is described with: models, optimizers and schedules."""

import inspect
from collections.abc import Mapping
from typing import Any

import optax

from sgdat_jax import models, names, optimizers
from sgdat_jax.optimizers import checks


def _latent_sgd(
    learning_rate: optax.ScalarOrSchedule = 1e-4, *, momentum: float | None = None
) -> optax.GradientTransformationExtraArgs:
    checks.check_number("learning_rate", learning_rate, schedule=True)
    checks.check_number("momentum", momentum, below=1.0, optional=True)
    return optimizers.latent(optax.sgd(learning_rate, momentum))


def _latent_adam(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
) -> optax.GradientTransformationExtraArgs:
    checks.check_number("learning_rate", learning_rate, schedule=True)
    return optimizers.latent(optax.adam(learning_rate))


look_up = names.look_up

MODELS = {"DigitsNet": models.DigitsNet}
OPTIMIZERS = {
    "sgdat": optimizers.sgdat,
    "sgdt": optimizers.sgdt,
    "sgd": _latent_sgd,
    "adam": _latent_adam,
    "bop": optimizers.bop,
    "bop2nd_order": optimizers.bop2nd_order,
    "boat": optimizers.boat,
    "prob_bop": optimizers.prob_bop,
    "diode": optimizers.diode,
}
SCHEDULES = {
    "constant": lambda value, steps: optax.constant_schedule(value),
    "cosine": optax.cosine_decay_schedule,
}


def binary_optimizer(
    name: str, hyperparameters: Mapping[str, Any], steps_per_epoch: int = 1
) -> optax.GradientTransformationExtraArgs:
    """Returns the binary optimizer of a name.

    Args:
      name: a key of `OPTIMIZERS`.
      hyperparameters: those that are None keep the optimizer's own default.
      steps_per_epoch: for optimizers whose rule goes by epochs.

    Raises:
      ValueError: if the optimizer is unknown, has no such hyperparameter, or refuses
        a value.
    """
    factory = look_up("optimizer", OPTIMIZERS, name)
    accepted = inspect.signature(factory).parameters
    given = {key: value for key, value in hyperparameters.items() if value is not None}
    for key, value in given.items():
        if key not in accepted:
            raise ValueError(f"{name} has no `{key}`, got {key}={value!r}.")
    if "steps_per_epoch" in accepted:
        given["steps_per_epoch"] = steps_per_epoch
    return factory(**given)
