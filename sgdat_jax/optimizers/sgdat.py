"""SGDAT: stochastic gradient descent with adaptive thresholds, for binary weights.

Shan, Zhang, Jia and Wu, "SGDAT: An optimization method for binary neural networks",
Neurocomputing 555, 126431, 2023. On a CPU the rules equal the authors' published code,
https://github.com/gushan/SGDAT, bit for bit. One thing differs: in the published loop
the first ``weight_decay`` acts on weights that are still 0; here it acts on their
signs, as in every later step.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from sgdat_jax import checks
from sgdat_jax.optimizers import binary, compact, sums


class SgdatState(NamedTuple):
    """State of `sgdat`; read it through `latent_weights` and its siblings."""

    count: jax.Array  # shape (), int32: updates so far
    latent: optax.Updates  # shaped like the parameters, float32
    signed_count: optax.Updates  # shaped like the parameters, int16; see binary.py
    threshold: jax.Array  # shape (), float32: the one used last
    momentum: optax.Updates | None  # like latent; None where momentum is not used

    @property
    def thresholds(self) -> optax.Updates:
        """What each latent weight must exceed to flip its weight."""
        return jax.tree.map(
            lambda s: binary.adaptive_threshold(s, jnp.asarray(self.threshold)),
            self.signed_count,
        )


def sgdat(
    learning_rate: optax.ScalarOrSchedule = 1e-4,
    threshold: optax.ScalarOrSchedule = 1e-7,
    *,
    momentum: chex.Numeric | None = None,
    dampening: chex.Numeric = 0.0,
    nesterov: bool = False,
    weight_decay: chex.Numeric | None = None,
    reset_flips_every: int | None = None,
    start: binary.Start = "zero",
    latent_dtype: jax.typing.DTypeLike | None = None,
    count_dtype: jax.typing.DTypeLike | None = None,
    layout: compact.Layout = "exact",
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with adaptive thresholds on the latent weights of binary weights.

    Use it for weights that live in {-1, +1}. Each has a latent weight that sums up the
    gradients, and flips when that exceeds a threshold which grows with each flip: so a
    weight that oscillates settles, while one that never flipped moves at the first
    hint. Per step, with all operations elementwise,

    .. math::

        d &= g + \lambda w \\
        u &\leftarrow \mu u + (1 - \delta) g, \quad d = u
            \text{ or, with nesterov, } d + \mu u \\
        m &\leftarrow m - \eta d \\
        w' &= \operatorname{sign}(m) \text{ where } |m| > \tau n, \text{ else } w \\
        n &\leftarrow n + [w' \neq w]

    where :math:`g` is the gradient taken at the binary weights, :math:`\eta` is
    ``learning_rate``, :math:`\tau` is ``threshold``, :math:`\mu` is ``momentum``,
    :math:`\delta` is ``dampening`` and :math:`\lambda` is ``weight_decay``. Latent
    weight :math:`m`, momentum :math:`u` and flip count :math:`n` start at zero. As in
    the authors' code, the second line is left out without momentum, and momentum
    without nesterov leaves out the weight decay.

    The update is exactly 0 or -2w, so `optax.apply_updates` keeps weights in {-1, +1}
    to the bit. It is not a direction: nothing that scales updates may follow it in a
    chain, while clipping of gradients may stand before it. Real-valued parameters
    are taken by their sign. The state remembers the signs, and updates lead back to
    them if something else has changed the parameters: call ``init`` after loading other
    weights. A NaN gradient spoils its latent weight for good: wrap the whole optimizer
    in `optax.apply_if_finite` where one can occur.

    Args:
      learning_rate: step size of the latent weights; a number, a traced array or a
        schedule of the step. While it is constant only ``threshold / learning_rate``
        matters to the weights.
      threshold: the growth of the threshold with each flip, in units of the latent
        weight; a number, a traced array or a schedule. 0 gives plain SGD on latent
        weights.
      momentum: decay of the momentum buffer in [0, 1). None or the number 0 means no
        momentum and no buffer.
      dampening: share of the gradient that is kept out of the buffer, in [0, 1).
      nesterov: whether to look ahead along the momentum.
      weight_decay: pull of the binary weight on its latent weight, at least 0; in the
        unit of the gradient. None means none.
      reset_flips_every: number of steps after which flip counts and momentum start
        again at zero, while latent weights go on. The authors' training script does so
        at every epoch. None means never.
      start: latent weights start at ``"zero"``, where the first gradient decides each
        weight, or at ``"params"``, the initial weights: use it to go on from
        real-valued weights, whose magnitudes should be of the order of the learning
        rate times a sum of gradients.
      latent_dtype: dtype of latent weights and momentum. None means float32, or the
        parameters' own where that is wider. A narrower one loses small gradients.
      count_dtype: signed integer dtype of the flip counter. None means int16, which
        counts to 32,766 and then stays there; int8 counts to 126.
      layout: ``"exact"``, or ``"compact"`` for a state of 4 bytes per weight instead of
        6, in one array. Take it where memory or the optimizer's time counts, and the
        exact one to repeat published steps to the bit. It costs precision: latent
        weights are rounded to 16 significant bits after each step, so that a step below
        2**-17 of its latent weight is lost, and flip counts, with the thresholds, stop
        growing at 127. Momentum keeps 4 bytes of its own. ``latent_dtype`` and
        ``count_dtype`` must be None.

    Returns:
      An `optax.GradientTransformationExtraArgs` whose ``update`` needs ``params``.

    Raises:
      ValueError: if a hyperparameter is out of its range, if ``nesterov`` is used
        without momentum, if the layout is unknown or has no room for another
        argument, or, in ``update``, if ``params`` is None or trees do not fit.
      TypeError: if a hyperparameter is of the wrong kind, or if parameters are not
        real floating-point arrays.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import sgdat_jax as sj
      >>> params = jnp.array([1.0, -1.0, 1.0])
      >>> tx = sj.sgdat(learning_rate=1e-4, threshold=1e-7)
      >>> state = tx.init(params)
      >>> gradients = jnp.array([0.5, 0.5, -0.5])
      >>> updates, state = tx.update(gradients, state, params)
      >>> print(optax.apply_updates(params, updates))
      [-1. -1.  1.]

    Under `optax.inject_hyperparams` pass ``hyperparam_dtype=jnp.float32`` for float16
    and bfloat16 parameters, or Optax rounds the threshold to their precision, and name
    ``latent_dtype`` and ``count_dtype`` in ``static_args`` where they are used.

    References:
      Shan et al., SGDAT: An optimization method for binary neural networks,
      Neurocomputing 555, 126431, 2023; https://github.com/gushan/SGDAT
    """
    checks.number("`learning_rate`", learning_rate, schedule=True)
    checks.number("`threshold`", threshold, schedule=True)
    checks.number("`dampening`", dampening, "[0, 1)")
    checks.number("`weight_decay`", weight_decay, optional=True)
    checks.integer("`reset_flips_every`", reset_flips_every, optional=True)
    binary.check_storage(start, latent_dtype, count_dtype)
    momentum = _checked_momentum(momentum, nesterov)

    def init(params: optax.Params) -> SgdatState:
        count = jnp.zeros([], jnp.int32)
        latent = binary.init_latents(params, latent_dtype, start)
        return SgdatState(
            count=count,
            latent=latent,
            signed_count=binary.init_signed_counts(params, count_dtype),
            threshold=jnp.asarray(binary.value_at(threshold, count), jnp.float32),
            momentum=None if momentum is None else optax.tree.zeros_like(latent),
        )

    def step(updates: optax.Updates, state: SgdatState) -> SgdatState:
        state = _restarted(state, reset_flips_every)
        gradients = optax.tree.cast_like(updates, state.latent)
        direction, buffer = _direction(
            gradients, state, momentum, dampening, nesterov, weight_decay
        )
        eta = binary.value_at(learning_rate, state.count)
        tau = binary.value_at(threshold, state.count)
        latent = jax.tree.map(
            lambda m, d: sums.add_scaled(m, -eta, d), state.latent, direction
        )
        signed_count = jax.tree.map(
            lambda s, m: binary.flip_beyond(s, m, binary.adaptive_threshold(s, tau)),
            state.signed_count,
            latent,
        )
        return state._replace(
            latent=latent,
            signed_count=signed_count,
            threshold=jnp.asarray(tau, jnp.float32),
            momentum=buffer,
        )

    tx = binary.flip_rule(init, step)
    return compact.lay_out(
        tx, layout, latent_dtype=latent_dtype, count_dtype=count_dtype
    )


def _checked_momentum(
    momentum: chex.Numeric | None, nesterov: bool
) -> chex.Numeric | None:
    """Returns the momentum, or None for the number 0, which needs no buffer either."""
    checks.number("`momentum`", momentum, "[0, 1)", optional=True)
    if isinstance(momentum, jax.Array) or momentum:
        return momentum
    if nesterov:
        raise ValueError(f"`nesterov` needs `momentum`, got {nesterov=}, {momentum=}.")
    return None


def _direction(
    gradients: optax.Updates,
    state: SgdatState,
    momentum: chex.Numeric | None,
    dampening: chex.Numeric,
    nesterov: bool,
    weight_decay: chex.Numeric | None,
) -> tuple[optax.Updates, optax.Updates | None]:
    """Returns where latent weights move, `d` of the formula, and the new momentum."""
    direction = gradients
    if weight_decay is not None and (momentum is None or nesterov):
        direction = jax.tree.map(
            lambda g, s: sums.add_scaled(g, weight_decay, binary.weight(s, g.dtype)),
            gradients,
            state.signed_count,
        )
    if momentum is None:
        return direction, None
    buffer = jax.tree.map(
        lambda u, g: sums.decay_and_add(u, momentum, g, 1 - dampening),
        state.momentum,
        gradients,
    )
    if not nesterov:
        return buffer, buffer
    ahead = jax.tree.map(
        lambda d, u: sums.add_scaled(d, momentum, u), direction, buffer
    )
    return ahead, buffer


def _restarted(state: SgdatState, every: int | None) -> SgdatState:
    """Returns a state with fresh flip counts and momentum at every so many steps."""
    if every is None:
        return state
    due = state.count % every == 0
    return state._replace(
        signed_count=jax.tree.map(
            lambda s: jnp.where(due, binary.restart_count(s), s), state.signed_count
        ),
        momentum=jax.tree.map(lambda u: jnp.where(due, 0, u), state.momentum),
    )
