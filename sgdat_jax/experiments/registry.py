"""The names that a run is described with: models, optimizers and schedules."""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sgdat_jax import names
from sgdat_jax.experiments import hyperparameters as hyperparameters_lib

if TYPE_CHECKING:  # what a help text does without
    import optax


look_up = names.look_up

_HERE = "sgdat_jax.experiments.factories"
# Factories of binary optimizers; their keyword arguments are the hyperparameters.
OPTIMIZERS = names.Table(
    "optimizers",
    names.places(
        sgdat="sgdat_jax.optimizers:sgdat",
        sgdt=f"{_HERE}:sgdt",
        sgd=f"{_HERE}:latent_sgd",
        adam=f"{_HERE}:latent_adam",
        lion=f"{_HERE}:latent_lion",
        adam_adaptive=f"{_HERE}:adaptive_adam",
        lion_adaptive=f"{_HERE}:adaptive_lion",
        bop="sgdat_jax.optimizers:bop",
        bop2nd_order="sgdat_jax.optimizers:bop2nd_order",
        boat="sgdat_jax.optimizers:boat",
        prob_bop="sgdat_jax.optimizers:prob_bop",
        diode="sgdat_jax.optimizers:diode",
    ),
)
# Where latent weights start for weights of magnitude 1, in learning rates: far enough
# from 0 to hold against the first gradients, near enough to flip within some epochs. A
# step of adam and lion is of the learning rate's size, one of the others of its product
# with a gradient.
LATENT_STARTS = {
    **dict.fromkeys(("sgdat", "sgdt", "sgd"), 0.1),
    **dict.fromkeys(("adam", "lion", "adam_adaptive", "lion_adaptive"), 10.0),
}
# Factories of optimizers of the real-valued parameters, such as `optax.adamw`: their
# `learning_rate` is a number or a schedule, other arguments are hyperparameters.
REAL_OPTIMIZERS = names.Table(
    "real_optimizers",
    names.places(adam=f"{_HERE}:adam", sgd=f"{_HERE}:sgd", adamw="optax:adamw"),
)
# Mean and standard deviation of the channels of images in [0, 1].
NORMALIZATIONS = {
    "dataset": None,
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "tiny_imagenet": ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
}
# Functions of what a rate starts from and of the steps of the whole run.
SCHEDULES = names.Table(
    "schedules",
    names.places(constant=f"{_HERE}:constant", cosine="optax:cosine_decay_schedule"),
)


def schedule(
    name: str, value: Any, steps: int, warmup_steps: int = 0
) -> "optax.Schedule":
    """Returns the schedule of a name.

    Args:
      name: a key of `SCHEDULES`.
      value: what it starts from, after the warm-up; may be traced.
      steps: of the whole run.
      warmup_steps: of them, those in which it first rises from 0 in a straight line.

    Raises:
      ValueError: if the schedule is unknown.

    Example:
      >>> from sgdat_jax.experiments import registry
      >>> rate = registry.schedule("cosine", 1.0, steps=12, warmup_steps=2)
      >>> [round(float(rate(step)), 2) for step in (0, 1, 2, 7, 12)]
      [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    main = look_up("schedule", SCHEDULES, name)(value, steps - warmup_steps)
    if not warmup_steps:
        return main
    import optax

    rise = optax.linear_schedule(0.0, value, warmup_steps)
    return optax.join_schedules([rise, main], [warmup_steps])


def binary_optimizer(
    name: str,
    hyperparameters: Mapping[str, Any],
    steps_per_epoch: int = 1,
    *,
    restart: bool = False,
    schedule: str = "constant",
    steps: int = 1,
) -> "optax.GradientTransformationExtraArgs":
    """Returns the binary optimizer of a name.

    Args:
      name: a key of `OPTIMIZERS`.
      hyperparameters: those that are None keep the optimizer's own default.
      steps_per_epoch: for optimizers whose rule goes by epochs, and for restarts.
      restart: whether momentum or moments of latent weights start again at zero at
        every epoch; other optimizers have none and go on.
      schedule: a key of `SCHEDULES`, of its learning rate or gamma.
      steps: of the whole run, for the schedule.

    Raises:
      ValueError: if the optimizer is unknown, has no such hyperparameter or nothing to
        schedule, or refuses a value.
    """
    factory = look_up("optimizer", OPTIMIZERS, name)
    accepted = inspect.signature(factory).parameters
    given = {key: value for key, value in hyperparameters.items() if value is not None}
    hyperparameters_lib.check(name, factory, given)
    if "steps_per_epoch" in accepted:
        given["steps_per_epoch"] = steps_per_epoch
    if restart and "restart_every" in accepted:
        given["restart_every"] = steps_per_epoch
    if schedule == "constant":
        return _made(factory, given)
    rate = next((key for key in ("learning_rate", "gamma") if key in accepted), None)
    if rate is None:
        raise ValueError(f"{name} has no rate for `binary_schedule`, got {schedule!r}.")
    _made(factory, given)  # refuses a rate that a schedule would hide
    value = given.get(rate, accepted[rate].default)
    given[rate] = look_up("schedule", SCHEDULES, schedule)(value, steps)
    return _made(factory, given)


def _made(
    factory: Callable[..., Any], given: Mapping[str, Any]
) -> "optax.GradientTransformationExtraArgs":
    import optax

    try:
        return optax.with_extra_args_support(factory(**given))
    except TypeError as error:
        raise ValueError(str(error)) from None


def can_restart(name: str, momentum: float | None) -> bool:
    """Returns whether a binary optimizer has moments that `restart` starts again."""
    accepted = inspect.signature(look_up("optimizer", OPTIMIZERS, name)).parameters
    has_moments = momentum is not None or "momentum" not in accepted
    return "restart_every" in accepted and has_moments


def takes_start(name: str) -> bool:
    """Returns whether a binary optimizer can go on from real-valued weights."""
    factory = look_up("optimizer", OPTIMIZERS, name)
    return "start" in inspect.signature(factory).parameters


def defaults(name: str) -> dict[str, float]:
    """Returns the defaults of a binary optimizer's rate and threshold."""
    parameters = inspect.signature(look_up("optimizer", OPTIMIZERS, name)).parameters
    return {
        key: parameters[key].default
        for key in ("learning_rate", "gamma", "eta", "threshold")
        if key in parameters and parameters[key].default
    }


def check_real_optimizer(
    name: str, hyperparameters: Mapping[str, Any], *, restart: bool
) -> None:
    """Raises ValueError as `real_optimizer` does, and loads it only if it must."""
    names.check("real optimizer", REAL_OPTIMIZERS, name)
    if restart or any(value is not None for value in hyperparameters.values()):
        real_optimizer(name, 0.0, hyperparameters, 1 if restart else None)


def real_optimizer(
    name: str,
    learning_rate: "optax.ScalarOrSchedule",
    hyperparameters: Mapping[str, Any] | None = None,
    restart_every: int | None = None,
) -> "optax.GradientTransformationExtraArgs":
    """Returns the optimizer of the real-valued parameters of a name.

    Args:
      name: a key of `REAL_OPTIMIZERS`.
      learning_rate: number or schedule.
      hyperparameters: those that are None keep the optimizer's own default.
      restart_every: steps after which moments start again at zero; the schedule goes
        on. None: never.

    Raises:
      ValueError: if the optimizer is unknown, has no such hyperparameter or nothing to
        restart, or refuses a value.

    Example:
      >>> from sgdat_jax.experiments import registry
      >>> tx = registry.real_optimizer("adamw", 1e-3, {"weight_decay": 1e-2})
      >>> registry.real_optimizer("sgd", 1e-3, {"momentun": 0.9})
      Traceback (most recent call last):
      ...
      ValueError: sgd has no `momentun`, got momentun=0.9; the nearest is `momentum`.
    """
    factory = look_up("real optimizer", REAL_OPTIMIZERS, name)
    given = {k: v for k, v in (hyperparameters or {}).items() if v is not None}
    given["learning_rate"] = learning_rate
    if restart_every is not None:
        if "restart_every" not in inspect.signature(factory).parameters:
            raise ValueError(f"{name} has no moments that can restart at every epoch.")
        given["restart_every"] = restart_every
    hyperparameters_lib.check(name, factory, given)
    return _made(factory, given)
