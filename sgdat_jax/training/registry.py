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
    checks.check_number("momentum", momentum, below=1.0, optional=True)
    return optimizers.latent(optax.sgd(_checked(learning_rate), momentum))


def _latent_adam(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
) -> optax.GradientTransformationExtraArgs:
    return optimizers.latent(optax.adam(_checked(learning_rate)))


def _latent_lion(
    learning_rate: optax.ScalarOrSchedule = 1e-4,
) -> optax.GradientTransformationExtraArgs:
    return optimizers.latent(optax.lion(_checked(learning_rate)))


# Latents are never clipped here, as in SGDAT: a threshold may grow beyond any bound.
def _adaptive_adam(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    threshold: optax.ScalarOrSchedule = 1e-3,
) -> optax.GradientTransformationExtraArgs:
    inner = optax.adam(_checked(learning_rate))
    return optimizers.latent(inner, clip=None, adaptive_threshold=threshold)


def _adaptive_lion(
    learning_rate: optax.ScalarOrSchedule = 1e-4,
    threshold: optax.ScalarOrSchedule = 1e-4,
) -> optax.GradientTransformationExtraArgs:
    inner = optax.lion(_checked(learning_rate))
    return optimizers.latent(inner, clip=None, adaptive_threshold=threshold)


def _checked(learning_rate: optax.ScalarOrSchedule) -> optax.ScalarOrSchedule:
    checks.check_number("learning_rate", learning_rate, schedule=True)
    return learning_rate


look_up = names.look_up

MODELS = {
    "DigitsNet": models.DigitsNet,
    "BinaryNet": models.BinaryNet,
    "SgdatResNet18": models.SgdatResNet18,
    "BiRealResNet18": models.BiRealResNet18,
}
OPTIMIZERS = {
    "sgdat": optimizers.sgdat,
    "sgdt": optimizers.sgdt,
    "sgd": _latent_sgd,
    "adam": _latent_adam,
    "lion": _latent_lion,
    "adam_adaptive": _adaptive_adam,
    "lion_adaptive": _adaptive_lion,
    "bop": optimizers.bop,
    "bop2nd_order": optimizers.bop2nd_order,
    "boat": optimizers.boat,
    "prob_bop": optimizers.prob_bop,
    "diode": optimizers.diode,
}
REAL_OPTIMIZERS = {"adam": optax.adam, "sgd": optax.sgd}
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


def defaults(name: str) -> dict[str, float]:
    """Returns the defaults of a binary optimizer's rate and threshold."""
    parameters = inspect.signature(look_up("optimizer", OPTIMIZERS, name)).parameters
    return {
        key: parameters[key].default
        for key in ("learning_rate", "gamma", "eta", "threshold")
        if key in parameters and parameters[key].default
    }


def real_optimizer(
    name: str, learning_rate: optax.ScalarOrSchedule, momentum: float | None = None
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer of the real-valued parameters of a name.

    Args:
      name: a key of `REAL_OPTIMIZERS`.
      learning_rate: number or schedule.
      momentum: of sgd alone.

    Raises:
      ValueError: if the optimizer is unknown, has no momentum, or refuses it.
    """
    factory = look_up("real optimizer", REAL_OPTIMIZERS, name)
    if momentum is None:
        return factory(learning_rate)
    if name != "sgd":
        raise ValueError(f"{name} has no `real_momentum`, got {momentum!r}.")
    checks.check_number("real_momentum", momentum, below=1.0)
    return factory(learning_rate, momentum)
