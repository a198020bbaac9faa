"""A binary optimizer of your own: flip after enough steps in a row have asked for it.

`sgdat_jax.flip_rule` makes an Optax optimizer of two functions, and
`sgdat_jax.testing` holds it to what the library asks of its own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import sgdat_jax as sj
from sgdat_jax import testing
from sgdat_jax.optimizers import binary


class PatientState(NamedTuple):
    """What `patient` remembers."""

    count: jax.Array  # shape (), int32: steps so far; flip_rule counts them
    signed_count: optax.Updates  # the sign of each weight, and how often it flipped
    asked: optax.Updates  # how many steps in a row have asked for a flip


def patient(patience: float = 3.0) -> optax.GradientTransformationExtraArgs:
    """Flips a weight once more than `patience` gradients in a row pull it over."""

    def init(params):
        return PatientState(
            count=jnp.zeros([], jnp.int32),
            signed_count=binary.init_signed_counts(params),
            asked=optax.tree.zeros_like(params),
        )

    def step(gradients, state):
        def ask(signed_count, gradient, before):
            pulled = gradient * binary.weight(signed_count, gradient.dtype) > 0
            return jnp.where(pulled, before + 1, 0)

        def flip(signed_count, asked):
            direction = -binary.weight(signed_count, asked.dtype) * asked
            return binary.flip_beyond(signed_count, direction, patience)

        asked = jax.tree.map(ask, state.signed_count, gradients, state.asked)
        signed_count = jax.tree.map(flip, state.signed_count, asked)
        return state._replace(signed_count=signed_count, asked=asked)

    return sj.flip_rule(init, step)


if __name__ == "__main__":
    testing.check_binary_optimizer(patient(patience=1.0))

    # It finds the signs of a linear map from noisy batches.
    target = jnp.sign(jax.random.normal(jax.random.key(0), (32, 4)))
    weights, tx = jnp.ones((32, 4)), patient()
    state = tx.init(weights)

    @jax.jit
    def train_step(weights, state, key):
        x = jax.random.normal(key, (64, 32))
        error = lambda w: jnp.mean((x @ w - x @ target) ** 2)  # noqa: E731
        updates, state = tx.update(jax.grad(error)(weights), state, weights)
        return optax.apply_updates(weights, updates), state

    for key in jax.random.split(jax.random.key(1), 200):
        weights, state = train_step(weights, state, key)
    wrong = int((weights != target).sum())
    flips = int(sj.flip_counts(state).sum())
    print(f"{wrong} of {weights.size} signs are wrong after {flips} flips")
    assert wrong == 0
