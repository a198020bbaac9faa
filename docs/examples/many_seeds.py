"""Many seeds and thresholds in one compiled program, by `jax.vmap`.

Hyperparameters of the optimizers may be traced arrays, so one program trains every pair
of a seed and a threshold. On a GPU or TPU they train at once; on a CPU this saves
compiling, and small models gain time too.
"""

import jax
import jax.numpy as jnp
import optax

import sgdat_jax as sj

STEPS = 200
x = jax.random.normal(jax.random.key(100), (512, 32))
y = jnp.sign(x @ jax.random.normal(jax.random.key(101), (32, 8))) @ jnp.ones((8, 1))


def train(seed, threshold):
    """Trains one network; returns its last loss and its flips per weight."""
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "binary": sj.sign(jax.random.normal(keys[0], (32, 64))),
        "real": jax.random.normal(keys[1], (64, 1)) / 8,
    }
    tx = optax.partition(
        {"binary": sj.sgdat(1e-4, threshold), "real": optax.adam(1e-2)},
        {"binary": "binary", "real": "real"},
    )

    def loss_fn(params, x, y):
        hidden = sj.approx_sign(x @ params["binary"] / 6)
        return jnp.mean((hidden @ params["real"] - y) ** 2)

    def step(carry, key):
        params, opt_state = carry
        rows = jax.random.choice(key, len(x), (64,))
        loss, grads = jax.value_and_grad(loss_fn)(params, x[rows], y[rows])
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    carry = params, tx.init(params)
    (params, opt_state), _ = jax.lax.scan(step, carry, jax.random.split(keys[2], STEPS))
    return loss_fn(params, x, y), sj.flip_counts(opt_state)["binary"].mean()


if __name__ == "__main__":
    seeds, thresholds = jnp.arange(8), jnp.array([0.0, 1e-7, 1e-5])
    over_seeds = jax.vmap(train, in_axes=(0, None))
    sweep = jax.jit(jax.vmap(over_seeds, in_axes=(None, 0)))
    losses, flips = sweep(seeds, thresholds)  # both (thresholds, seeds)
    for threshold, loss, flip in zip(thresholds, losses, flips, strict=True):
        spread = f"{loss.mean():.3f} ± {loss.std(ddof=1):.3f}"
        print(f"threshold {threshold:.0e}: loss {spread}, {flip.mean():.2f} flips")
    assert losses.shape == (3, 8)
    assert flips[0].mean() > flips[1].mean() > flips[2].mean()
