"""The names that a run is described with: models, optimizers and schedules."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax

from sgdat_jax import models, names, optimizers, signs
from sgdat_jax.optimizers import checks, restart


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


def _momentum(momentum: float | None = None) -> optax.GradientTransformation:
    return optax.identity() if momentum is None else optax.trace(momentum)


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
# What `optax.adam` and `optax.sgd` chain with their learning rate.
REAL_OPTIMIZERS = {"adam": optax.scale_by_adam, "sgd": _momentum}
# Those without a parameter that must be annealed, whose values are -1 and +1.
SIGNS = {
    "ste_sign": signs.ste_sign,
    "approx_sign": signs.approx_sign,
    "swish_sign": signs.swish_sign,
}
DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}  # None: that of the parameters
# Mean and standard deviation of the channels of images in [0, 1].
NORMALIZATIONS = {
    "dataset": None,
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "tiny_imagenet": ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
}
SCHEDULES = {
    "constant": lambda value, steps: optax.constant_schedule(value),
    "cosine": optax.cosine_decay_schedule,
}


def schedule(
    name: str, value: Any, steps: int, warmup_steps: int = 0
) -> optax.Schedule:
    """Returns the schedule of a name.

    Args:
      name: a key of `SCHEDULES`.
      value: what it starts from, after the warm-up; may be traced.
      steps: of the whole run.
      warmup_steps: of them, those in which it first rises from 0 in a straight line.

    Raises:
      ValueError: if the schedule is unknown.

    Example:
      >>> from sgdat_jax.training import registry
      >>> rate = registry.schedule("cosine", 1.0, steps=12, warmup_steps=2)
      >>> [round(float(rate(step)), 2) for step in (0, 1, 2, 7, 12)]
      [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    main = look_up("schedule", SCHEDULES, name)(value, steps - warmup_steps)
    if not warmup_steps:
        return main
    rise = optax.linear_schedule(0.0, value, warmup_steps)
    return optax.join_schedules([rise, main], [warmup_steps])


def binary_optimizer(
    name: str,
    hyperparameters: Mapping[str, Any],
    steps_per_epoch: int = 1,
    *,
    schedule: str = "constant",
    steps: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """Returns the binary optimizer of a name.

    Args:
      name: a key of `OPTIMIZERS`.
      hyperparameters: those that are None keep the optimizer's own default.
      steps_per_epoch: for optimizers whose rule goes by epochs.
      schedule: a key of `SCHEDULES`, of its learning rate or gamma.
      steps: of the whole run, for the schedule.

    Raises:
      ValueError: if the optimizer is unknown, has no such hyperparameter or nothing to
        schedule, or refuses a value.
    """
    factory = look_up("optimizer", OPTIMIZERS, name)
    accepted = inspect.signature(factory).parameters
    given = {key: value for key, value in hyperparameters.items() if value is not None}
    for key, value in given.items():
        if key not in accepted:
            raise ValueError(f"{name} has no `{key}`, got {key}={value!r}.")
    if "steps_per_epoch" in accepted:
        given["steps_per_epoch"] = steps_per_epoch
    if schedule == "constant":
        return factory(**given)
    rate = next((key for key in ("learning_rate", "gamma") if key in accepted), None)
    if rate is None:
        raise ValueError(f"{name} has no rate for `binary_schedule`, got {schedule!r}.")
    factory(**given)  # refuses a rate that a schedule would hide
    value = given.get(rate, accepted[rate].default)
    given[rate] = look_up("schedule", SCHEDULES, schedule)(value, steps)
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
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    momentum: float | None = None,
    restart_every: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer of the real-valued parameters of a name.

    Args:
      name: a key of `REAL_OPTIMIZERS`.
      learning_rate: number or schedule.
      momentum: of sgd alone.
      restart_every: steps after which moments start again at zero; the schedule goes
        on. None: never.

    Raises:
      ValueError: if the optimizer is unknown, has no momentum, or refuses it.
    """
    factory = look_up("real optimizer", REAL_OPTIMIZERS, name)
    options = {}
    if momentum is not None:
        if name != "sgd":
            raise ValueError(f"{name} has no `real_momentum`, got {momentum!r}.")
        checks.check_number("real_momentum", momentum, below=1.0)
        options["momentum"] = momentum
    direction = factory(**options)
    if restart_every is not None:
        direction = restart.restart_every(direction, restart_every)
    return optax.chain(direction, optax.scale_by_learning_rate(learning_rate))
