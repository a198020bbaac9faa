"""What blocks of residual networks hand on, and in what precision."""

import functools

import jax
import jax.numpy as jnp
from flax.typing import Dtype


def hand_on(x: jax.Array, dtype: Dtype | None) -> jax.Array:
    """Returns what a residual block hands on, on TPUs rounded to a dtype.

    So is its gradient. Steps of residual networks wait for the memory of a TPU, and
    what blocks hand on is most of what they read and write.

    Args:
      x: sum of a product and a shortcut.
      dtype: of the computation; None leaves `x` as it is.

    Example:
      >>> import jax.numpy as jnp
      >>> from sgdat_jax.models import residual
      >>> residual.hand_on(jnp.float32(1.001), jnp.bfloat16)  # 1.0 on a TPU
      Array(1.001, dtype=float32)
    """
    if dtype is None or jnp.finfo(dtype).bits >= jnp.finfo(x.dtype).bits:
        return x
    return _rounded_on_tpu(dtype, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rounded_on_tpu(dtype: Dtype, x: jax.Array) -> jax.Array:
    def rounded(x: jax.Array) -> jax.Array:
        return x.astype(dtype).astype(x.dtype)

    return jax.lax.platform_dependent(x, tpu=rounded, default=lambda x: x)


def _rounded_fwd(dtype, x):
    return _rounded_on_tpu(dtype, x), None


def _rounded_bwd(dtype, _, cotangent):
    return (_rounded_on_tpu(dtype, cotangent),)


_rounded_on_tpu.defvjp(_rounded_fwd, _rounded_bwd)
