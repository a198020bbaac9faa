"""The convolution."""

import functools
import math
import string
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer, PrecisionLike
from jax import lax

from sgdat_jax import bits, signs
from sgdat_jax.layers import arguments, base, params


class BinaryConv(base.BinaryLayer):
    """A convolution whose inputs and weights pass through a sign function.

    The convolution of as many spatial axes as `kernel_size` has entries, channels last:
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
        padding: arguments.Padding = "SAME",
        pad_value: float = 0.0,
        kernel_dilation: int | Sequence[int] = 1,
        feature_group_count: int = 1,
        input_quantizer: params.Quantizer | None = signs.ste_sign,
        kernel_quantizer: params.Quantizer | None = params.kernel_sign,
        use_bias: bool = False,
        output_scale: str | None = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        preferred_element_type: Dtype | None = None,
        conv_general_dilated: Callable[..., jax.Array] = lax.conv_general_dilated,
        kernel_init: Initializer | None = None,
        bias_init: Initializer = base.zeros,
        rngs: nnx.Rngs,
    ):
        rank = len(kernel_size) if isinstance(kernel_size, Sequence) else 1
        self.kernel_size = arguments.per_axis("kernel_size", kernel_size, rank)
        self.strides = arguments.per_axis("strides", strides, rank)
        self.padding = arguments.canonical_padding(padding, rank)
        self.pad_value = arguments.canonical_pad_value(pad_value, padding)
        self.kernel_dilation = arguments.per_axis(
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

    def _pad(self, x: jax.Array) -> tuple[jax.Array, arguments.Pads]:
        """Pads `x` where needed; returns the zeros left to the convolution, too.

        Unlike in `nnx.Conv`, which pads the raw inputs for "CAUSAL", all pads come
        after the quantizer: it would turn zeros into signs.
        """
        pads = self._pads(x.shape[1:-1])
        widths = [(0, 0), *pads, (0, 0)]
        if self.padding in arguments.PAD_MODES:
            x = jnp.pad(x, widths, arguments.PAD_MODES[self.padding])
        # "CAUSAL" of real inputs is here for its gradient to round as that of
        # `nnx.Conv` does. Among signs, zeros would become bits as if they were signs.
        elif self.pad_value or (
            self.padding == "CAUSAL" and self.input_quantizer is None
        ):
            x = jnp.pad(x, widths, constant_values=self.pad_value)
        else:
            return x, pads
        return x, [(0, 0)] * len(pads)

    def _pads(self, spatial: tuple[int, ...]) -> arguments.Pads:
        if not isinstance(self.padding, str):
            return self.padding
        # How far the dilated kernel reaches beyond its first entry.
        sizes = zip(self.kernel_size, self.kernel_dilation, strict=True)
        reach = [(size - 1) * dilation for size, dilation in sizes]
        if self.padding == "CAUSAL":
            return [(reach[0], 0)]
        if self.padding in arguments.PAD_MODES:
            return [(r // 2, (r + 1) // 2) for r in reach]
        window = [r + 1 for r in reach]
        return lax.padtype_to_pads(spatial, window, self.strides, self.padding)
