"""Optimizers and schedules that only the training program has.

Their names are in `registry`, which imports them when they are used.
"""

import optax

from sgdat_jax import checks, optimizers
from sgdat_jax.optimizers import binary, restart


# At zero latents as published: the rows of the paper are held to recorded steps.
def latent_sgd(
    learning_rate: optax.ScalarOrSchedule = 1e-4,
    *,
    momentum: float | None = None,
    restart_every: int | None = None,
    start: binary.Start = "zero",
) -> optax.GradientTransformationExtraArgs:
    """Returns SGD on latent weights without thresholds."""
    inner = sgd(learning_rate, momentum=momentum, restart_every=restart_every)
    return optimizers.latent(inner, start=start, at_zero="positive")


def sgdt(
    learning_rate: optax.ScalarOrSchedule = 1e-4,
    threshold: optax.ScalarOrSchedule = 1e-8,
    *,
    momentum: float | None = None,
    restart_every: int | None = None,
    start: binary.Start = "zero",
) -> optax.GradientTransformationExtraArgs:
    """Returns SGD on latent weights with one fixed threshold."""
    inner = sgd(learning_rate, momentum=momentum, restart_every=restart_every)
    return optimizers.latent(
        inner, threshold=threshold, start=start, at_zero="positive"
    )


def latent_adam(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    *,
    restart_every: int | None = None,
    start: binary.Start = "zero",
) -> optax.GradientTransformationExtraArgs:
    """Returns Adam on latent weights."""
    inner = adam(learning_rate, restart_every=restart_every)
    return optimizers.latent(inner, start=start, at_zero="positive")


def latent_lion(
    learning_rate: optax.ScalarOrSchedule = 1e-4,
    *,
    restart_every: int | None = None,
    start: binary.Start = "zero",
) -> optax.GradientTransformationExtraArgs:
    """Returns Lion on latent weights."""
    inner = _lion(learning_rate, restart_every)
    return optimizers.latent(inner, start=start, at_zero="positive")


# Latents are never clipped here, as in SGDAT: a threshold may grow beyond any bound.
def adaptive_adam(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    threshold: optax.ScalarOrSchedule = 1e-3,
    *,
    restart_every: int | None = None,
    start: binary.Start = "zero",
) -> optax.GradientTransformationExtraArgs:
    """Returns Adam on latent weights with the thresholds of SGDAT."""
    inner = adam(learning_rate, restart_every=restart_every)
    return optimizers.latent(
        inner, clip=None, start=start, adaptive_threshold=threshold
    )


def adaptive_lion(
    learning_rate: optax.ScalarOrSchedule = 1e-4,
    threshold: optax.ScalarOrSchedule = 1e-4,
    *,
    restart_every: int | None = None,
    start: binary.Start = "zero",
) -> optax.GradientTransformationExtraArgs:
    """Returns Lion on latent weights with the thresholds of SGDAT."""
    inner = _lion(learning_rate, restart_every)
    return optimizers.latent(
        inner, clip=None, start=start, adaptive_threshold=threshold
    )


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float | None = None,
    restart_every: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns `optax.sgd` whose momentum may restart."""
    checks.number("`momentum`", momentum, "[0, 1)", optional=True)
    moments = optax.identity() if momentum is None else optax.trace(momentum)
    return _chain(moments, restart_every, learning_rate)


def adam(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    restart_every: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns `optax.adam` whose moments may restart."""
    moments = optax.scale_by_adam(b1, b2, eps)
    return _chain(moments, restart_every, learning_rate)


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
    checks.number("`learning_rate`", learning_rate, schedule=True)
    if restart_every is not None:
        moments = restart.restart_every(moments, restart_every)
    return optax.chain(moments, *others, optax.scale_by_learning_rate(learning_rate))


def constant(value: float, steps: int) -> optax.Schedule:
    """Returns the schedule that stays at a value."""
    return optax.constant_schedule(value)
