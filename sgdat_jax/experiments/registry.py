"""The names that a run is described with: models, optimizers and schedules."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import optax

from sgdat_jax import names, optimizers
from sgdat_jax.experiments import hyperparameters as hyperparameters_lib
from sgdat_jax.optimizers import binary, checks, restart


# At zero latents as published: the rows of the paper are held to recorded steps.
def _latent_sgd(
    learning_rate: optax.ScalarOrSchedule = 1e-4,
    *,
    momentum: float | None = None,
    restart_every: int | None = None,
    start: binary.Start = "zero",
) -> optax.GradientTransformationExtraArgs:
    inner = _sgd(learning_rate, momentum, restart_every)
    return optimizers.latent(inner, start=start, at_zero="positive")


def _sgdt(
    learning_rate: optax.ScalarOrSchedule = 1e-4,
    threshold: optax.ScalarOrSchedule = 1e-8,
    *,
    momentum: float | None = None,
    restart_every: int | None = None,
    start: binary.Start = "zero",
) -> optax.GradientTransformationExtraArgs:
    inner = _sgd(learning_rate, momentum, restart_every)
    return optimizers.latent(
        inner, threshold=threshold, start=start, at_zero="positive"
    )


def _latent_adam(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    *,
    restart_every: int | None = None,
    start: binary.Start = "zero",
) -> optax.GradientTransformationExtraArgs:
    inner = _adam(learning_rate, restart_every)
    return optimizers.latent(inner, start=start, at_zero="positive")


def _latent_lion(
    learning_rate: optax.ScalarOrSchedule = 1e-4,
    *,
    restart_every: int | None = None,
    start: binary.Start = "zero",
) -> optax.GradientTransformationExtraArgs:
    inner = _lion(learning_rate, restart_every)
    return optimizers.latent(inner, start=start, at_zero="positive")


# Latents are never clipped here, as in SGDAT: a threshold may grow beyond any bound.
def _adaptive_adam(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    threshold: optax.ScalarOrSchedule = 1e-3,
    *,
    restart_every: int | None = None,
    start: binary.Start = "zero",
) -> optax.GradientTransformationExtraArgs:
    inner = _adam(learning_rate, restart_every)
    return optimizers.latent(
        inner, clip=None, start=start, adaptive_threshold=threshold
    )


def _adaptive_lion(
    learning_rate: optax.ScalarOrSchedule = 1e-4,
    threshold: optax.ScalarOrSchedule = 1e-4,
    *,
    restart_every: int | None = None,
    start: binary.Start = "zero",
) -> optax.GradientTransformationExtraArgs:
    inner = _lion(learning_rate, restart_every)
    return optimizers.latent(
        inner, clip=None, start=start, adaptive_threshold=threshold
    )


# The optimizers of `optax` of the same name, whose moments may restart.


def _sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float | None,
    restart_every: int | None,
) -> optax.GradientTransformationExtraArgs:
    checks.check_number("momentum", momentum, below=1.0, optional=True)
    return _chain(_momentum(momentum), restart_every, learning_rate)


def _adam(
    learning_rate: optax.ScalarOrSchedule, restart_every: int | None
) -> optax.GradientTransformationExtraArgs:
    return _chain(optax.scale_by_adam(), restart_every, learning_rate)


def _lion(
    learning_rate: optax.ScalarOrSchedule, restart_every: int | None
) -> optax.GradientTransformationExtraArgs:
    decay = optax.add_decayed_weights(1e-3)
    return _chain(optax.scale_by_lion(), restart_every, learning_rate, decay)


def _chain(
    moments: optax.GradientTransformation,
    restart_every: int | None,
    learning_rate: optax.ScalarOrSchedule,
    *others: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Chains moments, which may restart, with a learning rate, which goes on."""
    checks.check_number("learning_rate", learning_rate, schedule=True)
    if restart_every is not None:
        moments = restart.restart_every(moments, restart_every)
    return optax.chain(moments, *others, optax.scale_by_learning_rate(learning_rate))


def _momentum(momentum: float | None = None) -> optax.GradientTransformation:
    return optax.identity() if momentum is None else optax.trace(momentum)


look_up = names.look_up

# Factories of binary optimizers; their keyword arguments are the hyperparameters.
OPTIMIZERS = names.Table(
    "optimizers",
    {
        "sgdat": optimizers.sgdat,
        "sgdt": _sgdt,
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
    },
)
# Where latent weights start for weights of magnitude 1, in learning rates: far enough
# from 0 to hold against the first gradients, near enough to flip within some epochs. A
# step of adam and lion is of the learning rate's size, one of the others of its product
# with a gradient.
LATENT_STARTS = {
    **dict.fromkeys(("sgdat", "sgdt", "sgd"), 0.1),
    **dict.fromkeys(("adam", "lion", "adam_adaptive", "lion_adaptive"), 10.0),
}
# What `optax.adam` and `optax.sgd` chain with their learning rate.
REAL_OPTIMIZERS = {"adam": optax.scale_by_adam, "sgd": _momentum}
# Mean and standard deviation of the channels of images in [0, 1].
NORMALIZATIONS = {
    "dataset": None,
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "tiny_imagenet": ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
}
# Functions of what a rate starts from and of the steps of the whole run.
SCHEDULES = names.Table(
    "schedules",
    {
        "constant": lambda value, steps: optax.constant_schedule(value),
        "cosine": optax.cosine_decay_schedule,
    },
)


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
      >>> from sgdat_jax.experiments import registry
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
    restart: bool = False,
    schedule: str = "constant",
    steps: int = 1,
) -> optax.GradientTransformationExtraArgs:
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
) -> optax.GradientTransformationExtraArgs:
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
    return _chain(factory(**options), restart_every, learning_rate)
