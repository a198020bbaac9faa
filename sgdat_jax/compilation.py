"""How to compile programs that convolve."""

import functools

import jax

# Which operations are for YNNPACK: at reductions it is the fastest.
_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def compiler_options() -> dict[str, str]:
    """Returns options of `jax.jit` with which a CPU convolves on all its cores.

    XLA's CPU backend leaves convolutions to YNNPACK, which has most of them run on a
    single core. With Eigen's instead, a training step of `BinaryNet` or `SgdatResNet18`
    takes two thirds of the time on two cores. Convolutions of int8 become far slower.
    The training program and `sgdat_jax.inference` use these options; use them in a
    training loop of your own, or set the same in the environment, for instance for
    `flax.nnx.jit`: ``XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=reduce``.

    Returns:
      Options for ``compiler_options``; none where the default backend is no CPU or the
      installed jaxlib has no such option.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import sgdat_jax as sj
      >>> step = jax.jit(jnp.sum, compiler_options=sj.compiler_options())
      >>> step(jnp.ones(3))
      Array(3., dtype=float32)
    """
    return dict(_OPTIONS) if jax.default_backend() == "cpu" and _are_known() else {}


@functools.cache
def _are_known() -> bool:
    try:
        jax.jit(lambda: 0, compiler_options=_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
