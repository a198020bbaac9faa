"""A small binary convolutional network, for scikit-learn's 8x8 digits."""

from typing import ClassVar, Unpack

import jax
from flax import nnx

from sgdat_jax.models import blocks, pooling


class DigitsNet(nnx.Module):
    """A small binary convolutional network: 241,664 binary weights at 8x8.

    BinaryNet in miniature: a real-valued 3x3 convolution of 64 channels; binary 3x3
    convolutions of 64 and 128 channels, each with max-pooling; a binary dense layer of
    256; a real-valued dense layer and a normalization without scale and offset. Batch
    normalization stands before every sign.

    Args:
      num_classes: number of logits.
      input_shape: height, width and channels of an image; height and width at least
        4. Pooling leaves out a last odd row or column.
      width, full_precision, pad_value, dtype: see `BinaryNet`.
      input_quantizer, kernel_quantizer: see `BinaryNet`.
      unbiased_variance: see `BinaryNet`.
      rngs: source of the initial weights, the stream ``params``.

    Raises:
      TypeError: see `BinaryNet`.
      ValueError: see `BinaryNet`.

    Example:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> import sgdat_jax as sj
      >>> build = nnx.jit(sj.models.DigitsNet)  # one program, not many for each layer
      >>> model = build(rngs=nnx.Rngs(0))
      >>> nnx.jit(lambda model, x: model(x))(model, jnp.zeros((2, 8, 8, 1))).shape
      (2, 10)

    References:
      Courbariaux et al., Binarized neural networks, 2016,
      https://arxiv.org/abs/1602.02830
    """

    # Binary layers, and normalizations whose sign alone the next layer takes:
    # what `inference.fold` makes thresholds of.
    sign_chain: ClassVar = ("conv2", "norm2", "conv3", "norm3", "dense4")

    def __init__(
        self,
        num_classes: int = 10,
        *,
        input_shape: tuple[int, int, int] = (8, 8, 1),
        **options: Unpack[blocks.Options],
    ):
        blocks.check_sizes(num_classes, input_shape, 4)
        build = blocks.Builder(**options)
        c1, c2, hidden = map(build.channels, (64, 128, 256))
        flat = input_shape[0] // 4 * (input_shape[1] // 4) * c2
        self.conv1 = build.real_conv(input_shape[2], c1, use_bias=True)
        self.norm1 = build.batch_norm(c1)
        self.conv2 = build.conv("conv2", c1, c1)
        self.norm2 = build.batch_norm(c1)
        self.conv3 = build.conv("conv3", c1, c2)
        self.norm3 = build.batch_norm(c2)
        self.dense4 = build.dense("dense4", flat, hidden)
        self.norm4 = build.batch_norm(hidden)
        self.dense5 = build.head(hidden, num_classes)
        self.norm5 = build.batch_norm(num_classes, affine=False)
        self.choices = build.choices()

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits ``(batch, classes)`` of images ``(batch, h, w, channels)``."""
        activate, max_pool = blocks.activate, pooling.max_pool
        x = self.norm1(self.conv1(images))
        x = self.norm2(max_pool(activate(self.conv2, x)))
        x = self.norm3(max_pool(activate(self.conv3, x)))
        x = self.norm4(activate(self.dense4, blocks.flatten(x)))
        return self.norm5(activate(self.dense5, x))
