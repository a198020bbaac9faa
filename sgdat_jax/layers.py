"""Flax layers whose weights and inputs are binary.

`BinaryLinear` and `BinaryConv` are `nnx.Linear` and `nnx.Conv` with a sign function in
front of the inputs and of the kernel, as in BinaryNet (Courbariaux et al., 2016,
https://arxiv.org/abs/1602.02830). Without the two sign functions they equal those
layers bit for bit, initial values included. The kernel is a `BinaryParam`, so that
optimizers can tell it from the real-valued parameters around it.

Where both are signs and sums are exact, a program that is compiled for a CPU multiplies
by counting bits (`sgdat_jax.bits`), to the same sums; gradients are of floats.

The layers do not train anything: that a kernel stays in {-1, +1} is the work of the
optimizer. In Linen they are used through `nnx.bridge.to_linen`, where binary kernels
form the collection ``"binary_params"`` and all other parameters stay in ``"params"``:

>>> layer = nnx.bridge.to_linen(BinaryLinear, 3, 2, use_bias=True)
>>> variables = layer.init(jax.random.key(0), jnp.ones((1, 3)))
>>> jax.tree.map(jnp.shape, variables)
{'binary_params': {'kernel': (3, 2)}, 'params': {'bias': (2,)}}
>>> layer.apply(variables, jnp.ones((1, 3))).shape
(1, 2)
"""

import functools
import math
import string
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.typing import Dtype, Initializer, PrecisionLike
from jax import lax

from sgdat_jax import bits, layer_arguments, products, signs

Quantizer = Callable[[jax.Array], jax.Array]

LINEN_COLLECTION = "binary_params"  # of binary weights under nnx.bridge

_OUTPUT_SCALES = ("xnor",)

_lecun_normal = nnx.initializers.lecun_normal()
_zeros = nnx.initializers.zeros_init()


def kernel_sign(kernel: jax.Array) -> jax.Array:
    """Returns `ste_sign` with the gradient of the identity, the default for kernels.

    >>> jax.grad(lambda x: kernel_sign(x).sum())(jnp.array([-3.0, 0.5]))
    Array([1., 1.], dtype=float32)
    """
    # Not a partial: those compare by identity, and a copied or unpickled model would
    # not share the compiled programs of its original.
    return signs.ste_sign(kernel, clip_value=None)


def _binary_lecun_normal(key: jax.Array, shape: Any, dtype: Any = None) -> jax.Array:
    return signs.sign(_lecun_normal(key, shape, dtype))


class BinaryParam(nnx.Param):
    """The type of a binary weight: a parameter that an optimizer keeps in {-1, +1}.

    It is an `nnx.Param`, so whatever takes all parameters takes this one too;
    ``nnx.state(model, BinaryParam)`` has the binary ones alone. Under
    `nnx.bridge.to_linen` it is stored in the collection ``"binary_params"``.

    >>> layer = BinaryLinear(2, 3, use_bias=True, rngs=nnx.Rngs(0))
    >>> list(nnx.state(layer, BinaryParam))
    ['kernel']
    >>> list(nnx.state(layer, nnx.Param))
    ['bias', 'kernel']
    """


# `overwrite`, for a reloaded module defines the class anew under the same name.
nnx.register_variable_name(LINEN_COLLECTION, BinaryParam, overwrite=True)


class _BinaryLayer(nnx.Module):
    """What the layers share: their weights, and all but the product itself."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: tuple[int, ...] = (),
        feature_group_count: int = 1,
        *,
        input_quantizer: Quantizer | None,
        kernel_quantizer: Quantizer | None,
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
        self.in_features = layer_arguments.positive("in_features", in_features)
        self.out_features = layer_arguments.positive("out_features", out_features)
        groups = layer_arguments.positive("feature_group_count", feature_group_count)
        if in_features % groups or out_features % groups:
            raise ValueError(
                f"`feature_group_count` must divide {in_features=} and "
                f"{out_features=}, got {groups}."
            )
        layer_arguments.check_quantizer("input_quantizer", input_quantizer)
        layer_arguments.check_quantizer("kernel_quantizer", kernel_quantizer)
        if output_scale is not None:
            layer_arguments.check_choice("output_scale", output_scale, _OUTPUT_SCALES)
        if kernel_init is None:
            binary = kernel_quantizer is not None
            kernel_init = _binary_lecun_normal if binary else _lecun_normal

        # Keys are drawn in the order of `nnx.Linear`, hence the same initial values.
        shape = (*kernel_size, in_features // groups, out_features)
        self.kernel_shape = shape  # also when it is packed
        self.kernel = BinaryParam(kernel_init(rngs.params(), shape, param_dtype))
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
        quantizer = self.kernel_quantizer
        return (
            signs.is_sign(self.input_quantizer)
            and (quantizer is kernel_sign or signs.is_sign(quantizer))
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
            y += jnp.expand_dims(bias, range(y.ndim - 1))
        return y


class BinaryLinear(_BinaryLayer):
    """A linear layer whose inputs and weights pass through a sign function.

    .. math::
        y = \\alpha \\, q_x(x) \\, q_w(W) + b

    with :math:`q_x` = `input_quantizer`, :math:`q_w` = `kernel_quantizer` and
    :math:`\\alpha = 1` unless `output_scale` says otherwise. Inputs have shape
    ``(*batch, in_features)``, outputs ``(*batch, out_features)``. Products of signs are
    exact in every float dtype; their sums are exact up to 256 in bfloat16, 2048 in
    float16 and 2**24 in float32: `preferred_element_type` is the dtype of the sums.

    >>> layer = BinaryLinear(3, 2, rngs=nnx.Rngs(0))
    >>> layer.kernel[...] = jnp.array([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    >>> layer(jnp.array([0.3, -2.0, 5.0]))
    Array([-1., -1.], dtype=float32)

    Args:
        in_features: Number of input features.
        out_features: Number of output features.
        input_quantizer: Function of the inputs, or None, as is common in the first
            layer. By default a sign that passes the gradient where ``abs(x) <= 1``.
        kernel_quantizer: Function of the kernel, or None. By default a sign with the
            gradient of the identity, for the stored weight is already its own sign.
            Give all layers the same function object: another partial, even of the same
            function, makes another compiled program.
        use_bias: Whether to add a bias.
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
            gradient rounded to `dtype`. Integer operands, as `inference.fold` makes
            them, are summed in int32 first.
        kernel_init: Initializer of the kernel, used as it is. None is the sign of
            `lecun_normal`, or `lecun_normal` itself without a `kernel_quantizer`.
        bias_init: Initializer of the bias.
        rngs: Source of random keys.

    Raises:
        TypeError: If a quantizer is not callable or a size not an integer.
        ValueError: If a size is below 1 or `output_scale` unknown; when called, if the
            inputs have another number of features.

    References:
        Courbariaux et al., "Binarized Neural Networks", 2016,
        https://arxiv.org/abs/1602.02830.
        Rastegari et al., "XNOR-Net", 2016, https://arxiv.org/abs/1603.05279: Eq. 6 is
        alpha. Their scale K of the inputs is left out.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        input_quantizer: Quantizer | None = signs.ste_sign,
        kernel_quantizer: Quantizer | None = kernel_sign,
        use_bias: bool = False,
        output_scale: str | None = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        preferred_element_type: Dtype | None = None,
        kernel_init: Initializer | None = None,
        bias_init: Initializer = _zeros,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            in_features,
            out_features,
            input_quantizer=input_quantizer,
            kernel_quantizer=kernel_quantizer,
            use_bias=use_bias,
            output_scale=output_scale,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            preferred_element_type=preferred_element_type,
            kernel_init=kernel_init,
            bias_init=bias_init,
            rngs=rngs,
        )

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps ``(*batch, in_features)`` to ``(*batch, out_features)``."""
        x, kernel, bias = self._operands(inputs)
        contract_features = (((x.ndim - 1,), (0,)), ((), ()))
        product = functools.partial(
            lax.dot_general, dimension_numbers=contract_features
        )
        y = self._multiply(product, x, kernel, bits.Geometry())
        return self._scale_and_shift(y, bias)


class BinaryConv(_BinaryLayer):
    """A convolution whose inputs and weights pass through a sign function.

    The convolution of as many spatial axes as `kernel_size` has entries, channels last:
    inputs have shape ``(*batch, *spatial, in_features)``, where ``batch`` may have any
    number of axes, none included; the kernel has shape
    ``(*kernel_size, in_features // feature_group_count, out_features)``.

    >>> conv = BinaryConv(3, 4, (3, 3), strides=2, pad_value=1, rngs=nnx.Rngs(0))
    >>> conv.kernel.shape
    (3, 3, 3, 4)
    >>> conv(jnp.ones((2, 32, 32, 3))).shape
    (2, 16, 16, 4)

    Args:
        in_features: Number of input channels.
        out_features: Number of output channels.
        kernel_size: Size along each spatial axis; an integer is a 1-D convolution.
        strides: Step along each spatial axis, or one integer for all.
        padding: As in `nnx.Conv`: ``"SAME"``, ``"SAME_LOWER"``, ``"VALID"``,
            ``"CIRCULAR"``, ``"REFLECT"``, ``"CAUSAL"`` (1-D), an integer, or for each
            spatial axis an integer or a ``(low, high)`` pair.
        pad_value: What the pads hold, put around the inputs after `input_quantizer`:
            with 0 they contribute nothing, with +1 or -1 the product stays binary. It
            must be 0 where `padding` takes the pads from the inputs.
        kernel_dilation: Distance of the kernel's entries along each spatial axis, or
            one integer for all.
        feature_group_count: Number of groups that the channels are divided into.
        input_quantizer, kernel_quantizer, use_bias, output_scale, dtype, param_dtype,
            precision, preferred_element_type, kernel_init, bias_init, rngs: See
            `BinaryLinear`.
        conv_general_dilated: Convolves, with the arguments of
            `jax.lax.conv_general_dilated`, which is the default.

    Raises:
        TypeError: If a quantizer is not callable or a size not an integer.
        ValueError: If a size, stride or dilation is below 1, the groups do not divide
            the channels, or `padding`, `pad_value` or `output_scale` is unknown; when
            called, if the inputs have other channels or too few axes.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        *,
        strides: int | Sequence[int] = 1,
        padding: layer_arguments.Padding = "SAME",
        pad_value: float = 0.0,
        kernel_dilation: int | Sequence[int] = 1,
        feature_group_count: int = 1,
        input_quantizer: Quantizer | None = signs.ste_sign,
        kernel_quantizer: Quantizer | None = kernel_sign,
        use_bias: bool = False,
        output_scale: str | None = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        preferred_element_type: Dtype | None = None,
        conv_general_dilated: Callable[..., jax.Array] = lax.conv_general_dilated,
        kernel_init: Initializer | None = None,
        bias_init: Initializer = _zeros,
        rngs: nnx.Rngs,
    ):
        rank = len(kernel_size) if isinstance(kernel_size, Sequence) else 1
        self.kernel_size = layer_arguments.per_axis("kernel_size", kernel_size, rank)
        self.strides = layer_arguments.per_axis("strides", strides, rank)
        self.padding = layer_arguments.canonical_padding(padding, rank)
        self.pad_value = layer_arguments.canonical_pad_value(pad_value, padding)
        self.kernel_dilation = layer_arguments.per_axis(
            "kernel_dilation", kernel_dilation, rank
        )
        self.feature_group_count = feature_group_count
        self.conv_general_dilated = conv_general_dilated
        super().__init__(
            in_features,
            out_features,
            self.kernel_size,
            feature_group_count,
            input_quantizer=input_quantizer,
            kernel_quantizer=kernel_quantizer,
            use_bias=use_bias,
            output_scale=output_scale,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            preferred_element_type=preferred_element_type,
            kernel_init=kernel_init,
            bias_init=bias_init,
            rngs=rngs,
        )

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Convolves ``(*batch, *spatial, in_features)`` over the spatial axes."""
        rank = len(self.kernel_size)
        if inputs.ndim <= rank:
            raise ValueError(
                f"`inputs` must have {rank} spatial axes and one of features, "
                f"got {inputs.shape=}."
            )
        x, kernel, bias = self._operands(inputs)
        # The convolution takes exactly one batch axis.
        batch = x.shape[: -rank - 1]
        x = jnp.reshape(x, (math.prod(batch), *x.shape[len(batch) :]))
        x, pads = self._pad(x)
        axes = string.ascii_lowercase[:rank]
        product = functools.partial(
            self.conv_general_dilated,
            window_strides=self.strides,
            padding=pads,
            rhs_dilation=self.kernel_dilation,
            dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
            feature_group_count=self.feature_group_count,
        )
        geometry = bits.Geometry(self.strides, tuple(pads), self.kernel_dilation)
        y = self._multiply(product, x, kernel, geometry)
        return jnp.reshape(self._scale_and_shift(y, bias), (*batch, *y.shape[1:]))

    @property
    def is_packable(self) -> bool:
        """Whether a kernel of signs can be packed: in one group, convolved by JAX."""
        is_plain = self.conv_general_dilated is lax.conv_general_dilated
        return is_plain and self.feature_group_count == 1

    def _pad(self, x: jax.Array) -> tuple[jax.Array, layer_arguments.Pads]:
        """Pads `x` where needed; returns the zeros left to the convolution, too.

        Unlike in `nnx.Conv`, which pads the raw inputs for "CAUSAL", all pads come
        after the quantizer: it would turn zeros into signs.
        """
        pads = self._pads(x.shape[1:-1])
        widths = [(0, 0), *pads, (0, 0)]
        if self.padding in layer_arguments.PAD_MODES:
            x = jnp.pad(x, widths, layer_arguments.PAD_MODES[self.padding])
        # "CAUSAL" of real inputs is here for its gradient to round as that of
        # `nnx.Conv` does. Among signs, zeros would become bits as if they were signs.
        elif self.pad_value or (
            self.padding == "CAUSAL" and self.input_quantizer is None
        ):
            x = jnp.pad(x, widths, constant_values=self.pad_value)
        else:
            return x, pads
        return x, [(0, 0)] * len(pads)

    def _pads(self, spatial: tuple[int, ...]) -> layer_arguments.Pads:
        if not isinstance(self.padding, str):
            return self.padding
        # How far the dilated kernel reaches beyond its first entry.
        sizes = zip(self.kernel_size, self.kernel_dilation, strict=True)
        reach = [(size - 1) * dilation for size, dilation in sizes]
        if self.padding == "CAUSAL":
            return [(reach[0], 0)]
        if self.padding in layer_arguments.PAD_MODES:
            return [(r // 2, (r + 1) // 2) for r in reach]
        window = [r + 1 for r in reach]
        return lax.padtype_to_pads(spatial, window, self.strides, self.padding)
