"""The type of binary weights, and the sign that their layers take of them."""

from collections.abc import Callable

import jax
from flax import nnx

from sgdat_jax import signs

Quantizer = Callable[[jax.Array], jax.Array]

LINEN_COLLECTION = "binary_params"  # of binary weights under nnx.bridge


@signs.gives_signs
def kernel_sign(kernel: jax.Array) -> jax.Array:
    """Returns `ste_sign` with the gradient of the identity, the default for kernels.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from sgdat_jax.layers import kernel_sign
    >>> jax.grad(lambda x: kernel_sign(x).sum())(jnp.array([-3.0, 0.5]))
    Array([1., 1.], dtype=float32)
    """
    # Not a partial: those compare by identity, and a copied or unpickled model would
    # not share the compiled programs of its original.
    return signs.ste_sign(kernel, clip_value=None)


class BinaryParam(nnx.Param):
    """The type of a binary weight: a parameter that an optimizer keeps in {-1, +1}.

    It is an `nnx.Param`, so whatever takes all parameters takes this one too;
    ``nnx.state(model, BinaryParam)`` has the binary ones alone. Under
    `nnx.bridge.to_linen` it is stored in the collection ``"binary_params"``.

    >>> import sgdat_jax as sj
    >>> from flax import nnx
    >>> layer = sj.BinaryLinear(2, 3, use_bias=True, rngs=nnx.Rngs(0))
    >>> list(nnx.state(layer, sj.BinaryParam))
    ['kernel']
    >>> list(nnx.state(layer, nnx.Param))
    ['bias', 'kernel']
    """


# `overwrite`, for a reloaded module defines the class anew under the same name.
nnx.register_variable_name(LINEN_COLLECTION, BinaryParam, overwrite=True)


class FoldedKernel(nnx.Variable):
    """The type of a kernel that `inference.fold` has made: signs, or bits of signs.

    It is no `nnx.Param`, so nothing trains it.

    >>> import sgdat_jax as sj
    >>> from flax import nnx
    >>> from sgdat_jax import inference
    >>> folded = inference.fold(sj.BinaryLinear(64, 4, rngs=nnx.Rngs(0)))
    >>> type(folded.kernel).__name__, folded.kernel.shape
    ('FoldedKernel', (2, 4))
    """
