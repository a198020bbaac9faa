"""How to be fast on a CPU: options of the compiler, and memory that is kept."""

import ctypes
import functools
import pathlib
import platform

# Which operations are for YNNPACK: at reductions it is the fastest.
_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
_WIDE = {"xla_cpu_prefer_vector_width": "512"}
_CPUINFO = pathlib.Path("/proc/cpuinfo")

# Parameters of glibc's mallopt(3), and the largest value of its type.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_NEVER = 2**31 - 1


def compiler_options(platform: str | None = None) -> dict[str, str]:
    """Returns options of `jax.jit` with which a CPU convolves on all its cores.

    XLA's CPU backend leaves convolutions to YNNPACK, which has most of them run on a
    single core. With Eigen's instead, a training step of `BinaryNet` or `SgdatResNet18`
    takes two thirds of the time on two cores. Convolutions of int8 become far slower.
    The training program and `sgdat_jax.inference` use these options; use them in a
    training loop of your own, or set the same in the environment, for instance for
    `flax.nnx.jit`: ``XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=reduce``.

    Args:
      platform: what is compiled for, such as ``"tpu"``; None: the default backend.

    Returns:
      Options for ``compiler_options``; none where the platform is no CPU or the
      installed jaxlib has no such option.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import sgdat_jax as sj
      >>> step = jax.jit(jnp.sum, compiler_options=sj.compiler_options())
      >>> step(jnp.ones(3))
      Array(3., dtype=float32)
    """
    import jax  # not needed to keep memory, which comes first

    is_cpu = (platform or jax.default_backend()) == "cpu"
    return dict(_OPTIONS) if is_cpu and _are_known(**_OPTIONS) else {}


def prediction_options() -> dict[str, str]:
    """Returns options of `jax.jit` for networks that predict by counting bits.

    Those of `compiler_options`, and vectors of 512 bits where they have a population
    count: XLA's CPU backend makes vectors of 256 otherwise.

    Example:
      >>> from sgdat_jax import cpu
      >>> cpu.compiler_options().items() <= cpu.prediction_options().items()
      True
    """
    options = compiler_options()
    if options and counts_bits_in_vectors() and _are_known(**_WIDE):
        options |= _WIDE
    return options


@functools.cache
def counts_bits_in_vectors() -> bool:
    """Returns whether this machine's processor has a population count of vectors.

    Known for x86 processors under Linux alone; for others the answer is no.

    Example:
      >>> from sgdat_jax import cpu
      >>> isinstance(cpu.counts_bits_in_vectors(), bool)
      True
    """
    return "avx512_vpopcntdq" in abilities()


def abilities() -> set[str]:
    """Returns what this machine's processor can, in Linux's words for it.

    Empty where that is not known, as under other systems than Linux.

    Example:
      >>> from sgdat_jax import cpu
      >>> can_multiply_and_add = "fma" in cpu.abilities()
    """
    try:
        return set(_CPUINFO.read_text().split())
    except (OSError, UnicodeDecodeError):
        return set()


@functools.cache
def _are_known(**options: str) -> bool:
    import jax

    here = jax.local_devices(backend="cpu")[0]
    try:
        with jax.default_device(here):
            jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def keep_freed_memory() -> bool:
    """Has the process keep memory that it frees, for its next step.

    XLA's CPU backend allocates the temporary memory of a program at each call. glibc
    gives large blocks back to the system at once, which hands out fresh pages, filled
    with zeros, for those of the next step. Without that a training step of `BinaryNet`
    takes 0.83 of the time on two cores. The process then stays as large as it once was.

    The command ``sgdat-jax`` calls it; call it at the beginning of a program of your
    own, before anything is computed. Setting ``GLIBC_TUNABLES=glibc.malloc.hugetlb=1``
    in the environment does as much. Memory of accelerators is not concerned.

    Returns:
      Whether it is so from now on; False where the C library is not glibc.

    Example:
      >>> import sgdat_jax as sj
      >>> is_kept = sj.keep_freed_memory()
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {
        _M_ARENA_MAX: 1,  # for others end, and are given back, at 64 MiB
        _M_MMAP_MAX: 0,  # nor large blocks each of their own
        _M_TRIM_THRESHOLD: _NEVER,
        _M_TOP_PAD: 0,
    }
    return all([mallopt(name, value) == 1 for name, value in settings.items()])
