"""A small binary convolutional network, for scikit-learn's 8x8 digits."""

import jax
from flax import nnx

from sgdat_jax import layers


class DigitsNet(nnx.Module):
    """A small binary convolutional network: 241,664 binary weights at 8x8.

    BinaryNet in miniature: a real-valued 3x3 convolution of 64 channels; binary 3x3
    convolutions of 64 and 128 channels, each with max-pooling; a binary dense layer of
    256; a real-valued dense layer and a normalization without scale and offset. Batch
    normalization stands before every sign. Inputs of binary layers go through
    `ste_sign`, whose gradient window is the Hardtanh that the original has there.

    Args:
      num_classes: number of logits.
      input_shape: height, width and channels of an image; height and width divisible
        by 4.
      rngs: source of the initial weights, the stream ``params``.

    Raises:
      ValueError: if a size is below 1 or height or width are not divisible by 4.

    Example:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> import sgdat_jax as sj
      >>> model = sj.models.DigitsNet(rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 8, 8, 1))).shape
      (2, 10)

    References:
      Courbariaux et al., Binarized neural networks, 2016,
      https://arxiv.org/abs/1602.02830
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        input_shape: tuple[int, int, int] = (8, 8, 1),
        rngs: nnx.Rngs,
    ):
        height, width, channels = input_shape
        if num_classes < 1 or min(input_shape) < 1:
            raise ValueError(
                f"Sizes must be at least 1, got {num_classes=} and {input_shape=}."
            )
        if height % 4 or width % 4:
            raise ValueError(
                "`input_shape` must have a height and width divisible by 4, got "
                f"{input_shape=}."
            )
        flat = height // 4 * (width // 4) * 128
        self.conv1 = nnx.Conv(channels, 64, (3, 3), rngs=rngs)
        self.norm1 = _batch_norm(64, rngs)
        self.conv2 = layers.BinaryConv(64, 64, (3, 3), rngs=rngs)
        self.norm2 = _batch_norm(64, rngs)
        self.conv3 = layers.BinaryConv(64, 128, (3, 3), rngs=rngs)
        self.norm3 = _batch_norm(128, rngs)
        self.dense4 = layers.BinaryLinear(flat, 256, rngs=rngs)
        self.norm4 = _batch_norm(256, rngs)
        self.dense5 = nnx.Linear(256, num_classes, rngs=rngs)
        self.norm5 = _batch_norm(num_classes, rngs, affine=False)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits ``(batch, classes)`` of images ``(batch, h, w, channels)``."""
        x = self.norm1(self.conv1(images))
        x = self.norm2(_max_pool(self.conv2(x)))
        x = self.norm3(_max_pool(self.conv3(x)))
        x = self.norm4(self.dense4(x.reshape(x.shape[0], -1)))
        return self.norm5(self.dense5(nnx.hard_tanh(x)))


def _batch_norm(features: int, rngs: nnx.Rngs, *, affine: bool = True) -> nnx.BatchNorm:
    return nnx.BatchNorm(
        features,
        momentum=0.9,
        epsilon=1e-5,
        use_scale=affine,
        use_bias=affine,
        rngs=rngs,
    )


def _max_pool(x: jax.Array) -> jax.Array:
    return nnx.max_pool(x, (2, 2), strides=(2, 2))
