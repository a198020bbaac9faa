"""What all binary layers share: weights, quantizers and the choice of a product."""

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, Required, TypedDict

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer, PrecisionLike

from sgdat_jax import bits, checks, dtypes, signs
from sgdat_jax.layers import arguments, operations, params, products

_lecun_normal = nnx.initializers.lecun_normal()
_zeros = nnx.initializers.zeros_init()
_NO_METADATA: Mapping[str, Any] = types.MappingProxyType({})


def _binary_lecun_normal(key: jax.Array, shape: Any, dtype: Any = None) -> jax.Array:
    return signs.sign(_lecun_normal(key, shape, dtype))


class Options(TypedDict, total=False):
    """The keyword arguments that all binary layers take; see `BinaryLayer`."""

    input_quantizer: params.Quantizer | None
    kernel_quantizer: params.Quantizer | None
    use_bias: bool
    output_scale: str | None
    dtype: Dtype | None
    param_dtype: Dtype
    precision: PrecisionLike
    preferred_element_type: Dtype | None
    promote_dtype: Callable[..., tuple[Any, ...]]
    kernel_init: Initializer | None
    bias_init: Initializer
    kernel_metadata: Mapping[str, Any]
    bias_metadata: Mapping[str, Any]
    rngs: Required[nnx.Rngs]


class BinaryLayer(nnx.Module):
    """What the binary layers share: weights, and all but the operation itself.

    .. math::
        y = \\alpha \\, q_x(x) \\ast q_w(W) + b

    with :math:`q_x` = `input_quantizer`, :math:`q_w` = `kernel_quantizer`,
    :math:`\\alpha = 1` unless `output_scale` says otherwise, and :math:`\\ast` the
    layer's `operation`. For a layer of your own, subclass one of the three layers, or
    this class and say what the operation is. A class with a ``__call__`` of its own is
    used as it is: `inference.fold` packs only what computes no more than these do.

    Args:
        in_features: Number of input features or channels.
        out_features: Number of output features or channels.
        kernel_size: Size of the kernel along each spatial axis.
        feature_group_count: Number of groups that the channels are divided into.
        transpose_kernel: Whether the kernel's last two axes are out, in.
        mask: Array of the kernel's shape that its signs are multiplied with, or None.
            Where it is 0 there is no weight: its gradient is 0, so binary optimizers
            leave it alone. As in Flax it is an array of the layer's state and no
            parameter.
        input_quantizer: Function of the inputs, or None, as is common in the first
            layer. By default a sign that passes the gradient where ``abs(x) <= 1``.
        kernel_quantizer: Function of the kernel, or None. By default a sign with the
            gradient of the identity, for the stored weight is already its own sign.
            Give all layers the same function object: another partial, even of the same
            function, makes another compiled program.
        use_bias: Whether to add a bias. Unlike in Flax's layers, by default not.
        output_scale: None, or ``"xnor"``: scale each output channel by alpha, the mean
            of ``abs(kernel)`` over all other axes; the gradient flows through alpha
            too. It is for real-valued kernels: on a kernel of +-1, alpha is 1.
        dtype: Dtype of the computation; None infers it from inputs and parameters.
            Quantizers come before it, in the precision of what they are given.
        param_dtype: Dtype of the parameters.
        precision: Precision of the product, see `jax.lax.Precision`.
        preferred_element_type: Dtype that the product is summed and returned in; None
            is the compute dtype. With `dtype` bfloat16 and float32 here, binary
            products are exact. The two products of the gradient take the incoming
            gradient rounded to `dtype`.
        promote_dtype: Function of ``(inputs, kernel, bias)``, all quantized, and of
            ``dtype=`` that returns the three in the dtype of the computation.
        kernel_init: Initializer of the kernel, used as it is. None is the sign of
            `lecun_normal`, or `lecun_normal` itself without a `kernel_quantizer`.
        bias_init: Initializer of the bias.
        kernel_metadata, bias_metadata: What the two parameters know beside their
            values, such as ``{"out_sharding": (None, "model")}``.
        rngs: Source of random keys.

    Raises:
        TypeError: If a quantizer is not callable or a size not an integer.
        ValueError: If a size is below 1, the groups do not divide the features, the
            mask has another shape, or `output_scale` is unknown; when called, if the
            inputs have another number of features.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: tuple[int, ...] = (),
        feature_group_count: int = 1,
        *,
        transpose_kernel: bool = False,
        mask: Any = None,
        input_quantizer: params.Quantizer | None = signs.ste_sign,
        kernel_quantizer: params.Quantizer | None = params.kernel_sign,
        use_bias: bool = False,
        output_scale: str | None = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        preferred_element_type: Dtype | None = None,
        promote_dtype: Callable[..., tuple[Any, ...]] = dtypes.promote,
        kernel_init: Initializer | None = None,
        bias_init: Initializer = _zeros,
        kernel_metadata: Mapping[str, Any] = _NO_METADATA,
        bias_metadata: Mapping[str, Any] = _NO_METADATA,
        rngs: nnx.Rngs,
    ):
        self.in_features = checks.integer("`in_features`", in_features)
        self.out_features = checks.integer("`out_features`", out_features)
        groups = checks.integer("`feature_group_count`", feature_group_count)
        if in_features % groups or out_features % groups:
            raise ValueError(
                f"`feature_group_count` must divide {in_features=} and "
                f"{out_features=}, got {groups}."
            )
        checks.function("`input_quantizer`", input_quantizer, optional=True)
        checks.function("`kernel_quantizer`", kernel_quantizer, optional=True)
        checks.choice("`output_scale`", output_scale, ("xnor",), optional=True)
        if kernel_init is None:
            binary = kernel_quantizer is not None
            kernel_init = _binary_lecun_normal if binary else _lecun_normal

        features = in_features // groups, out_features
        shape = *kernel_size, *(features[::-1] if transpose_kernel else features)
        self.kernel_shape = shape
        self.mask = arguments.canonical_mask(mask, shape)
        # Keys are drawn in the order of `nnx.Linear`, so initial values are the same.
        kernel = kernel_init(rngs.params(), shape, param_dtype)
        self.kernel = params.BinaryParam(kernel, **kernel_metadata)
        self.bias = nnx.data(None)
        if use_bias:
            bias = bias_init(rngs.params(), (out_features,), param_dtype)
            self.bias = nnx.Param(bias, **bias_metadata)
        self.transpose_kernel = transpose_kernel
        self.input_quantizer = input_quantizer
        self.kernel_quantizer = kernel_quantizer
        self.use_bias = use_bias
        self.output_scale = output_scale
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.preferred_element_type = preferred_element_type
        self.promote_dtype = promote_dtype

    @property
    def operation(self) -> operations.Operation:
        """What the layer does with inputs and kernel."""
        raise NotImplementedError(f"{type(self).__name__} must say its `operation`.")

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Applies the operation, the output scale and the bias.

        Args:
            inputs: Shape ``(*batch, *spatial, in_features)``.
            out_sharding: Of the outputs, on a mesh of explicit axes, as in Flax's
                layers: a `jax.sharding.PartitionSpec`, or None.
        """
        x, kernel, bias = self._operands(inputs)

        def multiply(product, x, geometry):
            return self._multiply(product, x, kernel, geometry)

        y = self.operation(multiply, x, out_sharding)
        return self._scale_and_shift(y, bias)

    def signed_kernel(self) -> jax.Array:
        """Returns the kernel as it is multiplied with: quantized, then masked."""
        kernel = self.kernel[...]
        if self.kernel_quantizer is not None:
            kernel = self.kernel_quantizer(kernel)
        if self.mask is not None:
            kernel *= self.mask.astype(kernel.dtype)
        return kernel

    def _operands(self, inputs: jax.Array) -> tuple[jax.Array, ...]:
        """Quantized inputs and kernel, and the bias, all in the compute dtype."""
        if inputs.ndim == 0 or inputs.shape[-1] != self.in_features:
            raise ValueError(
                f"`inputs` must have {self.in_features} features in the last axis, "
                f"got {inputs.shape=}."
            )
        # Before the promotion: rounding could carry a value over the edge of the
        # window in which an estimator lets the gradient pass.
        if self.input_quantizer is not None:
            inputs = self.input_quantizer(inputs)
        bias = None if self.bias is None else self.bias[...]
        operands = inputs, self.signed_kernel(), bias
        return self.promote_dtype(operands, dtype=self.dtype)

    def _multiply(
        self,
        product: Callable[..., jax.Array],
        x: jax.Array,
        kernel: jax.Array,
        geometry: bits.Geometry | None,
    ) -> jax.Array:
        """Returns the product of inputs and kernel, in the dtype of the sums."""
        product = functools.partial(product, precision=self.precision)
        wide = self.preferred_element_type or x.dtype
        if geometry is not None and self._are_signs(wide):
            return products.multiply_signs(product, geometry, wide, x, kernel)
        if wide == x.dtype:
            return product(x, kernel)
        return products.multiply(product, wide, x, kernel)

    @property
    def is_packable(self) -> bool:
        """Whether signs are all that the kernel has: with a mask it has zeros, too."""
        return self.mask is None

    def _are_signs(self, dtype: Dtype) -> bool:
        """Whether the operands are signs alone, and a dtype holds the sums exactly."""
        return (
            signs.is_sign(self.input_quantizer)
            and signs.is_sign(self.kernel_quantizer)
            and self.is_packable
            and dtypes.sums_exactly(dtype)
        )

    def _scale_and_shift(self, y: jax.Array, bias: jax.Array | None) -> jax.Array:
        if self.output_scale == "xnor":
            alpha = self._mean_magnitude()
            y *= jnp.expand_dims(alpha.astype(y.dtype), range(y.ndim - 1))
        if bias is not None:
            y += jnp.expand_dims(bias.astype(y.dtype), range(y.ndim - 1))
        return y

    def _mean_magnitude(self) -> jax.Array:
        """Returns the mean of abs(kernel) for each output, of what the mask leaves."""
        magnitude = jnp.abs(self.kernel[...])
        out = magnitude.ndim - (2 if self.transpose_kernel else 1)
        others = tuple(axis for axis in range(magnitude.ndim) if axis != out)
        if self.mask is None:
            return jnp.mean(magnitude, axis=others)
        kept = self.mask.astype(bool).astype(magnitude.dtype)
        return jnp.sum(magnitude * kept, others) / jnp.maximum(kept.sum(others), 1)
