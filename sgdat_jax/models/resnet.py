"""Two binary ResNet-18s, of three and of four stages, which share only their name."""

from typing import ClassVar, Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from sgdat_jax.models import blocks, pooling, residual

_LARGE = 100  # pixels; from this height or width on, images get the ImageNet stem


class SgdatResNet18(nnx.Module):
    """The ResNet-18 of the SGDAT paper: 4,326,400 binary weights.

    A network for small images, after the CIFAR networks of He et al.: a real-valued
    3x3 convolution without bias; three stages of two blocks of two binary 3x3
    convolutions, widths 80-160-320; average pooling over 8x8, or over all where the
    map is smaller; a real-valued dense layer and a normalization. The first block of
    the later stages halves the map, and its shortcut is a binary 1x1 convolution.

    It is not the ResNet-18 of most binary-network papers: that is `BiRealResNet18`.

    Its widths are the paper's, and no multiples of the 128 lanes of a TPU, where those
    are free. Compiled for a v5e, weights and optimizer states of 80, 160 and 320
    channels fill up to 128, 256 and 384: 56 MB instead of 43. Activations do not, as
    images lie in the lanes of a batch of a multiple of 128. Its matrix units of
    128 x 128 multiply what is filled up: by their size, 2.56 times the operations in
    the first two stages, 1.44 times in the last. A `width` of 1.6 has 128-256-512.

    Args:
      num_classes: number of logits.
      input_shape: height, width and channels of an image; height and width at least
        4. At 64x64 the pooled map is 2x2.
      width, full_precision, pad_value: see `BinaryNet`.
      dtype: see `BinaryNet`. On TPUs, and there alone, what a block hands on and its
        gradient are rounded to it: sums of products and shortcuts.
      input_quantizer, kernel_quantizer: see `BinaryNet`.
      unbiased_variance: see `BinaryNet`.
      rngs: source of the initial weights, the stream ``params``.

    Raises:
      TypeError: see `BinaryNet`.
      ValueError: see `BinaryNet`.

    Example:
      >>> from flax import nnx
      >>> import sgdat_jax as sj
      >>> model = nnx.eval_shape(
      ...     lambda: sj.models.SgdatResNet18(width=0.1, rngs=nnx.Rngs(0))
      ... )
      >>> model.blocks[2].conv1.kernel.shape, model.blocks[2].shortcut.kernel.shape
      ((3, 3, 8, 16), (1, 1, 8, 16))

    References:
      Shan et al., "SGDAT: an optimization method for binary neural networks", 2023,
      Neurocomputing 555:126431.
      He et al., "Deep residual learning for image recognition", 2015,
      https://arxiv.org/abs/1512.03385, section 4.2.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        input_shape: tuple[int, int, int] = (32, 32, 3),
        **options: Unpack[blocks.Options],
    ):
        blocks.check_sizes(num_classes, input_shape, 4)
        build = blocks.Builder(**options)
        c1, c2, c3 = map(build.channels, (80, 160, 320))
        self.conv1 = build.real_conv(input_shape[2], c1)
        self.norm1 = build.batch_norm(c1)
        self.blocks = nnx.List(
            [
                _SgdatBlock(
                    build,
                    f"blocks/{index}",
                    *shape,
                    strides=2 if index in (2, 4) else 1,
                    last=index == 5,
                )
                for index, shape in enumerate(
                    [(c1, c1), (c1, c1), (c1, c2), (c2, c2), (c2, c3), (c3, c3)]
                )
            ]
        )
        flat = -(-input_shape[0] // 32) * -(-input_shape[1] // 32) * c3
        self.norm2 = build.batch_norm(flat)
        self.dense = build.head(flat, num_classes)
        self.norm3 = build.batch_norm(num_classes)
        self.choices = build.choices()

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits ``(batch, classes)`` of images ``(batch, h, w, channels)``."""
        x = self.norm1(self.conv1(images))
        for block in self.blocks:
            x = block(x)
        window = (min(8, x.shape[1]), min(8, x.shape[2]))
        x = self.norm2(blocks.flatten(pooling.avg_pool(x, window)))
        return self.norm3(blocks.activate(self.dense, x))


class _SgdatBlock(nnx.Module):
    """Two binary 3x3 convolutions; in and out it goes before the Hardtanh.

    With strides the map is halved and the shortcut has weights. The last block of a
    network leaves its second normalization to the head.
    """

    sign_chain: ClassVar = ("conv1", "norm1", "conv2")  # see `DigitsNet`

    def __init__(
        self,
        build: blocks.Builder,
        name: str,
        in_features: int,
        out_features: int,
        *,
        strides: int,
        last: bool,
    ):
        self.conv1 = build.conv(
            f"{name}/conv1", in_features, out_features, strides=strides
        )
        self.norm1 = build.batch_norm(out_features)
        self.conv2 = build.conv(f"{name}/conv2", out_features, out_features)
        self.norm2 = None if last else build.batch_norm(out_features)
        self.shortcut = None
        if strides > 1:
            shortcut = build.conv(
                f"{name}/shortcut", in_features, out_features, 1, strides
            )
            self.shortcut = nnx.data(shortcut)
            self.shortcut_norm = build.batch_norm(out_features)
        self.dtype = build.dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm1(blocks.activate(self.conv1, x))
        y = blocks.activate(self.conv2, y)
        if self.shortcut is None:
            y += nnx.hard_tanh(x)
        else:
            y += self.shortcut_norm(blocks.activate(self.shortcut, x))
        y = residual.hand_on(y, self.dtype)
        return y if self.norm2 is None else self.norm2(y)


class BiRealResNet18(nnx.Module):
    """ResNet-18 with Bi-Real shortcuts: 10,985,472 binary weights.

    Four stages of four binary 3x3 convolutions, widths 64-128-256-512, each with a
    normalization and a shortcut of its own, between a real-valued convolution and the
    mean over the map with a real-valued dense layer. Images below 100 pixels enter by
    a 3x3 convolution; larger ones by a 7x7 convolution of stride 2, max-pooled 3x3 with
    stride 2 after its normalization. The first convolution of the later stages halves
    the map, and its shortcut is the mean over 2x2 pixels, a real-valued 1x1
    convolution and a normalization.

    This is what most papers on binary networks call ResNet-18; the one of the SGDAT
    paper is `SgdatResNet18`. Bi-Real Net itself takes `approx_sign` of the inputs and,
    on real-valued weights, `magnitude_aware_sign` of the kernels. Without `rprelu` the
    signs, or with `full_precision` the Hardtanh functions, are the only nonlinearity.

    Args:
      num_classes: number of logits.
      input_shape: height, width and channels of an image; height and width at least
        8.
      rprelu: whether an `RPReLU` stands behind every binary convolution's sum with its
        shortcut, as in ReActNet. Its learned threshold of the signs is left out.
      width, full_precision, pad_value: see `BinaryNet`.
      dtype: see `SgdatResNet18`.
      input_quantizer, kernel_quantizer: see `BinaryNet`.
      unbiased_variance: see `BinaryNet`.
      rngs: source of the initial weights, the stream ``params``.

    Raises:
      TypeError: see `BinaryNet`.
      ValueError: see `BinaryNet`.

    Example:
      >>> from flax import nnx
      >>> import sgdat_jax as sj
      >>> model = nnx.eval_shape(
      ...     lambda: sj.models.BiRealResNet18(rprelu=True, rngs=nnx.Rngs(0))
      ... )
      >>> model.conv1.kernel.shape, model.blocks[15].conv.kernel.shape
      ((3, 3, 3, 64), (3, 3, 512, 512))

    References:
      Liu et al., "Bi-Real Net: Enhancing the Performance of 1-bit CNNs ...", 2018,
      https://arxiv.org/abs/1808.00278.
      Liu et al., "ReActNet: Towards Precise Binary Neural Network with Generalized
      Activation Functions", 2020, https://arxiv.org/abs/2003.03488.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        input_shape: tuple[int, int, int] = (32, 32, 3),
        rprelu: bool = False,
        **options: Unpack[blocks.Options],
    ):
        blocks.check_sizes(num_classes, input_shape, 8)
        self.is_large = max(input_shape[:2]) >= _LARGE
        build = blocks.Builder(**options)
        c1, c2, c3, c4 = map(build.channels, (64, 128, 256, 512))
        stem = (7, 2) if self.is_large else (3, 1)
        self.conv1 = build.real_conv(input_shape[2], c1, *stem)
        self.norm1 = build.batch_norm(c1)
        channels = [*[c1] * 5, *[c2] * 4, *[c3] * 4, *[c4] * 4]
        self.blocks = nnx.List(
            [
                _BiRealBlock(
                    build,
                    f"blocks/{index}",
                    channels[index],
                    channels[index + 1],
                    2 if index in (4, 8, 12) else 1,
                    rprelu=rprelu,
                )
                for index in range(16)
            ]
        )
        self.dense = build.head(c4, num_classes)
        self.rprelu = rprelu
        self.choices = build.choices()

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits ``(batch, classes)`` of images ``(batch, h, w, channels)``."""
        x = self.norm1(self.conv1(images))
        if self.is_large:
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x)
        return self.dense(x.mean((1, 2)))


class _BiRealBlock(nnx.Module):
    """A binary 3x3 convolution with its normalization and its shortcut."""

    def __init__(
        self,
        build: blocks.Builder,
        name: str,
        in_features: int,
        out_features: int,
        strides: int,
        *,
        rprelu: bool,
    ):
        self.conv = build.conv(
            f"{name}/conv", in_features, out_features, strides=strides
        )
        self.norm = build.batch_norm(out_features)
        self.shortcut = None
        if strides > 1:
            self.shortcut = nnx.data(build.real_conv(in_features, out_features, 1))
            self.shortcut_norm = build.batch_norm(out_features)
        self.activation = RPReLU(out_features) if rprelu else None
        self.dtype = build.dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm(blocks.activate(self.conv, x))
        if self.shortcut is None:
            y += x
        else:
            x = pooling.avg_pool(x, (2, 2))
            y += self.shortcut_norm(self.shortcut(x))
        y = residual.hand_on(y, self.dtype)
        return y if self.activation is None else self.activation(y)


class RPReLU(nnx.Module):
    """A PReLU between two learned shifts, for each channel.

    .. math::
        f(x) = \\begin{cases}
            x - \\gamma + \\zeta & x > \\gamma \\\\
            \\beta (x - \\gamma) + \\zeta & x \\le \\gamma
        \\end{cases}

    Args:
      features: number of channels, the last axis of the inputs. The parameters
        :math:`\\gamma` = `shift_in`, :math:`\\beta` = `slope` and :math:`\\zeta` =
        `shift_out` have shape ``(features,)`` and start at 0, 0.25 and 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from sgdat_jax.models import resnet
      >>> resnet.RPReLU(2)(jnp.array([[-4.0, 2.0]]))
      Array([[-1.,  2.]], dtype=float32)

    Reference: Liu et al., "ReActNet", 2020, https://arxiv.org/abs/2003.03488.
    """

    def __init__(self, features: int):
        self.shift_in = nnx.Param(jnp.zeros(features))
        self.slope = nnx.Param(jnp.full(features, 0.25))
        self.shift_out = nnx.Param(jnp.zeros(features))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps inputs ``(..., features)`` to outputs of the same shape."""
        axes = range(x.ndim - 1)
        shift_in, slope, shift_out = (
            jnp.expand_dims(parameter[...], axes)
            for parameter in (self.shift_in, self.slope, self.shift_out)
        )
        x -= shift_in
        return jnp.where(x > 0, x, slope * x) + shift_out
