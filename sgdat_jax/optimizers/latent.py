"""Latent-weight training of binary weights, with any Optax optimizer.

A binary weight is the sign of a real-valued latent weight, which an ordinary optimizer
moves by the gradient taken at the binary weight. SGD, SGD with momentum, Adam and SGDT
of the SGDAT paper are special cases; with adaptive thresholds any optimizer gets the
idea of SGDAT.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sgdat_jax import checks
from sgdat_jax.optimizers import binary, compact
from sgdat_jax.optimizers.parameters import trees

AtZero = Literal["keep", "positive"]


class LatentState(NamedTuple):
    """State of `latent`; read it through `latent_weights` and its siblings."""

    count: jax.Array  # shape (), int32: updates so far
    latent: optax.Updates  # shaped like the parameters, float32
    signed_count: optax.Updates  # shaped like the parameters, int16; see binary.py
    threshold: jax.Array  # shape (), float32: the one used last
    inner: optax.OptState
    adaptive_threshold: jax.Array | None  # shape (), float32; None where not used

    @property
    def thresholds(self) -> optax.Updates:
        """What each latent weight must exceed to flip its weight."""
        return _thresholds(self.signed_count, self.threshold, self.adaptive_threshold)


def latent(
    inner: optax.GradientTransformation,
    *,
    clip: float | None = 1.0,
    threshold: optax.ScalarOrSchedule = 0.0,
    adaptive_threshold: optax.ScalarOrSchedule | None = None,
    start: binary.Start = "zero",
    at_zero: AtZero = "keep",
    latent_dtype: jax.typing.DTypeLike | None = None,
    count_dtype: jax.typing.DTypeLike | None = None,
    layout: compact.Layout = "exact",
) -> optax.GradientTransformationExtraArgs:
    r"""Trains binary weights through latent weights that an Optax optimizer moves.

    With :math:`u` the update that the inner optimizer makes of the gradient :math:`g`,
    taken at the binary weights, each step computes

    .. math::

        m &\leftarrow \operatorname{clip}(m + u, -c, c) \\
        w' &= \operatorname{sign}(m) \text{ where } |m| > \tau_0 + \tau n,
            \text{ else } w \\
        n &\leftarrow n + [w' \neq w]

    where :math:`c` is ``clip``, :math:`\tau_0` is ``threshold``, :math:`\tau` is
    ``adaptive_threshold`` and :math:`n` counts the weight's flips. With both at their
    defaults the weight is the sign of its latent weight; at 0 it stays as it is, so a
    weight without a gradient never moves. ``latent`` of
    ``optax.sgd`` without clipping and with an adaptive threshold is `sgdat`.

    The update is exactly 0 or -2w, as that of `sgdat`, and nothing that scales updates
    may follow it. Learning rate, schedules and weight decay belong to ``inner``, which
    sees the latent weights as its parameters.

    Args:
      inner: moves the latent weights, for example ``optax.adam(1e-3)``.
      clip: bound of the latent weights' magnitude, in units of the latent weight. None
        means no bound.
      threshold: what a latent weight must exceed to flip its weight, the same for all
        weights; a number, a traced array or a schedule of the step.
      adaptive_threshold: the growth of that with each flip of the weight, likewise.
        None means none.
      start: ``"zero"``, where the first gradient decides each weight, or ``"params"``
        for the initial weights, whose magnitudes then matter: use it to go on from
        real-valued weights.
      at_zero: ``"keep"``, or ``"positive"`` where a latent weight of exactly 0 makes
        its weight +1 while the threshold is 0, as in the code of Shan et al.
      latent_dtype: dtype of the latent weights. None means float32, or the parameters'
        own where that is wider.
      count_dtype: signed integer dtype of the flip counter, as in `sgdat`.
      layout: ``"exact"``, or ``"compact"`` for 4 bytes per weight instead of 6 beside
        the state of ``inner``, as in `sgdat`.

    Returns:
      An `optax.GradientTransformationExtraArgs` whose ``update`` needs ``params`` and
      hands extra arguments on to ``inner``.

    Raises:
      ValueError: if a number is out of its range, if ``start`` or ``layout`` is unknown
        or a compact layout has no room for another argument, or, in ``update``, if
        ``params`` is None or trees do not fit.
      TypeError: if an argument is of the wrong kind, or if parameters are not real
        floating-point arrays.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import sgdat_jax as sj
      >>> params = jnp.array([1.0, -1.0, 1.0])
      >>> tx = sj.latent(optax.adam(1e-3), adaptive_threshold=1e-6)
      >>> state = tx.init(params)
      >>> updates, state = tx.update(jnp.array([0.5, 0.5, -0.5]), state, params)
      >>> print(optax.apply_updates(params, updates))
      [-1. -1.  1.]

    References:
      Courbariaux et al., BinaryConnect, 2015, https://arxiv.org/abs/1511.00363, for
      clipped latent weights; Shan et al., SGDAT, Neurocomputing 555, 126431, 2023, for
      the thresholds.
    """
    inner = trees.as_optimizer("`inner`", inner)
    checks.number("`clip`", clip, "(0, inf)", optional=True)
    checks.number("`threshold`", threshold, schedule=True)
    checks.number(
        "`adaptive_threshold`", adaptive_threshold, optional=True, schedule=True
    )
    checks.choice("`at_zero`", at_zero, ("keep", "positive"))
    binary.check_storage(start, latent_dtype, count_dtype)

    def init(params: optax.Params) -> LatentState:
        count = jnp.zeros([], jnp.int32)
        latents = binary.init_latents(params, latent_dtype, start)
        tau, growth = _values_at(count, threshold, adaptive_threshold)
        return LatentState(
            count=count,
            latent=latents,
            signed_count=binary.init_signed_counts(params, count_dtype),
            threshold=tau,
            inner=inner.init(latents),
            adaptive_threshold=growth,
        )

    def step(
        updates: optax.Updates, state: LatentState, **extra_args: Any
    ) -> LatentState:
        gradients = optax.tree.cast_like(updates, state.latent)
        moves, inner_state = inner.update(
            gradients, state.inner, state.latent, **extra_args
        )
        latents = _moved(state.latent, moves, clip)
        tau, growth = _values_at(state.count, threshold, adaptive_threshold)
        return state._replace(
            latent=latents,
            signed_count=_flipped(state.signed_count, latents, tau, growth, at_zero),
            threshold=tau,
            inner=inner_state,
            adaptive_threshold=growth,
        )

    tx = binary.flip_rule(init, step, takes_extra_args=True)
    return compact.lay_out(
        tx, layout, latent_dtype=latent_dtype, count_dtype=count_dtype
    )


def sgdt(
    learning_rate: optax.ScalarOrSchedule = 1e-4,
    threshold: optax.ScalarOrSchedule = 1e-8,
    *,
    momentum: float | None = None,
    start: binary.Start = "zero",
    layout: compact.Layout = "exact",
) -> optax.GradientTransformationExtraArgs:
    """SGD on latent weights with one fixed threshold for all: SGDAT's ablation.

    The rule is that of `latent` around ``optax.sgd``, with latent weights clipped to
    [-1, 1]. The threshold holds back only weights whose latent is near zero, however
    often they flip.

    Args:
      learning_rate: step size of the latent weights; a number, a traced array or a
        schedule of the step.
      threshold: what a latent weight must exceed to flip its weight; likewise.
      momentum: decay of the momentum in [0, 1); None means none.
      start: as in `latent`.
      layout: as in `latent`.

    Returns:
      An `optax.GradientTransformationExtraArgs` whose ``update`` needs ``params``.

    Raises:
      ValueError: if a number is out of its range.
      TypeError: if an argument is of the wrong kind.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import sgdat_jax as sj
      >>> params = jnp.array([1.0, 1.0])
      >>> tx = sj.sgdt(learning_rate=1e-4, threshold=1e-5)
      >>> updates, _ = tx.update(jnp.array([0.05, 0.5]), tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      [ 1. -1.]

    References:
      Shan et al., SGDAT: An optimization method for binary neural networks,
      Neurocomputing 555, 126431, 2023; https://github.com/gushan/SGDAT
    """
    checks.number("`learning_rate`", learning_rate, schedule=True)
    checks.number("`momentum`", momentum, "[0, 1)", optional=True)
    inner = optax.sgd(learning_rate, momentum)
    return latent(inner, threshold=threshold, start=start, layout=layout)


def _values_at(
    count: jax.Array,
    threshold: optax.ScalarOrSchedule,
    adaptive_threshold: optax.ScalarOrSchedule | None,
) -> tuple[jax.Array, jax.Array | None]:
    """Returns both thresholds at a step, as a state holds them."""
    tau = jnp.asarray(binary.value_at(threshold, count), jnp.float32)
    growth = binary.value_at(adaptive_threshold, count)
    return tau, None if growth is None else jnp.asarray(growth, jnp.float32)


def _moved(
    latents: optax.Updates, moves: optax.Updates, clip: float | None
) -> optax.Updates:
    """Returns latent weights after an update, in their dtype and bounds."""
    moved = optax.tree.cast_like(optax.apply_updates(latents, moves), latents)
    return moved if clip is None else jax.tree.map(lambda m: _clip(m, clip), moved)


def _flipped(
    signed_count: optax.Updates,
    latents: optax.Updates,
    threshold: jax.Array,
    growth: jax.Array | None,
    at_zero: AtZero,
) -> optax.Updates:
    """Returns signed counts after the flips that latent weights ask for."""
    if at_zero == "positive" and growth is None:
        latents = jax.tree.map(lambda m: _never_zero(m, threshold), latents)
    thresholds = _thresholds(signed_count, threshold, growth)
    return jax.tree.map(binary.flip_beyond, signed_count, latents, thresholds)


def _thresholds(
    signed_count: optax.Updates, threshold: jax.Array, growth: jax.Array | None
) -> optax.Updates:
    if growth is None:
        return jax.tree.map(
            lambda s: jnp.full_like(s, threshold, jnp.float32), signed_count
        )
    return jax.tree.map(
        lambda s: threshold + binary.adaptive_threshold(s, growth), signed_count
    )


def _never_zero(latent: jax.Array, threshold: jax.Array) -> jax.Array:
    # A threshold of zero is none at all, and then the sign of zero is +1.
    return jnp.where((latent == 0) & (threshold == 0), 1, latent)


def _clip(latent: jax.Array, bound: float) -> jax.Array:
    # On a CPU, XLA would compute a clamp anew for the flips, from a copy of the old
    # latents that updating them in place then needs. It does not repeat selections.
    return jnp.where(
        latent > bound, bound, jnp.where(latent < -bound, -bound, latent)
    ).astype(latent.dtype)
