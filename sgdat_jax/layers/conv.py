"""The convolution and the transposed convolution."""

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import jax
from jax import lax

from sgdat_jax import checks
from sgdat_jax.layers import arguments, base, operations


class BinaryConv(base.BinaryLayer):
    """A convolution whose inputs and weights pass through a sign function.

    It is `nnx.Conv` of quantized inputs and a quantized kernel, without a bias unless
    asked for, of as many spatial axes as `kernel_size` has entries, channels last:
    inputs have shape ``(*batch, *spatial, in_features)``, where ``batch`` may have any
    number of axes, none included; the kernel has shape
    ``(*kernel_size, in_features // feature_group_count, out_features)``.

    >>> import jax.numpy as jnp
    >>> import sgdat_jax as sj
    >>> from flax import nnx
    >>> conv = sj.BinaryConv(3, 4, (3, 3), strides=2, pad_value=1, rngs=nnx.Rngs(0))
    >>> conv.kernel.shape
    (3, 3, 3, 4)
    >>> conv(jnp.ones((2, 32, 32, 3))).shape
    (2, 16, 16, 4)

    With as many groups as channels it is a depthwise convolution, and followed by one
    of 1x1 that takes its sums as they are, a separable one (Larq's QuantSeparableConv):

    >>> depthwise = sj.BinaryConv(
    ...     8, 16, (3, 3), feature_group_count=8, rngs=nnx.Rngs(0)
    ... )
    >>> pointwise = sj.BinaryConv(
    ...     16, 32, (1, 1), input_quantizer=None, rngs=nnx.Rngs(1)
    ... )
    >>> depthwise.kernel.shape
    (3, 3, 1, 16)
    >>> nnx.Sequential(depthwise, pointwise)(jnp.ones((2, 9, 9, 8))).shape
    (2, 9, 9, 32)

    Args:
        in_features: Number of input channels.
        out_features: Number of output channels.
        kernel_size: Size along each spatial axis; an integer is a 1-D convolution.
        strides: Step along each spatial axis, or one integer for all; None is 1.
        padding: As in `nnx.Conv`: ``"SAME"``, ``"SAME_LOWER"``, ``"VALID"``,
            ``"CIRCULAR"``, ``"REFLECT"``, ``"CAUSAL"`` (1-D), an integer, or for each
            spatial axis an integer or a ``(low, high)`` pair.
        pad_value: What the pads hold, put around the inputs after `input_quantizer`:
            with 0 they contribute nothing, with +1 or -1 the product stays binary. It
            must be 0 where `padding` takes the pads from the inputs.
        input_dilation: Distance of the inputs along each spatial axis, with zeros put
            between them after `input_quantizer`, or one integer for all; None is 1.
            Beyond 1 it needs a `padding` in numbers, as in `nnx.Conv`, and a
            `pad_value` of 0: between zeros the product is binary no more.
        kernel_dilation: Distance of the kernel's entries along each spatial axis, or
            one integer for all; None is 1.
        feature_group_count: Number of groups that the channels are divided into.
        mask: Array of the kernel's shape that its signs are multiplied with, or None.
        conv_general_dilated: Convolves, with the arguments of
            `jax.lax.conv_general_dilated`, which is the default.
        **options: `input_quantizer`, `kernel_quantizer`, `use_bias`, `output_scale`,
            `dtype`, `param_dtype`, `precision`, `preferred_element_type`,
            `promote_dtype`, `kernel_init`, `bias_init`, `kernel_metadata`,
            `bias_metadata` and `rngs`, which is required: see `BinaryLayer`.

    Raises:
        TypeError: If a quantizer is not callable, a size not an integer, or an option
            unknown.
        ValueError: If a size, stride or dilation is below 1, the groups do not divide
            the channels, the mask has another shape, or `padding`, `pad_value` or
            `output_scale` is unknown; when called, if the inputs have other channels
            or too few axes.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] | None = 1,
        *,
        padding: arguments.Padding = "SAME",
        pad_value: float = 0.0,
        input_dilation: int | Sequence[int] | None = 1,
        kernel_dilation: int | Sequence[int] | None = 1,
        feature_group_count: int = 1,
        mask: Any = None,
        conv_general_dilated: Callable[..., jax.Array] = lax.conv_general_dilated,
        **options: Unpack[base.Options],
    ):
        self.kernel_size, self.strides, self.input_dilation, self.kernel_dilation = (
            arguments.per_axis(
                kernel_size=kernel_size,
                strides=strides,
                input_dilation=input_dilation,
                kernel_dilation=kernel_dilation,
            )
        )
        self.padding = arguments.canonical_padding(padding, len(self.kernel_size))
        self.pad_value = arguments.canonical_pad_value(pad_value, padding)
        if max(self.input_dilation) > 1:
            arguments.check_dilated(self.padding, self.pad_value)
        self.feature_group_count = feature_group_count
        self.conv_general_dilated = conv_general_dilated
        super().__init__(
            in_features,
            out_features,
            self.kernel_size,
            feature_group_count,
            mask=mask,
            **options,
        )

    @property
    def operation(self) -> operations.Convolution:
        """The convolution."""
        return operations.Convolution(
            kernel_size=self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            pad_value=self.pad_value,
            # For the gradient of real inputs to round as that of `nnx.Conv` does. Among
            # signs, zeros would become bits as if they were signs.
            pads_first=self.padding == "CAUSAL" and self.input_quantizer is None,
            input_dilation=self.input_dilation,
            kernel_dilation=self.kernel_dilation,
            feature_group_count=self.feature_group_count,
            conv_general_dilated=self.conv_general_dilated,
        )


class BinaryConvTranspose(base.BinaryLayer):
    """A transposed convolution whose inputs and weights pass through a sign function.

    It is `nnx.ConvTranspose` of quantized inputs and a quantized kernel, without a bias
    unless asked for: inputs ``(*batch, *spatial, in_features)`` become outputs whose
    spatial axes are larger by the strides. The kernel has shape
    ``(*kernel_size, in_features, out_features)``, or with `transpose_kernel`
    ``(*kernel_size, out_features, in_features)``.

    Zeros between the inputs, and around them, contribute nothing to the sums.

    >>> import jax.numpy as jnp
    >>> import sgdat_jax as sj
    >>> from flax import nnx
    >>> layer = sj.BinaryConvTranspose(3, 4, (2, 2), strides=2, rngs=nnx.Rngs(0))
    >>> layer.kernel.shape
    (2, 2, 3, 4)
    >>> layer(jnp.ones((1, 8, 8, 3))).shape
    (1, 16, 16, 4)

    Args:
        in_features: Number of input channels.
        out_features: Number of output channels.
        kernel_size: Size along each spatial axis; an integer is a 1-D convolution.
        strides: Factor of the outputs' size along each spatial axis, or one integer for
            all; None is 1.
        padding: As in `nnx.ConvTranspose`: ``"SAME"``, ``"VALID"``, ``"CIRCULAR"``, an
            integer, or for each spatial axis an integer or a ``(low, high)`` pair,
            which are put around the dilated inputs. Flax names ``"CAUSAL"`` too, but
            `jax.lax.conv_transpose` takes neither it nor ``"REFLECT"``.
        kernel_dilation: Distance of the kernel's entries along each spatial axis, or
            one integer for all; None is 1.
        mask: Array of the kernel's shape that its signs are multiplied with, or None.
        transpose_kernel: Whether to flip the spatial axes of the kernel and swap its
            channels: then the layer is the gradient of the `BinaryConv` whose kernel it
            has.
        **options: As for `BinaryConv`.

    Raises:
        TypeError: If a quantizer is not callable, a size not an integer, or an option
            unknown.
        ValueError: If a size, stride or dilation is below 1, the mask has another
            shape, or `padding` or `output_scale` is unknown; when called, if the inputs
            have other channels or too few axes.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] | None = None,
        *,
        padding: arguments.Padding = "SAME",
        kernel_dilation: int | Sequence[int] | None = None,
        mask: Any = None,
        transpose_kernel: bool = False,
        **options: Unpack[base.Options],
    ):
        self.kernel_size, self.strides, self.kernel_dilation = arguments.per_axis(
            kernel_size=kernel_size, strides=strides, kernel_dilation=kernel_dilation
        )
        if isinstance(padding, str):
            checks.choice("`padding`", padding, ("SAME", "VALID", "CIRCULAR"))
        self.padding = arguments.canonical_padding(padding, len(self.kernel_size))
        super().__init__(
            in_features,
            out_features,
            self.kernel_size,
            mask=mask,
            transpose_kernel=transpose_kernel,
            **options,
        )

    @property
    def operation(self) -> operations.TransposedConvolution:
        """The transposed convolution."""
        return operations.TransposedConvolution(
            kernel_size=self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            transpose_kernel=self.transpose_kernel,
        )
