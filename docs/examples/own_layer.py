"""A layer of your own: a binary residual block with a learned scale per channel.

A layer is any `nnx.Module`. Each `BinaryParam` goes to the binary optimizer and each
other `nnx.Param` to the real-valued one; nothing has to be registered.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import sgdat_jax as sj
from sgdat_jax import testing


class BinaryBlock(nnx.Module):
    """y = x + scale * norm(binary convolution of x)."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.conv = sj.BinaryConv(features, features, (3, 3), pad_value=1, rngs=rngs)
        self.norm = nnx.BatchNorm(features, rngs=rngs)
        self.scale = nnx.Param(jnp.full((features,), 0.1))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm(self.conv(x))
        return x + jnp.reshape(self.scale[...], (1, 1, 1, -1)) * y


if __name__ == "__main__":
    block = BinaryBlock(8, rngs=nnx.Rngs(0))
    # As it predicts: with the running averages of its normalization.
    testing.check_binary_layer(nnx.view(block, use_running_average=True), (6, 6, 8))

    x = jax.random.normal(jax.random.key(0), (4, 6, 6, 8))
    tx = sj.partition_binary(block, binary=sj.sgdat(), real=optax.adam(1e-2))
    optimizer = nnx.Optimizer(block, tx, wrt=nnx.Param)

    @nnx.jit
    def train_step(block, optimizer):
        loss, gradients = nnx.value_and_grad(
            lambda block: jnp.mean((block(x) - jnp.roll(x, 1, axis=-1)) ** 2)
        )(block)
        optimizer.update(block, gradients)
        return loss

    losses = [float(train_step(block, optimizer)) for _ in range(100)]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    weights = sum(row.binary_weights for row in sj.summarize(block, (6, 6, 8)))
    print(f"{weights} binary weights")
    assert losses[-1] < losses[0]
    assert (jnp.abs(block.conv.kernel[...]) == 1).all()
