"""How to compile programs that convolve."""

import functools

import jax

# No operation is for YNNPACK, all are for Eigen or XLA's own code.
_WITHOUT_YNNPACK = {"xla_cpu_experimental_ynn_fusion_type": ""}


@functools.cache
def compiler_options() -> dict[str, str]:
    """Returns options of `jax.jit` with which a CPU convolves on all its cores.

    XLA's CPU backend leaves convolutions to YNNPACK, which has most of them run on a
    single core. Without it a training step of `BinaryNet` or `SgdatResNet18` takes two
    thirds of the time on two cores. Only convolutions of int8 are far faster with it.
    The training program and `sgdat_jax.inference` use these options; use them in a
    training loop of your own, or set the same in the environment, for instance for
    `flax.nnx.jit`: ``XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=``.

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
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=_WITHOUT_YNNPACK).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return _WITHOUT_YNNPACK
