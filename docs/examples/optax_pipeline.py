"""SGDAT in an Optax pipeline: clipping before it, schedules in it, guards around it.

Nothing that scales updates may come after a binary optimizer, since its updates are
already exactly 0 or -2w. What belongs before it (clipping), inside it (schedules) or
around it (partition, accumulation, skipping of steps that are not finite) works.
"""

import jax
import jax.numpy as jnp
import optax

import sgdat_jax as sj

STEPS = 200


def make_optimizer() -> optax.GradientTransformation:
    """Returns SGDAT for ``kernel`` and AdamW for ``scale``."""
    binary = optax.chain(
        optax.clip_by_global_norm(1.0),
        sj.sgdat(
            learning_rate=optax.cosine_decay_schedule(1e-3, STEPS),
            threshold=optax.linear_schedule(0.0, 1e-6, STEPS),
        ),
    )
    both = optax.partition(
        {"binary": binary, "real": optax.adamw(1e-2)},
        {"kernel": "binary", "scale": "real"},
    )
    # Gradients of two batches make a step; a step that is not finite changes nothing.
    return optax.apply_if_finite(
        optax.MultiSteps(both, every_k_schedule=2).gradient_transformation(),
        max_consecutive_errors=10,
    )


if __name__ == "__main__":
    x = jax.random.normal(jax.random.key(0), (256, 32))
    y = x @ jnp.sign(jax.random.normal(jax.random.key(1), (32, 4)))
    params = {"kernel": jnp.ones((32, 4)), "scale": jnp.ones(())}
    tx = make_optimizer()

    def loss_fn(params, x, y):
        return jnp.mean((params["scale"] * (x @ params["kernel"]) - y) ** 2)

    @jax.jit
    def train_step(carry, key):
        params, opt_state = carry
        rows = jax.random.choice(key, len(x), (64,), replace=False)
        loss, grads = jax.value_and_grad(loss_fn)(params, x[rows], y[rows])
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    keys = jax.random.split(jax.random.key(2), 2 * STEPS)
    (params, opt_state), losses = jax.lax.scan(
        train_step, (params, tx.init(params)), keys
    )
    flips = sj.flip_counts(opt_state)["kernel"]
    print(
        f"loss {losses[0]:.2f} -> {losses[-1]:.2g}, {flips.mean():.2f} flips a weight"
    )
    assert losses[-1] < 1e-2
    assert set(params["kernel"].ravel().tolist()) <= {-1.0, 1.0}
