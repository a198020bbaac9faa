"""What all binary layers share: weights, quantizers and the choice of a product."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.typing import Dtype, Initializer, PrecisionLike

from sgdat_jax import bits, signs
from sgdat_jax.layers import arguments, params, products

_OUTPUT_SCALES = ("xnor",)

_lecun_normal = nnx.initializers.lecun_normal()
zeros = nnx.initializers.zeros_init()


def _binary_lecun_normal(key: jax.Array, shape: Any, dtype: Any = None) -> jax.Array:
    return signs.sign(_lecun_normal(key, shape, dtype))


class BinaryLayer(nnx.Module):
    """What the layers share: their weights, and all but the product itself."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: tuple[int, ...] = (),
        feature_group_count: int = 1,
        *,
        input_quantizer: params.Quantizer | None,
        kernel_quantizer: params.Quantizer | None,
        use_bias: bool,
        output_scale: str | None,
        dtype: Dtype | None,
        param_dtype: Dtype,
        precision: PrecisionLike,
        preferred_element_type: Dtype | None,
        kernel_init: Initializer | None,
        bias_init: Initializer,
        rngs: nnx.Rngs,
    ):
        self.in_features = arguments.positive("in_features", in_features)
        self.out_features = arguments.positive("out_features", out_features)
        groups = arguments.positive("feature_group_count", feature_group_count)
        if in_features % groups or out_features % groups:
            raise ValueError(
                f"`feature_group_count` must divide {in_features=} and "
                f"{out_features=}, got {groups}."
            )
        arguments.check_quantizer("input_quantizer", input_quantizer)
        arguments.check_quantizer("kernel_quantizer", kernel_quantizer)
        if output_scale is not None:
            arguments.check_choice("output_scale", output_scale, _OUTPUT_SCALES)
        if kernel_init is None:
            binary = kernel_quantizer is not None
            kernel_init = _binary_lecun_normal if binary else _lecun_normal

        # Keys are drawn in the order of `nnx.Linear`, hence the same initial values.
        shape = (*kernel_size, in_features // groups, out_features)
        self.kernel_shape = shape  # also when it is packed
        self.kernel = params.BinaryParam(kernel_init(rngs.params(), shape, param_dtype))
        self.bias = nnx.data(None)
        if use_bias:
            self.bias = nnx.Param(bias_init(rngs.params(), shape[-1:], param_dtype))
        self.input_quantizer = input_quantizer
        self.kernel_quantizer = kernel_quantizer
        self.use_bias = use_bias
        self.output_scale = output_scale
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.preferred_element_type = preferred_element_type

    def _operands(self, inputs: jax.Array) -> tuple[jax.Array, ...]:
        """Quantized inputs and kernel, and the bias, all in the compute dtype."""
        if inputs.ndim == 0 or inputs.shape[-1] != self.in_features:
            raise ValueError(
                f"`inputs` must have {self.in_features} features in the last axis, "
                f"got {inputs.shape=}."
            )
        kernel = self.kernel[...]
        bias: Any = None if self.bias is None else self.bias[...]
        # Before the promotion: rounding could carry a value over the edge of the
        # window in which an estimator lets the gradient pass.
        if self.input_quantizer is not None:
            inputs = self.input_quantizer(inputs)
        if self.kernel_quantizer is not None:
            kernel = self.kernel_quantizer(kernel)
        if self._is_packed:
            return inputs, kernel, bias
        # A given dtype is inexact; an inferred one may be int8, as `fold` makes it.
        return dtypes.promote_dtype(
            (inputs, kernel, bias), dtype=self.dtype, inexact=self.dtype is not None
        )

    def _multiply(
        self,
        product: Callable[..., jax.Array],
        x: jax.Array,
        kernel: jax.Array,
        geometry: bits.Geometry,
    ) -> jax.Array:
        """Returns the product of inputs and kernel, in the dtype of the sums."""
        product = functools.partial(product, precision=self.precision)
        wide = self.preferred_element_type
        if self._is_packed:
            wide = wide or jnp.float32
            return products.multiply_packed(product, geometry, wide, x, kernel)
        if jnp.issubdtype(x.dtype, jnp.integer):
            # At once, for cuDNN's convolutions of int8 return float32 or nothing.
            sums = product(x, kernel, preferred_element_type=jnp.int32)
            return sums.astype(wide or jnp.float32)
        wide = wide or x.dtype
        counts_bits = self._counts_bits(x, kernel, wide)
        if wide == x.dtype and not counts_bits:
            return product(x, kernel)
        known = geometry if counts_bits else None
        return products.multiply(product, known, wide, x, kernel)

    @property
    def is_packable(self) -> bool:
        """Whether a kernel of signs can be packed to bits, see `bits.product`."""
        return True

    @property
    def _is_packed(self) -> bool:
        """Whether the kernel is of bits, as `inference.fold` makes it."""
        return self.kernel.dtype == jnp.uint32

    def _counts_bits(self, x: jax.Array, kernel: jax.Array, dtype: Dtype) -> bool:
        """Whether a product is one of signs, summed exactly, and faster by bits."""
        return (
            signs.is_sign(self.input_quantizer)
            and signs.is_sign(self.kernel_quantizer)
            and jnp.finfo(dtype).nmant >= jnp.finfo(jnp.float32).nmant
            and self.is_packable
            and bits.are_faster(x.shape, kernel.shape)
        )

    def _scale_and_shift(self, y: jax.Array, bias: jax.Array | None) -> jax.Array:
        if self.output_scale == "xnor":
            magnitude = jnp.abs(self.kernel[...])
            alpha = jnp.mean(magnitude, axis=tuple(range(magnitude.ndim - 1)))
            y *= jnp.expand_dims(alpha.astype(y.dtype), range(y.ndim - 1))
        if bias is not None:
            y += jnp.expand_dims(bias.astype(y.dtype), range(y.ndim - 1))
        return y
