"""SGDAT trains an Equinox model, since it is a plain Optax optimizer.

`sgdat_jax.partition_binary` looks for Flax's `BinaryParam`; elsewhere
`optax.partition` with labels of your own does the same. Needs ``pip install equinox``.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import sgdat_jax as sj


class BinaryLinear(eqx.Module):
    """A dense layer with a binary kernel and binary inputs."""

    kernel: jax.Array

    def __init__(self, in_features: int, out_features: int, key: jax.Array):
        self.kernel = sj.sign(jax.random.normal(key, (in_features, out_features)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return sj.ste_sign(x) @ sj.kernel_sign(self.kernel)


class Net(eqx.Module):
    """Real-valued, binary, real-valued."""

    first: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    binary: BinaryLinear
    last: eqx.nn.Linear

    def __init__(self, key: jax.Array):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Linear(2, 32, key=keys[0])
        self.norm = eqx.nn.LayerNorm(32)
        self.binary = BinaryLinear(32, 32, keys[1])
        self.last = eqx.nn.Linear(32, 1, key=keys[2])

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.binary(self.norm(self.first(x))))[0]


def labels(params: Net) -> Net:
    """Says of each array which optimizer trains it."""
    real = jax.tree.map(lambda _: "real", params)
    return eqx.tree_at(lambda net: net.binary.kernel, real, "binary")


if __name__ == "__main__":
    x = jax.random.uniform(jax.random.key(0), (512, 2), minval=-1, maxval=1)
    inside = (jnp.sum(x**2, axis=-1) < 0.5).astype(jnp.float32)
    model = Net(jax.random.key(1))
    tx = optax.partition({"binary": sj.sgdat(), "real": optax.adam(1e-2)}, labels)
    opt_state = tx.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def train_step(model, opt_state):
        def loss_fn(model):
            logits = jax.vmap(model)(x)
            return optax.sigmoid_binary_cross_entropy(logits, inside).mean()

        loss, grads = eqx.filter_value_and_grad(loss_fn)(model)
        params = eqx.filter(model, eqx.is_array)
        updates, opt_state = tx.update(grads, opt_state, params)
        return eqx.apply_updates(model, updates), opt_state, loss

    for _ in range(300):
        model, opt_state, loss = train_step(model, opt_state)
    accuracy = jnp.mean((jax.vmap(model)(x) > 0) == (inside > 0))
    print(f"loss {loss:.3f}, {accuracy:.1%} of the training points are right")
    assert accuracy > 0.9
    assert (jnp.abs(model.binary.kernel) == 1).all()
