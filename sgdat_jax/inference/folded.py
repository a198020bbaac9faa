"""Binary layers for inference alone: their signs in narrow dtypes or as bits."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import PrecisionLike
from jax import lax

from sgdat_jax import bits, layers
from sgdat_jax.layers import arguments, operations, products


class FoldedLayer(nnx.Module):
    """What `fold` puts in the place of a binary layer whose operands are all signs.

    Products of signs are summed in float32, those of int8 in int32, so sums are exact
    up to 2**24; outputs are float32. A packed kernel has the signs of 32 features in a
    word where products are computed by counting bits (see `bits.pack`), and in all
    other cases the signs of 32 successive weights; then it is unpacked to be multiplied
    with. It has no gradient.

    Args:
      layer: the layer that it is made of.
      kernel: its signs, of any dtype. With a mask they are -1, 0 and +1.
      dtype: of the signs in the product; ``"bits"`` for a packed kernel, and products
        in float32 where bits cannot be counted.
      input_quantizer: the sign of the inputs, in that dtype.

    Example:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> import sgdat_jax as sj
      >>> from sgdat_jax import inference
      >>> layer = sj.BinaryConv(64, 4, (3, 3), rngs=nnx.Rngs(0))
      >>> folded = inference.fold(layer)
      >>> folded.kernel_shape, folded.kernel.shape, folded.kernel.dtype
      ((3, 3, 64, 4), (3, 3, 2, 4), dtype('uint32'))
      >>> x = jnp.linspace(-1.0, 1.0, 8 * 8 * 64).reshape(1, 8, 8, 64)
      >>> bool((folded(x) == layer(x)).all())
      True
    """

    def __init__(
        self,
        layer: layers.BinaryLayer,
        kernel: jax.Array,
        dtype: str,
        input_quantizer: layers.Quantizer,
    ):
        self.in_features = layer.in_features
        self.out_features = layer.out_features
        self.kernel_shape: tuple[int, ...] = layer.kernel_shape
        self.operation: operations.Operation = layer.operation
        self.precision: PrecisionLike = layer.precision
        self.input_quantizer = input_quantizer
        self.has_zeros = not layer.is_packable
        self.is_packed = dtype == "bits" and not self.has_zeros
        if not self.is_packed:
            kernel = kernel.astype("float32" if dtype == "bits" else dtype)
        elif self.operation.counts:
            kernel = bits.pack(kernel, axis=-2)
        else:
            # Along one axis a grouped kernel may have but one entry to a word.
            kernel = bits.pack(kernel.ravel())
        self.kernel = layers.FoldedKernel(kernel)

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Returns the float32 sums for inputs ``(*batch, *spatial, in_features)``."""
        arguments.check_features(inputs, self.in_features)
        x = self.input_quantizer(inputs)
        return self.operation(self._multiply, x, out_sharding)

    def _multiply(
        self,
        product: Callable[..., jax.Array],
        x: jax.Array,
        geometry: bits.Geometry | None,
    ) -> jax.Array:
        product = functools.partial(product, precision=self.precision)
        kernel = self.kernel[...]
        if self.is_packed and geometry is not None:
            return _multiply_packed(product, geometry, x, kernel)
        if self.is_packed:
            kernel = self._unpack(kernel).astype(x.dtype)
        if geometry is None or self.has_zeros:
            return _multiply_plainly(product, x, kernel)
        return lax.platform_dependent(
            x,
            kernel,
            cuda=functools.partial(products.multiply_on_gpu, product, jnp.float32),
            default=functools.partial(_multiply_plainly, product),
        )

    def _unpack(self, words: jax.Array) -> jax.Array:
        if self.operation.counts:  # packed along features, whatever else may count
            return bits.unpack(words, self.kernel_shape[-2], axis=-2)
        size = math.prod(self.kernel_shape)
        return bits.unpack(words, size).reshape(self.kernel_shape)


def _multiply_plainly(
    product: Callable[..., jax.Array], x: jax.Array, kernel: jax.Array
) -> jax.Array:
    if x.dtype == jnp.float32:
        return product(x, kernel)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        return product(x, kernel, preferred_element_type=jnp.float32)
    return lax.platform_dependent(
        x,
        kernel,
        cuda=functools.partial(_multiply_as_floats, product),
        default=functools.partial(_multiply_integers, product),
    )


def _multiply_as_floats(
    product: Callable[..., jax.Array], x: jax.Array, kernel: jax.Array
) -> jax.Array:
    # cuDNN refuses most convolutions of int8. Signs and zeros are exact in any dtype.
    return product(x.astype(jnp.float32), kernel.astype(jnp.float32))


def _multiply_integers(
    product: Callable[..., jax.Array], x: jax.Array, kernel: jax.Array
) -> jax.Array:
    return product(x, kernel, preferred_element_type=jnp.int32).astype(jnp.float32)


def _multiply_packed(
    product: Callable[..., jax.Array],
    geometry: bits.Geometry,
    x: jax.Array,
    kernel: jax.Array,
) -> jax.Array:
    """Returns the product of signs with a packed kernel, in float32.

    A CPU counts bits. Other devices read the kernel as bits as well, but multiply in
    bfloat16 or float16, which is exact, for they have units for that.

    Args:
      product: of floats; takes a ``preferred_element_type``.
      geometry: what it does.
      x: inputs of nothing but -1, +1 and NaN.
      kernel: uint32, see `bits.pack`.
    """
    plain = functools.partial(product, preferred_element_type=jnp.float32)

    def unpacked(
        multiply: Callable[..., jax.Array], x: jax.Array, kernel: jax.Array
    ) -> jax.Array:
        signs = bits.unpack(kernel, x.shape[-1], -2, "bfloat16")
        return multiply(x.astype("bfloat16"), signs)

    elsewhere = functools.partial(unpacked, plain)
    if 0 in x.shape:  # nothing to count
        return elsewhere(x, kernel)
    on_gpu = functools.partial(products.multiply_on_gpu, product, jnp.float32)
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(bits.product, plain, geometry, jnp.float32),
        cuda=functools.partial(unpacked, on_gpu),
        default=elsewhere,
    )
