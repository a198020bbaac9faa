"""The linear layer."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer, PrecisionLike
from jax import lax

from sgdat_jax import bits, signs
from sgdat_jax.layers import base, params


class BinaryLinear(base.BinaryLayer):
    """A linear layer whose inputs and weights pass through a sign function.

    .. math::
        y = \\alpha \\, q_x(x) \\, q_w(W) + b

    with :math:`q_x` = `input_quantizer`, :math:`q_w` = `kernel_quantizer` and
    :math:`\\alpha = 1` unless `output_scale` says otherwise. Inputs have shape
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
        input_quantizer: params.Quantizer | None = signs.ste_sign,
        kernel_quantizer: params.Quantizer | None = params.kernel_sign,
        use_bias: bool = False,
        output_scale: str | None = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        preferred_element_type: Dtype | None = None,
        kernel_init: Initializer | None = None,
        bias_init: Initializer = base.zeros,
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
