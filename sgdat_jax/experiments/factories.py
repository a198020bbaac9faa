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
    inner = _sgd(learning_rate, momentum, restart_every)
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
    inner = _sgd(learning_rate, momentum, restart_every)
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
    inner = _adam(learning_rate, restart_every)
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
    inner = _adam(learning_rate, restart_every)
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


# The optimizers of `optax` of the same name, whose moments may restart.


def _sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float | None,
    restart_every: int | None,
) -> optax.GradientTransformationExtraArgs:
    checks.number("`momentum`", momentum, "[0, 1)", optional=True)
    return chain(momentum_of(momentum), restart_every, learning_rate)


def _adam(
    learning_rate: optax.ScalarOrSchedule, restart_every: int | None
) -> optax.GradientTransformationExtraArgs:
    return chain(optax.scale_by_adam(), restart_every, learning_rate)


def _lion(
    learning_rate: optax.ScalarOrSchedule, restart_every: int | None
) -> optax.GradientTransformationExtraArgs:
    decay = optax.add_decayed_weights(1e-3)
    return chain(optax.scale_by_lion(), restart_every, learning_rate, decay)


def chain(
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


def momentum_of(momentum: float | None = None) -> optax.GradientTransformation:
    """Returns what `optax.sgd` chains with its learning rate."""
    return optax.identity() if momentum is None else optax.trace(momentum)


def constant(value: float, steps: int) -> optax.Schedule:
    """Returns the schedule that stays at a value."""
    return optax.constant_schedule(value)
