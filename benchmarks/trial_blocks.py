"""A block of `BinaryNet` as the library computes it, and in other ways.

The block is a binary 3x3 convolution, max-pooling or none, batch normalization in
training, and another binary convolution. `trials` measures `VARIANTS` of it against the
form that multiplies floats, as the library does on accelerators and as most of what is
tried does. By bits, as the library does on a CPU, is one of them.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from sgdat_jax import layers, signs
from sgdat_jax.models import blocks

LIBRARY = "library, by floats"
BITS = "library, by bits"
_EPSILON = 1e-5  # as `blocks.Builder.batch_norm` has it


class Block(NamedTuple):
    """What a block computes on."""

    x: jax.Array  # (batch, height, width, channels); batch divisible by 8
    first: jax.Array  # kernels, of -1 and +1
    scale: jax.Array
    offset: jax.Array
    second: jax.Array


def made_block(shape):
    """Returns a block of normally distributed inputs, and kernels of random signs."""
    rng = np.random.default_rng(0)
    channels = shape[-1]
    first, second = rng.choice([-1.0, 1.0], (2, 3, 3, channels, channels))
    scale = rng.uniform(0.5, 1.5, channels)
    offset = rng.normal(0, 0.2, channels)
    made = Block(rng.normal(size=shape), first, scale, offset, second)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), made)


def float_conv(x, kernel, **options):
    """Convolves; a function of its own, for which the library does not count bits."""
    return lax.conv_general_dilated(x, kernel, **options)


def binary_conv(x, kernel, **options):
    """Returns what the library's layer makes of inputs and a kernel."""
    options = {"conv_general_dilated": float_conv, **options}
    layer = layers.BinaryConv(
        *kernel.shape[-2:],
        kernel.shape[:2],
        padding=1,
        kernel_init=lambda *_: kernel,
        rngs=nnx.Rngs(0),
        **options,
    )
    return layer(x)


def batch_norm(x, scale, offset):
    """Returns the library's batch normalization in training."""
    layer = nnx.BatchNorm(
        x.shape[-1],
        epsilon=_EPSILON,
        scale_init=lambda *_: scale,
        bias_init=lambda *_: offset,
        rngs=nnx.Rngs(0),
    )
    return layer(x)


def library(block, pooled, **options):
    """What the library does, with options of its convolutions."""
    x = binary_conv(block.x, block.first, **options)
    x = blocks.max_pool(x) if pooled else x
    x = batch_norm(x, block.scale, block.offset)
    return binary_conv(x, block.second, **options)


def by_bits(block, pooled):
    """What the library does on a CPU."""
    return library(block, pooled, conv_general_dilated=lax.conv_general_dilated)


def pack(bits):
    """Returns truths ``(batch, ...)`` as bytes ``(batch / 8, ...)``."""
    # Of eight examples, not of neighbours in memory, which would not vectorize. By a
    # reduction, or XLA fuses this with `unpack`, and no byte is ever stored.
    eighths = bits.reshape(8, -1, *bits.shape[1:]).astype(jnp.uint8)
    return (eighths << _shifts(bits.ndim)).sum(0, dtype=jnp.uint8)


def unpack(packed):
    """Returns the truths that were packed."""
    bits = (packed[jnp.newaxis] >> _shifts(packed.ndim)) & 1
    return bits.reshape(-1, *packed.shape[1:]) > 0


def _shifts(rank):
    return jnp.arange(8, dtype=jnp.uint8).reshape(8, *rank * [1])


@jax.custom_vjp
def packed_sign(x):
    """Returns `ste_sign`, which keeps a bit for the gradient; NaN gets none."""
    return signs.sign(x)


packed_sign.defvjp(
    lambda x: (signs.sign(x), pack(jnp.abs(x) <= 1)),
    lambda mask, cotangent: (jnp.where(unpack(mask), cotangent, 0),),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def packed_product(product, x, kernel):
    """Returns a product with signs, which keeps them as bits for the gradient."""
    return product(x, kernel)


def _packed_product_bwd(product, residuals, cotangent):
    bits, kernel = residuals
    x = jnp.where(unpack(bits), 1, -1).astype(cotangent.dtype)
    return jax.vjp(product, x, kernel)[1](cotangent)


packed_product.defvjp(
    lambda product, x, kernel: (product(x, kernel), (pack(x > 0), kernel)),
    _packed_product_bwd,
)


def packed_conv(x, kernel, **options):
    conv = functools.partial(lax.conv_general_dilated, **options)
    return packed_product(conv, x, kernel)


def packed_mask(block, pooled):
    """The sign keeps a bit per input for its gradient, instead of the input."""
    return library(block, pooled, input_quantizer=packed_sign)


def packed_residual(block, pooled):
    """As the packed mask, and the convolution keeps its signs as bits."""
    options = {"input_quantizer": packed_sign, "conv_general_dilated": packed_conv}
    return library(block, pooled, **options)


def pool_after_sign(block, pooled):
    """Pools signs; normalizes by statistics of all sums, not of maxima."""
    x = binary_conv(block.x, block.first)
    x = signs.ste_sign(batch_norm(x, block.scale, block.offset))
    x = blocks.max_pool(x) if pooled else x
    return binary_conv(x, block.second, input_quantizer=None)


@jax.custom_vjp
def normalized_sign(x, scale, offset):
    """Returns signs of batch-normalized inputs, of which it keeps the inputs alone."""
    return _normalized_sign_fwd(x, scale, offset)[0]


def _normalized_sign_fwd(x, scale, offset):
    mean, mean_of_squares = x.mean((0, 1, 2)), (x * x).mean((0, 1, 2))
    variance = jnp.maximum(mean_of_squares - mean * mean, 0)
    statistics = mean, lax.rsqrt(variance + _EPSILON), scale, offset
    _, normalized = _normalize(x, *statistics)
    return signs.sign(normalized), (x, *statistics)


def _normalize(x, mean, factor, scale, offset):
    """Returns the inputs less their mean, and as they are normalized."""
    mean, factor, offset = (
        leaf.reshape(1, 1, 1, -1) for leaf in (mean, factor * scale, offset)
    )
    return x - mean, (x - mean) * factor + offset


def _normalized_sign_bwd(residuals, cotangent):
    x, *statistics = residuals
    _, factor, scale, _ = statistics
    centred, normalized = _normalize(x, *statistics)
    passed = jnp.where(jnp.abs(normalized) <= 1, cotangent, 0)
    offset_gradient = passed.sum((0, 1, 2))
    scale_gradient = factor * (passed * centred).sum((0, 1, 2))
    count = x.size // x.shape[-1]
    slope, shift, outer = (
        leaf.reshape(1, 1, 1, -1)
        for leaf in (
            factor * scale_gradient / count,
            offset_gradient / count,
            factor * scale,
        )
    )
    gradient = outer * (passed - shift - slope * centred)
    return gradient, scale_gradient, offset_gradient


normalized_sign.defvjp(_normalized_sign_fwd, _normalized_sign_bwd)


def fused_norm(block, pooled):
    """Normalization and sign in one, with the gradient in closed form."""
    x = binary_conv(block.x, block.first)
    x = blocks.max_pool(x) if pooled else x
    x = normalized_sign(x, block.scale, block.offset)
    return binary_conv(x, block.second, input_quantizer=None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def narrow_product(conv, x, kernel):
    """Returns a convolution with the kernel's gradient of bfloat16 operands."""
    return conv(x, kernel)


def _narrow_product_bwd(conv, operands, cotangent):
    x, kernel = operands
    (gradient,) = jax.vjp(lambda x: conv(x, kernel), x)[1](cotangent)
    kernel_gradient = lax.conv_general_dilated(
        x.astype(jnp.bfloat16),
        cotangent.astype(jnp.bfloat16),
        window_strides=(1, 1),
        padding=conv.keywords["padding"],
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        preferred_element_type=jnp.float32,
    )
    return gradient, kernel_gradient


narrow_product.defvjp(
    lambda conv, x, kernel: (conv(x, kernel), (x, kernel)), _narrow_product_bwd
)


def narrow_conv(x, kernel, **options):
    conv = functools.partial(lax.conv_general_dilated, **options)
    return narrow_product(conv, x, kernel)


def bfloat16_kernel_gradient(block, pooled):
    """The kernel's gradient is of bfloat16 operands, summed in float32."""
    return library(block, pooled, conv_general_dilated=narrow_conv)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def int8_product(product, x, kernel):
    """Returns a product of signs as int8; the gradient's products are of floats."""
    signs_of = (leaf.astype(jnp.int8) for leaf in (x, kernel))
    return product(*signs_of, preferred_element_type=jnp.int32).astype(x.dtype)


int8_product.defvjp(
    lambda product, x, kernel: (int8_product(product, x, kernel), (x, kernel)),
    lambda product, operands, cotangent: jax.vjp(product, *operands)[1](cotangent),
)


def int8_conv(x, kernel, **options):
    conv = functools.partial(lax.conv_general_dilated, **options)
    return int8_product(conv, x, kernel)


def int8_forward(block, pooled):
    """The forward convolutions are of int8, summed in int32; NaN is lost."""
    return library(block, pooled, conv_general_dilated=int8_conv)


VARIANTS = {
    LIBRARY: library,
    "the same again": library,
    BITS: by_bits,
    "packed mask": packed_mask,
    "packed residual": packed_residual,
    "pool after sign": pool_after_sign,
    "fused norm and sign": fused_norm,
    "bfloat16 kernel gradient": bfloat16_kernel_gradient,
    "int8 forward": int8_forward,
    "int8, with YNNPACK": int8_forward,
    "float32, with YNNPACK": library,
}
# `compiler_options` turns YNNPACK off, which alone is fast with int8 on a CPU.
DEFAULT_OPTIONS = ("int8, with YNNPACK", "float32, with YNNPACK")
POOLED_ALONE = ("pool after sign",)
