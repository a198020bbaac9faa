"""Products of a layer's operands in a wider dtype, and of signs by narrower ones."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax import lax

from sgdat_jax import bits, lookups

Product = Callable[..., jax.Array]  # of inputs and a kernel

_LARGEST = 2**15 - 1  # sum that int16 holds


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def multiply(
    product: Product, dtype: Dtype, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    """Returns ``product(x, kernel)``, summed in a dtype as wide as its operands'.

    Args:
      product: takes a ``preferred_element_type``.
      dtype: of the sums.
      x: inputs.
      kernel: of the same dtype.
    """
    return product(x, kernel, preferred_element_type=dtype)


def _multiply_fwd(product, dtype, x, kernel):
    return multiply(product, dtype, x, kernel), (x, kernel)


def _multiply_bwd(product, dtype, operands, cotangent):
    # JAX's own rule widens the operands instead: two of three products of a training
    # step would run at the speed of the wide dtype.
    x, kernel = operands
    return _pull_back(product, x, kernel, cotangent.astype(x.dtype))


multiply.defvjp(_multiply_fwd, _multiply_bwd)


def _pull_back(
    product: Product, x: jax.Array, kernel: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(product, x, kernel)[1](cotangent)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def multiply_signs(
    product: Product,
    geometry: bits.Geometry,
    dtype: Dtype,
    x: jax.Array,
    kernel: jax.Array,
) -> jax.Array:
    """Returns ``product(x, kernel)`` of signs, as the device computes it fastest.

    All ways give the same sums, for none rounds: a CPU counts bits where that pays, a
    GPU convolves in float16.

    Args:
      product: takes a ``preferred_element_type``.
      geometry: what it does.
      dtype: of the sums, one that holds them exactly.
      x: inputs of nothing but -1, +1 and NaN.
      kernel: likewise, of the same dtype.
    """
    plain = functools.partial(product, preferred_element_type=dtype)
    on_cpu = plain
    if bits.are_faster(x.shape, kernel.shape):
        on_cpu = functools.partial(bits.product, plain, geometry, dtype)
    on_gpu = functools.partial(multiply_on_gpu, product, dtype)
    # Chosen when a program is compiled, for the devices that it is compiled for.
    return lax.platform_dependent(x, kernel, cpu=on_cpu, cuda=on_gpu, default=plain)


def _multiply_signs_fwd(product, geometry, dtype, x, kernel):
    sums = multiply_signs(product, geometry, dtype, x, kernel)
    if math.prod(kernel.shape[:-1]) <= _LARGEST:
        sums = lax.platform_dependent(sums, tpu=narrow, default=lambda sums: sums)
    return sums, (x, kernel)


def _multiply_signs_bwd(product, geometry, dtype, operands, cotangent):
    x, kernel = operands
    if not lookups.are_possible(x, kernel, cotangent, geometry):
        return _multiply_bwd(product, dtype, operands, cotangent)
    return lax.platform_dependent(
        x,
        kernel,
        cotangent,
        cpu=functools.partial(_look_up, product, geometry),
        default=functools.partial(_pull_back, product),
    )


multiply_signs.defvjp(_multiply_signs_fwd, _multiply_signs_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _look_up(
    product: Product,
    geometry: bits.Geometry,
    x: jax.Array,
    kernel: jax.Array,
    cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns what `_pull_back` does, by looking up all that can be."""
    to_kernel = lookups.to_kernel(x, cotangent, kernel.shape, geometry)
    if max(geometry.strides) == 1:
        return lookups.to_inputs(kernel, cotangent, x.shape, geometry), to_kernel
    return jax.vjp(lambda x: product(x, kernel), x)[1](cotangent)[0], to_kernel


def _look_up_fwd(product, geometry, *operands):
    return _look_up(product, geometry, *operands), operands


def _look_up_bwd(product, geometry, operands, cotangents):
    del geometry
    return jax.vjp(functools.partial(_pull_back, product), *operands)[1](cotangents)


_look_up.defvjp(_look_up_fwd, _look_up_bwd)


def narrow(sums: jax.Array) -> jax.Array:
    """Returns sums of signs that XLA keeps in memory as int16: half of the bytes.

    Training keeps them for its gradients and reads them several times. They stay exact,
    but a NaN among them becomes a number; the gradients of its operands tell of it.

    Args:
      sums: integers below 2**15, as floats.
    """
    return sums.astype(jnp.int16).astype(sums.dtype)


def multiply_on_gpu(
    product: Product, dtype: Dtype, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    """Returns ``product(x, kernel)`` of signs by a GPU's fastest exact products.

    XLA widens the operands of a convolution to the dtype of its result, so one to
    float32 reads twice the bytes at half the rate. Those to float16 here hold all sums.
    cuBLAS multiplies matrices of bfloat16 to float32 as they are.

    Args:
      product: takes a ``preferred_element_type``.
      dtype: of the sums, float32 or wider.
      x: inputs of nothing but -1, +1 and NaN, of any dtype.
      kernel: likewise.
    """
    parts = _parts(kernel.shape)
    if kernel.ndim == 2 or not parts:
        x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
        return product(x, kernel, preferred_element_type=dtype)
    pairs = zip(
        jnp.array_split(x.astype(jnp.float16), parts, axis=-1),
        jnp.array_split(kernel.astype(jnp.float16), parts, axis=-2),
        strict=True,
    )
    return functools.reduce(jnp.add, (product(*pair).astype(dtype) for pair in pairs))


def _parts(kernel: tuple[int, ...]) -> int:
    """Returns in how many parts of its features float16 holds a kernel's sums.

    It holds all integers up to 2**11, and the even ones up to 2**12. Sums over an even
    number of features are even, as pads leave out whole pixels. 0 if no part is small
    enough.
    """
    *window, features, _ = kernel
    for parts in range(1, features + 1):
        sizes = {features // parts, -(-features // parts)}
        is_even = all(size % 2 == 0 for size in sizes)
        if math.prod(window) * max(sizes) <= (2**12 if is_even else 2**11):
            return parts
    return 0
