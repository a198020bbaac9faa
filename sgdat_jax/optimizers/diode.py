"""Diode: binary weights without latents, by the average sign of an average gradient."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sgdat_jax import checks
from sgdat_jax.optimizers import binary, sums

_START = 1e-3  # bound of the first average's initial magnitudes, as in the source


class DiodeState(NamedTuple):
    """State of `diode`."""

    count: jax.Array  # shape (), int32: updates so far
    mu: optax.Updates  # moving average of the gradients, float32
    drift: optax.Updates  # moving average of the learning rate times mu's sign, float32
    signed_count: optax.Updates  # shaped like the parameters, int16; see binary.py


def diode(
    learning_rate: optax.ScalarOrSchedule = 1e-4,
    *,
    b1: float = 0.99,
    b2: float = 0.9999,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Diode: the weight opposes a slow average of the gradient's smoothed sign.

    .. math::

        m_1 &\leftarrow m_1 + (1 - \beta_1) (g - m_1) \\
        m_2 &\leftarrow m_2 + (1 - \beta_2) (\eta \operatorname{sign}(m_1) - m_2) \\
        w' &= -\operatorname{sign}(m_2), \text{ and } +1 \text{ where } m_2 = 0

    The second average starts at :math:`-w` times a random number in [0, 1e-3), against
    which alone the learning rate matters.

    Args:
      learning_rate: :math:`\eta`; a number, a traced array or a schedule of the step.
      b1: decay of the first average (:math:`\beta_1`), in [0, 1).
      b2: decay of the second (:math:`\beta_2`), in [0, 1).
      seed: of the start of the second average; a number.

    Returns:
      An `optax.GradientTransformationExtraArgs` whose ``update`` needs ``params``. Its
      updates are exactly 0 or -2w; nothing that scales updates may follow it.

    Raises:
      ValueError: if a number is out of its range, or, in ``update``, if ``params`` is
        None or trees do not fit.
      TypeError: if an argument is of the wrong kind, or if parameters are not real
        floating-point arrays.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import sgdat_jax as sj
      >>> params = jnp.array([1.0, -1.0])
      >>> tx = sj.diode(learning_rate=1.0, b2=0.9)
      >>> updates, _ = tx.update(jnp.array([0.5, 0.5]), tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      [-1. -1.]

    References:
      Guo et al., Diode, ECCV 2024. The rule is that of the optimizer in GreenBitAI's
      bitorch-engine, not checked against the paper.
    """
    checks.number("`learning_rate`", learning_rate, schedule=True)
    checks.number("`b1`", b1, "[0, 1)")
    checks.number("`b2`", b2, "[0, 1)")
    checks.integer("`seed`", seed, -math.inf)

    def init(params: optax.Params) -> DiodeState:
        zeros = binary.init_latents(params, None)
        starts = optax.tree.random_like(
            jax.random.key(seed), zeros, sampler=jax.random.uniform
        )
        signed_count = binary.init_signed_counts(params, None)
        return DiodeState(
            count=jnp.zeros([], jnp.int32),
            mu=zeros,
            drift=jax.tree.map(
                lambda s, start: -_START * start * binary.weight(s, start.dtype),
                signed_count,
                starts,
            ),
            signed_count=signed_count,
        )

    def step(updates: optax.Updates, state: DiodeState) -> DiodeState:
        eta = binary.value_at(learning_rate, state.count)
        mu = jax.tree.map(
            lambda m, g: sums.add_scaled(m, 1 - b1, g - m),
            state.mu,
            optax.tree.cast_like(updates, state.mu),
        )
        drift = jax.tree.map(
            lambda d, m: sums.add_scaled(d, 1 - b2, eta * jnp.sign(m) - d),
            state.drift,
            mu,
        )
        signed_count = jax.tree.map(
            lambda s, d: binary.flip_beyond(s, jnp.where(d == 0, 1, -d), 0.0),
            state.signed_count,
            drift,
        )
        return state._replace(mu=mu, drift=drift, signed_count=signed_count)

    return binary.flip_rule(init, step)
