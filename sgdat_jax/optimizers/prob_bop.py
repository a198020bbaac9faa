"""ProbBop: Bop whose flips near the threshold are decided by chance."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sgdat_jax import checks
from sgdat_jax.optimizers import binary, sums

_ROW = 1024  # of weights that lie along a single axis


class ProbBopState(NamedTuple):
    """State of `prob_bop`."""

    count: jax.Array  # shape (), int32: updates so far
    mu: optax.Updates  # moving average of the gradients, float32
    signed_count: optax.Updates  # shaped like the parameters, int16; see binary.py


def prob_bop(
    gamma: optax.ScalarOrSchedule = 1e-4,
    threshold: optax.ScalarOrSchedule = 1e-8,
    *,
    steps_per_epoch: int,
    alpha: float = 0.5,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Bop with a band around its threshold in which chance decides.

    .. math::

        m &\leftarrow (1 - \gamma) m + \gamma g, \quad
            \delta = |m| / \tau, \quad c = 1 - \alpha^E / 2

    where :math:`E` is the epoch, counted from 1. A weight of the sign of :math:`m`
    flips where :math:`\delta > 1 / c`, and with probability
    :math:`1 - e^{-\delta}` where :math:`c < \delta < 1 / c`. The band shrinks from
    epoch to epoch until Bop is left.

    Args:
      gamma: adaptivity rate in [0, 1]; a number, a traced array or a schedule of the
        step.
      threshold: in units of the gradient, above 0; likewise.
      steps_per_epoch: steps after which the band shrinks.
      alpha: how slowly it shrinks, in [0, 1].
      seed: of the random flips; a number. The same seed makes the same flips. Chance is
        independent for any two weights, so their number varies as if it were for all;
        four that form a rectangle in a kernel are not independent together.

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
      >>> tx = sj.prob_bop(gamma=1e-2, threshold=1e-3, steps_per_epoch=100)
      >>> updates, _ = tx.update(jnp.array([0.5, 0.5, 0.01]), tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      [-1. -1.  1.]

    References:
      Shan et al., ProbBop, Neurocomputing 648, 130297, 2025. The rule is that of the
      authors' published code with its default formula, not checked against the paper.
    """
    checks.number("`gamma`", gamma, "[0, 1]", schedule=True)
    checks.number("`threshold`", threshold, "(0, inf)", schedule=True)
    checks.integer("`steps_per_epoch`", steps_per_epoch)
    checks.number("`alpha`", alpha, "[0, 1]")
    checks.integer("`seed`", seed, -math.inf)

    def init(params: optax.Params) -> ProbBopState:
        return ProbBopState(
            count=jnp.zeros([], jnp.int32),
            mu=binary.init_latents(params, None),
            signed_count=binary.init_signed_counts(params, None),
        )

    def step(updates: optax.Updates, state: ProbBopState) -> ProbBopState:
        rate = binary.value_at(gamma, state.count)
        mu = jax.tree.map(
            lambda m, g: sums.decay_and_add(m, 1 - rate, g, rate),
            state.mu,
            optax.tree.cast_like(updates, state.mu),
        )
        tau = binary.value_at(threshold, state.count)
        epoch = 1 + state.count // steps_per_epoch
        middle = 1 - jax.lax.pow(jnp.float32(alpha), epoch) / 2
        # The key follows from the count, so that the state has nothing else to keep.
        key = jax.random.fold_in(jax.random.key(seed), state.count)
        draws = optax.tree.random_like(key, mu, sampler=_draws)

        def flip(signed_count: jax.Array, m: jax.Array, draw: jax.Array) -> jax.Array:
            delta = jnp.abs(m) / tau
            by_chance = (delta > middle) & (draw >= jnp.exp(-delta))
            flips = (delta > 1 / middle) | ((delta < 1 / middle) & by_chance)
            return binary.flip_beyond(signed_count, jnp.where(flips, -m, 0), 0.0)

        signed_count = jax.tree.map(flip, state.signed_count, mu, draws)
        return state._replace(mu=mu, signed_count=signed_count)

    return binary.flip_rule(init, step)


def _draws(
    key: jax.Array, shape: Sequence[int], dtype: jax.typing.DTypeLike
) -> jax.Array:
    """Returns random numbers in [0, 1), pairwise independent.

    Only as many are drawn as an array is long along its axes together. One for each
    weight takes ten times as long as the rest of a step.
    """
    if len(shape) < 2:
        size = math.prod(shape)
        rows = -(-size // _ROW)
        return _draws(key, (rows, _ROW), dtype).ravel()[:size].reshape(shape)
    bits = jnp.zeros([1] * len(shape), jnp.uint32)
    for axis, size in enumerate(shape):
        drawn = jax.random.bits(jax.random.fold_in(key, axis), (size,))
        bits ^= jnp.expand_dims(drawn, [i for i in range(len(shape)) if i != axis])
    # Float32 holds every value of the upper 24 bits.
    return (bits >> 8).astype(dtype) * 2.0**-24
