"""Bop and its second-order variant: binary optimizers without latent weights."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from sgdat_jax import checks
from sgdat_jax.optimizers import binary, compact, sums


class BopState(NamedTuple):
    """State of `bop` and, with second moments, of `bop2nd_order`."""

    count: jax.Array  # shape (), int32: updates so far
    mu: optax.Updates  # moving average of the gradients, float32
    nu: optax.Updates | None  # of their squares; None for bop
    signed_count: optax.Updates  # shaped like the parameters, int16; see binary.py


def bop(
    gamma: optax.ScalarOrSchedule = 1e-4,
    threshold: optax.ScalarOrSchedule = 1e-8,
    *,
    layout: compact.Layout = "exact",
) -> optax.GradientTransformationExtraArgs:
    r"""Bop: flips a weight when the average gradient speaks against it strongly enough.

    .. math::

        m &\leftarrow (1 - \gamma) m + \gamma g \\
        w' &= -w \text{ where } w m > \tau, \text{ else } w

    It has no latent weights and no learning rate: ``gamma`` sets how fast the average
    forgets, ``threshold`` (:math:`\tau`) how large it must be. Larger values of one
    make more flips, of the other fewer. Both are often decayed over training.

    Args:
      gamma: adaptivity rate in [0, 1]; a number, a traced array or a schedule of the
        step.
      threshold: in units of the gradient; likewise.
      layout: ``"exact"``, or ``"compact"`` for 4 bytes per weight instead of 6, as in
        `sgdat`. The average is then rounded to 16 significant bits after each step,
        which forgets steps below 2**-17 of it.

    Returns:
      An `optax.GradientTransformationExtraArgs` whose ``update`` needs ``params``. Its
      updates are exactly 0 or -2w; nothing that scales updates may follow it.

    Raises:
      ValueError: if a number is out of its range or the layout is unknown, or, in
        ``update``, if ``params`` is None or trees do not fit.
      TypeError: if an argument is of the wrong kind, or if parameters are not real
        floating-point arrays.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import sgdat_jax as sj
      >>> params = jnp.array([1.0, -1.0, 1.0])
      >>> tx = sj.bop(gamma=1e-2, threshold=1e-3)
      >>> updates, _ = tx.update(jnp.array([0.5, 0.5, 0.01]), tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      [-1. -1.  1.]

    References:
      Helwegen et al., Latent weights do not exist: rethinking binarized neural network
      optimization, NeurIPS 2019, https://arxiv.org/abs/1906.02107, Algorithm 1.
    """
    checks.number("`gamma`", gamma, "[0, 1]", schedule=True)
    checks.number("`threshold`", threshold, schedule=True)

    def step(updates: optax.Updates, state: BopState) -> BopState:
        rate = binary.value_at(gamma, state.count)
        mu = jax.tree.map(
            lambda m, g: sums.decay_and_add(m, 1 - rate, g, rate),
            state.mu,
            optax.tree.cast_like(updates, state.mu),
        )
        signed_count = _flipped(state, mu, threshold)
        return state._replace(mu=mu, signed_count=signed_count)

    return compact.lay_out(binary.flip_rule(_init, step), layout)


def bop2nd_order(
    gamma: optax.ScalarOrSchedule = 1e-7,
    sigma: optax.ScalarOrSchedule = 1e-3,
    threshold: optax.ScalarOrSchedule = 1e-6,
    *,
    eps: float = 1e-10,
    bias_correction: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Bop with the average gradient measured by its own standard deviation.

    .. math::

        m &\leftarrow m + \gamma (g - m) \\
        v &\leftarrow v + \sigma (g^2 - v) \\
        w' &= -w \text{ where } w \frac{m}{\sqrt{v} + \epsilon} > \tau,
            \text{ else } w

    so the threshold has no unit and suits layers whose gradients differ in size. With
    ``bias_correction`` :math:`m` is divided by :math:`1 - (1 - \gamma)^t` and
    :math:`v` by :math:`1 - (1 - \sigma)^t` in the third line, where :math:`t` counts
    steps from 1.

    Args:
      gamma: rate of the first average, in [0, 1]; a number, a traced array or a
        schedule of the step.
      sigma: rate of the second; likewise.
      threshold: without unit; likewise.
      eps: added to the standard deviation, in units of the gradient.
      bias_correction: whether averages are corrected for their start at zero. It needs
        constant ``gamma`` and ``sigma`` to be exact.

    Returns:
      An `optax.GradientTransformationExtraArgs`, as `bop`.

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
      >>> tx = sj.bop2nd_order(gamma=1e-7, sigma=1e-3, threshold=1e-6)
      >>> updates, _ = tx.update(jnp.array([0.5, 0.5, 0.01]), tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      [-1. -1. -1.]

    References:
      Suarez-Ramirez et al., A Bop and beyond: a second order optimizer for binarized
      neural networks, CVPR workshops 2021, https://arxiv.org/abs/2104.05124. The
      correction is Adam's, by analogy; it is not checked against the authors' own.
    """
    checks.number("`gamma`", gamma, "[0, 1]", schedule=True)
    checks.number("`sigma`", sigma, "[0, 1]", schedule=True)
    checks.number("`threshold`", threshold, schedule=True)
    checks.number("`eps`", eps)

    def step(updates: optax.Updates, state: BopState) -> BopState:
        gradients = optax.tree.cast_like(updates, state.mu)
        rate1 = binary.value_at(gamma, state.count)
        rate2 = binary.value_at(sigma, state.count)
        mu = jax.tree.map(
            lambda m, g: m + sums.rounded_product(rate1, g - m), state.mu, gradients
        )
        nu = jax.tree.map(
            lambda v, g: v + sums.rounded_product(rate2, g * g - v),
            state.nu,
            gradients,
        )
        mu_hat, nu_hat = mu, nu
        if bias_correction:
            time = state.count + 1
            mu_hat = jax.tree.map(lambda m: m / _summed_weights(rate1, time), mu)
            nu_hat = jax.tree.map(lambda v: v / _summed_weights(rate2, time), nu)
        score = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu_hat, nu_hat)
        signed_count = _flipped(state, score, threshold)
        return state._replace(mu=mu, nu=nu, signed_count=signed_count)

    return binary.flip_rule(
        lambda params: _init(params)._replace(nu=binary.init_latents(params, None)),
        step,
    )


def _init(params: optax.Params) -> BopState:
    return BopState(
        count=jnp.zeros([], jnp.int32),
        mu=binary.init_latents(params, None),
        nu=None,
        signed_count=binary.init_signed_counts(params, None),
    )


def _flipped(
    state: BopState, score: optax.Updates, threshold: optax.ScalarOrSchedule
) -> optax.Updates:
    """Flips each weight whose score has its sign and exceeds the threshold."""
    tau = binary.value_at(threshold, state.count)
    return jax.tree.map(
        lambda s, r: binary.flip_beyond(s, -r, tau), state.signed_count, score
    )


def _summed_weights(rate: chex.Numeric, time: jax.Array) -> jax.Array:
    # 1 - (1 - rate)**time, which float32 would round to multiples of 6e-8.
    return -jnp.expm1(
        time.astype(jnp.float32) * jnp.log1p(-jnp.asarray(rate, jnp.float32))
    )
