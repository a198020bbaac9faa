"""The linear layer."""

from collections.abc import Callable
from typing import Unpack

import jax
from jax import lax

from sgdat_jax.layers import base, operations


class BinaryLinear(base.BinaryLayer):
    """A linear layer whose inputs and weights pass through a sign function.

    It is `nnx.Linear` of quantized inputs and a quantized kernel, without a bias unless
    asked for; see `BinaryLayer` for the formula. Inputs have shape
    ``(*batch, in_features)``, outputs ``(*batch, out_features)``. Products of signs are
    exact in every float dtype; their sums are exact up to 256 in bfloat16, 2048 in
    float16 and 2**24 in float32: `preferred_element_type` is the dtype of the sums.

    >>> import jax.numpy as jnp
    >>> import sgdat_jax as sj
    >>> from flax import nnx
    >>> layer = sj.BinaryLinear(3, 2, rngs=nnx.Rngs(0))
    >>> layer.kernel[...] = jnp.array([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    >>> layer(jnp.array([0.3, -2.0, 5.0]))
    Array([-1., -1.], dtype=float32)

    Args:
        in_features: Number of input features.
        out_features: Number of output features.
        dot_general: Multiplies, with the arguments of `jax.lax.dot_general`, which is
            the default. Products of a function of your own are not counted as bits.
        **options: `input_quantizer`, `kernel_quantizer`, `use_bias`, `output_scale`,
            `dtype`, `param_dtype`, `precision`, `preferred_element_type`,
            `promote_dtype`, `kernel_init`, `bias_init`, `kernel_metadata`,
            `bias_metadata` and `rngs`, which is required: see `BinaryLayer`.

    Raises:
        TypeError: If a quantizer is not callable, a size not an integer, or an option
            unknown.
        ValueError: If a size is below 1 or `output_scale` unknown; when called, if the
            inputs have another number of features.

    References:
        Courbariaux et al., "Binarized Neural Networks", 2016,
        https://arxiv.org/abs/1602.02830.
        Rastegari et al., "XNOR-Net", 2016, https://arxiv.org/abs/1603.05279: Eq. 6 is
        the `output_scale` of that name. Their scale K of the inputs is left out.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        dot_general: Callable[..., jax.Array] = lax.dot_general,
        **options: Unpack[base.Options],
    ):
        self.dot_general = dot_general
        super().__init__(in_features, out_features, **options)

    @property
    def operation(self) -> operations.Contraction:
        """The contraction of the features."""
        return operations.Contraction(self.dot_general)
