"""Optimizers that start again: the published training script makes new ones."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sgdat_jax import checks
from sgdat_jax.optimizers.parameters import trees


class RestartState(NamedTuple):
    """State of `restart_every`."""

    count: jax.Array  # shape (), int32: steps since the last restart
    inner_state: optax.OptState


def restart_every(
    inner: optax.GradientTransformation, steps: int
) -> optax.GradientTransformationExtraArgs:
    """Resets a transformation's state every so many steps.

    Its state becomes that of ``inner.init`` before the steps 0, ``steps``,
    2 ``steps``, ...: moments, bias-correction counts and schedules alike. Chain a
    schedule that must not restart behind it.

    Args:
      inner: for example ``optax.scale_by_adam()``.
      steps: updates between two restarts, at least 1.

    Returns:
      An `optax.GradientTransformationExtraArgs` whose ``update`` needs ``params``.

    Raises:
      TypeError: if ``inner`` is no optimizer or ``steps`` no integer.
      ValueError: if ``steps`` is below 1; in ``update``, if there are no ``params``.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from sgdat_jax.optimizers import restart
      >>> tx = restart.restart_every(optax.trace(0.5), steps=2)
      >>> params = jnp.zeros(())
      >>> state = tx.init(params)
      >>> for _ in range(4):
      ...     update, state = tx.update(jnp.ones(()), state, params)
      ...     print(update)
      1.0
      1.5
      1.0
      1.5
    """
    steps = checks.integer("`steps`", steps)
    inner = trees.as_optimizer("`inner`", inner)

    def init_fn(params: optax.Params) -> RestartState:
        return RestartState(jnp.zeros([], jnp.int32), inner.init(params))

    def update_fn(
        updates: optax.Updates,
        state: RestartState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, RestartState]:
        if params is None:
            raise ValueError("restart_every needs `params`: pass them to `update`.")
        due = state.count == 0
        inner_state = jax.tree.map(
            lambda new, old: jnp.where(due, new, old),
            inner.init(params),
            state.inner_state,
        )
        updates, inner_state = inner.update(updates, inner_state, params, **extra_args)
        return updates, RestartState((state.count + 1) % steps, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
