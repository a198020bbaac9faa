"""A plug-in of one file: all that a user may bring, without a fork."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import sgdat_jax as sj
from sgdat_jax.data import dataset
from sgdat_jax.experiments import (
    DATASETS,
    METHODS,
    NETWORKS,
    OPTIMIZERS,
    REAL_OPTIMIZERS,
    SCHEDULES,
    SIGNS,
    Method,
)
from sgdat_jax.optimizers import binary


@sj.surrogate
def triangle(x, width=1.5):
    """A sign whose estimated derivative is a triangle."""
    return jnp.maximum(0.0, 1 - jnp.abs(x) / width)


class PatientState(NamedTuple):
    """State of `patient`."""

    count: jax.Array
    signed_count: optax.Updates
    asked: optax.Updates


def patient(*, patience=1.5, decay=0.9):
    """Flips a weight once enough decayed gradients have asked for it."""

    def init(params):
        counts = binary.init_signed_counts(params)
        return PatientState(
            jnp.zeros([], jnp.int32), counts, optax.tree.zeros_like(params)
        )

    def step(gradients, state):
        def asked(signed_count, gradient, before):
            pull = gradient * binary.weight(signed_count, gradient.dtype) > 0
            return jnp.where(pull, decay * before + 1, 0.0)

        def flip(signed_count, asked):
            pull = -binary.weight(signed_count, asked.dtype) * asked
            return binary.flip_beyond(signed_count, pull, patience)

        now = jax.tree.map(asked, state.signed_count, gradients, state.asked)
        counts = jax.tree.map(flip, state.signed_count, now)
        return state._replace(signed_count=counts, asked=now)

    return sj.flip_rule(init, step)


class CoinState(NamedTuple):
    """State of `coin`: flips are not counted."""

    key: jax.Array
    binary_params: optax.Updates


def coin(rate=0.01):
    """Flips each weight against its gradient, but only now and then."""

    def init(params):
        return CoinState(jnp.zeros(2, jnp.uint32), jax.tree.map(jnp.zeros_like, params))

    def update(gradients, state, params=None, **_):
        key, use = jax.random.split(jax.random.wrap_key_data(state.key))
        leaves, tree = jax.tree.flatten(params)
        keys = jax.tree.unflatten(tree, list(jax.random.split(use, len(leaves))))

        def flip(key, gradient, weight):
            chosen = jax.random.bernoulli(key, rate, weight.shape)
            return jnp.where(chosen & (gradient * weight > 0), -2 * weight, 0)

        updates = jax.tree.map(flip, keys, gradients, params)
        return updates, state._replace(key=jax.random.key_data(key))

    return optax.GradientTransformation(init, update)


def shy_adam(learning_rate, *, most=0.1):
    """Adam for the real-valued parameters, with updates of limited size."""
    return optax.chain(
        optax.scale_by_adam(),
        optax.clip(most),
        optax.scale_by_learning_rate(learning_rate),
    )


class Pair(nnx.Module):
    """A layer of two: one binary, one that is added to it."""

    def __init__(self, features, sign, rngs):
        self.binary = sj.BinaryLinear(
            features, features, input_quantizer=sign, rngs=rngs
        )
        self.scale = nnx.Param(jnp.ones((1, features)))

    def __call__(self, x):
        return self.binary(x) * self.scale / 4 + x


class PairNet(nnx.Module):
    """A network without a word about this library's own networks."""

    def __init__(self, num_classes, *, input_shape, rngs, input_quantizer):
        self.first = nnx.Linear(int(np.prod(input_shape)), 32, rngs=rngs)
        self.pairs = nnx.List([Pair(32, input_quantizer, rngs) for _ in range(2)])
        self.last = nnx.Linear(32, num_classes, rngs=rngs)

    def __call__(self, images):
        x = self.first(images.reshape(len(images), -1))
        for pair in self.pairs:
            x = pair(x)
        return self.last(x)


def blobs(data_dir=None):
    """Three classes of noisy pictures, each with a bright corner of its own."""
    rng = np.random.default_rng(0)

    def part(count):
        labels = np.arange(count) % 3
        images = rng.integers(0, 120, (count, 8, 8, 1))
        for place, (row, column) in enumerate(((0, 0), (0, 4), (4, 0))):
            images[labels == place, row : row + 4, column : column + 4] += 120
        return images.astype(np.uint8), labels

    return dataset.Dataset("blobs", *part(192), *part(96), ("a", "b", "c"))


OPTIMIZERS["patient"] = patient
OPTIMIZERS["coin"] = coin
REAL_OPTIMIZERS["shy_adam"] = shy_adam
SIGNS["triangle"] = triangle
NETWORKS["PairNet"] = PairNet
DATASETS["blobs"] = blobs
SCHEDULES["halves"] = lambda value, steps: optax.exponential_decay(
    value, max(steps // 2, 1), 0.5
)
METHODS["patience"] = Method(
    "Patience", {"optimizer": "patient", "set": ("decay=0.5",)}
)
