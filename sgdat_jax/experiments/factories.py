"""Optimizers and schedules that only the training program has.

Their names are in `registry`, which imports them when they are used.
"""

import inspect
from collections.abc import Callable
from typing import Any

import optax

from sgdat_jax import checks, optimizers
from sgdat_jax.optimizers import restart


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


def lion(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.99,
    weight_decay: float = 1e-3,
    restart_every: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns `optax.lion` whose momentum may restart."""
    decay = optax.add_decayed_weights(weight_decay)
    return _chain(optax.scale_by_lion(b1, b2), restart_every, learning_rate, decay)


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


def _on_latents(
    inner: Callable[..., optax.GradientTransformation],
    learning_rate: float,
    *,
    threshold: float | None = None,
    adaptive: bool = False,
    **fixed: Any,
) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """Returns the factory of an optimizer that trains latent weights.

    Its arguments are those of ``inner`` and of `sgdat_jax.latent`, as its signature
    says; hyperparameters are looked up there.

    Args:
      inner: factory of what moves the latent weights.
      learning_rate: default of its learning rate.
      threshold: default of the threshold; None: it has none.
      adaptive: whether that grows with each flip.
      **fixed: arguments of `sgdat_jax.latent` that are not left open.
    """
    closed = {"threshold", "adaptive_threshold", *fixed}
    own = inspect.signature(inner).parameters
    latent = inspect.signature(optimizers.latent).parameters
    parameters = [own["learning_rate"].replace(default=learning_rate)]
    if threshold is not None:
        parameters.append(latent["threshold"].replace(default=threshold))
    parameters += [p for name, p in own.items() if name != "learning_rate"]
    parameters += [p for name, p in latent.items() if name not in closed | {"inner"}]
    signature = inspect.Signature(
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    )

    def factory(**given: Any) -> optax.GradientTransformationExtraArgs:
        bound = signature.bind(**given)
        bound.apply_defaults()
        options = bound.arguments
        moves = inner(**{name: options.pop(name) for name in own})
        if adaptive:
            options["adaptive_threshold"] = options.pop("threshold")
        return optimizers.latent(moves, **options, **fixed)

    factory.__signature__ = signature  # type: ignore[attr-defined]
    return factory


# With one threshold or none, a latent weight of 0 makes its weight +1, as published:
# the rows of the paper are held to recorded steps.
latent_sgd = _on_latents(sgd, 1e-4, at_zero="positive")
sgdt = _on_latents(sgd, 1e-4, threshold=1e-8, at_zero="positive")
latent_adam = _on_latents(adam, 1e-3, at_zero="positive")
latent_lion = _on_latents(lion, 1e-4, at_zero="positive")
# Latents are never clipped here, as in SGDAT: a threshold may grow beyond any bound.
adaptive_adam = _on_latents(adam, 1e-3, threshold=1e-3, adaptive=True, clip=None)
adaptive_lion = _on_latents(lion, 1e-4, threshold=1e-4, adaptive=True, clip=None)


def constant(value: float, steps: int) -> optax.Schedule:
    """Returns the schedule that stays at a value."""
    return optax.constant_schedule(value)
