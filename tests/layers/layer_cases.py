"""Layers with random kernels, and what the tests of layers compare."""

import jax.numpy as jnp
import numpy as np
from flax import nnx


def normal(*shape):
    # NumPy's, for JAX's would be compiled for each shape.
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def normal_init(key, shape, dtype):
    return jnp.asarray(normal(*shape), dtype)


def sign_init(key, shape, dtype):
    return jnp.asarray(np.sign(normal(*shape)), dtype)


# name: (sizes, options, shape of the inputs)
CONVS = {
    "1d": ((3, 4, 3), {}, (2, 7, 3)),
    "1d causal": ((3, 4, 3), {"padding": "CAUSAL", "kernel_dilation": 2}, (2, 9, 3)),
    "strides": ((3, 4, (3, 3)), {"strides": 2, "use_bias": True}, (2, 6, 7, 3)),
    "uneven strides": ((3, 4, (3, 2)), {"strides": (2, 1)}, (2, 6, 5, 3)),
    "dilation": ((3, 4, (3, 3)), {"kernel_dilation": (2, 1)}, (2, 7, 6, 3)),
    "groups": ((6, 4, (3, 3)), {"feature_group_count": 2}, (2, 5, 5, 6)),
    "valid": ((3, 4, (3, 3)), {"padding": "VALID"}, (2, 5, 6, 3)),
    "same lower": ((3, 4, (2, 2)), {"padding": "SAME_LOWER"}, (2, 5, 6, 3)),
    "circular": (
        (3, 4, (4, 3)),
        {"padding": "CIRCULAR", "kernel_dilation": (1, 2)},
        (2, 6, 7, 3),
    ),
    "reflect": ((3, 4, (3, 4)), {"padding": "REFLECT", "strides": 2}, (2, 6, 5, 3)),
    "integer pad": ((3, 4, (3, 3)), {"padding": 2}, (2, 4, 4, 3)),
    "pad per axis": ((3, 4, (3, 3)), {"padding": [1, (0, 2)]}, (2, 4, 4, 3)),
    "bfloat16": (
        (3, 4, (3, 3)),
        {"dtype": jnp.bfloat16, "use_bias": True},
        (2, 5, 5, 3),
    ),
    "bfloat16 params": ((3, 4, (3, 3)), {"param_dtype": jnp.bfloat16}, (2, 5, 5, 3)),
    "no batch": ((3, 4, (3, 3)), {"use_bias": True}, (5, 5, 3)),
    "two batch axes": ((3, 4, (3, 3)), {}, (2, 3, 4, 4, 3)),
    "3d": ((3, 4, (2, 3, 2)), {"strides": (1, 2, 1)}, (1, 4, 5, 4, 3)),
}
# Those whose default initial kernel is tested, too; each new shape compiles for 1 s.
INITS = ("1d", "strides", "groups", "bfloat16 params")
# Where the pads are zeros by nature, so that they may hold another value.
PADDED = (
    "1d",
    "1d causal",
    "strides",
    "uneven strides",
    "dilation",
    "groups",
    "same lower",
    "pad per axis",
    "3d",
)


@nnx.jit
def value_and_grads(layer, x):
    def loss(layer, x):
        y = layer(x)
        # Not linear in y: every output has a gradient of its own.
        return jnp.sum(jnp.sin(y.astype(jnp.float32))), y

    (_, y), grads = nnx.value_and_grad(loss, argnums=(0, 1), has_aux=True)(layer, x)
    return y, grads
