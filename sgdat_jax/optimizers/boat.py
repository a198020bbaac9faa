"""BOAT: a binary optimizer whose thresholds adapt to the gradients' size."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sgdat_jax import checks
from sgdat_jax.optimizers import binary, sums


class BoatState(NamedTuple):
    """State of `boat`; read it through `latent_weights` and its siblings."""

    count: jax.Array  # shape (), int32: updates so far
    latent: optax.Updates  # shaped like the parameters, float32
    nu: optax.Updates  # sum of the squared gradients times eta, float32
    signed_count: optax.Updates  # shaped like the parameters, int16; see binary.py

    @property
    def thresholds(self) -> optax.Updates:
        """What each latent weight must exceed to flip its weight."""
        return jax.tree.map(jnp.sqrt, self.nu)


def boat(
    eta: optax.ScalarOrSchedule = 0.1,
    weight_decay: optax.ScalarOrSchedule = 1e-3,
    *,
    start: binary.Start = "zero",
) -> optax.GradientTransformationExtraArgs:
    r"""BOAT: flips a weight when its gradients agree more than by chance.

    .. math::

        v &\leftarrow v + \eta g^2 \\
        m &\leftarrow (1 - \lambda) m - g \\
        w' &= \operatorname{sign}(m) \text{ where } |m| > \sqrt{v}, \text{ else } w

    The squares are summed without decay, so thresholds only grow. There is no learning
    rate: scaling all gradients changes nothing.

    Args:
      eta: growth of the squared threshold; a number, a traced array or a schedule of
        the step. The authors use 0.1, and 0.13 for TinyImageNet.
      weight_decay: share of the latent weight that each step forgets
        (:math:`\lambda`), in [0, 1]; likewise.
      start: as in `sgdat`.

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
      >>> params = jnp.array([1.0, -1.0, 1.0])
      >>> tx = sj.boat()
      >>> updates, _ = tx.update(jnp.array([0.5, 0.5, -0.01]), tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      [-1. -1.  1.]

    References:
      Shan et al., BOAT: binary optimizer with adaptive thresholds,
      https://github.com/gushan/BOAT
    """
    checks.number("`eta`", eta, schedule=True)
    checks.number("`weight_decay`", weight_decay, "[0, 1]", schedule=True)
    binary.check_storage(start)

    def init(params: optax.Params) -> BoatState:
        return BoatState(
            count=jnp.zeros([], jnp.int32),
            latent=binary.init_latents(params, start=start),
            nu=binary.init_latents(params, None),
            signed_count=binary.init_signed_counts(params, None),
        )

    def step(updates: optax.Updates, state: BoatState) -> BoatState:
        gradients = optax.tree.cast_like(updates, state.latent)
        growth = binary.value_at(eta, state.count)
        decay = binary.value_at(weight_decay, state.count)
        nu = jax.tree.map(
            lambda v, g: sums.add_scaled(v, growth, g * g), state.nu, gradients
        )
        latent = jax.tree.map(
            lambda m, g: sums.decay_and_add(m, 1 - decay, g, -1.0),
            state.latent,
            gradients,
        )
        signed_count = jax.tree.map(
            lambda s, m, v: binary.flip_beyond(s, m, jnp.sqrt(v)),
            state.signed_count,
            latent,
            nu,
        )
        return state._replace(latent=latent, nu=nu, signed_count=signed_count)

    return binary.flip_rule(init, step)
