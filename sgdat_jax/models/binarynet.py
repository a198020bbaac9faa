"""BinaryNet, the VGG-like network of the first binary-network papers."""

from typing import ClassVar, Unpack

import jax
from flax import nnx

from sgdat_jax.models import blocks, pooling


class BinaryNet(nnx.Module):
    """BinaryNet, also called VGG-small: 14,008,320 binary weights at 32x32.

    A real-valued 3x3 convolution with bias; five binary ones, so that the widths are
    128-128-256-256-512-512, with max-pooling after the 2nd, 4th and 6th; two binary
    dense layers of 1024; a real-valued dense layer and a normalization without scale
    and offset. Batch normalization stands after every layer, behind the pooling. At
    64x64 the first dense layer is four times as large: 39,174,144 binary weights.

    The network has a Hardtanh before every sign. It is not computed: the sign of a
    Hardtanh is the sign, and the default `input_quantizer` has its gradient window.

    `choices` is the record of how the network was built, fit for JSON by
    `dataclasses.asdict`; print it with every result.

    Args:
      num_classes: number of logits.
      input_shape: height, width and channels of an image; height and width at least
        8. Pooling leaves out a last odd row or column.
      width: factor of all channels and hidden features, which are rounded to multiples
        of 8 and are at least 8; by default 1.
      full_precision: names of layers, or shell patterns of them, that are real-valued
        instead of binary; ``"*"`` is the same network without binary layers. Names are
        those of `sgdat_jax.summarize`. Such a layer takes the Hardtanh of its input. By
        default there is none.
      pad_value: what binary convolutions pad their quantized inputs with: 0 (default)
        as published, or +1 or -1, with which the product stays binary.
      input_quantizer: function of the inputs of binary layers, `ste_sign` by default;
        None: the Hardtanh alone, for binary weights and real-valued activations.
      kernel_quantizer: function of the kernels of binary layers, `kernel_sign` by
        default, or None. Give both as named functions: another lambda or partial makes
        another compiled program.
      dtype: dtype of the computation; None (default) is that of inputs and
        parameters. With bfloat16, sums of binary products, batch normalization and the
        last layer stay in float32. Parameters are float32 always.
      unbiased_variance: whether the running variances of batch normalization are
        PyTorch's, with divisor n - 1 instead of n for the n numbers of a channel in a
        batch: 12.5 % apart at n = 8, 0.4 % at 256.
      rngs: source of the initial weights, the stream ``params``.

    Raises:
      TypeError: if `full_precision` holds anything but strings, `width` is no number or
        a size no integer.
      ValueError: if a size is below 1, height or width are too small, `width` is not
        above 0, `pad_value` is not 0, 1 or -1, or an entry of `full_precision` fits
        no layer.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> import sgdat_jax as sj
      >>> model = nnx.eval_shape(
      ...     lambda: sj.models.BinaryNet(full_precision="dense*", rngs=nnx.Rngs(0))
      ... )
      >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, sj.BinaryParam)))
      4571136
      >>> model.choices.binary_layers
      ('conv2', 'conv3', 'conv4', 'conv5', 'conv6')

    References:
      Courbariaux et al., Binarized neural networks, 2016,
      https://arxiv.org/abs/1602.02830
    """

    # Binary layers, and normalizations whose sign alone the next layer takes:
    # what `inference.fold` makes thresholds of.
    sign_chain: ClassVar = (
        *("conv2", "norm2", "conv3", "norm3", "conv4", "norm4", "conv5", "norm5"),
        *("conv6", "norm6", "dense7", "norm7", "dense8"),
    )

    def __init__(
        self,
        num_classes: int = 10,
        *,
        input_shape: tuple[int, int, int] = (32, 32, 3),
        **options: Unpack[blocks.Options],
    ):
        blocks.check_sizes(num_classes, input_shape, 8)
        build = blocks.Builder(**options)
        c1, c2, c3, hidden = map(build.channels, (128, 256, 512, 1024))
        flat = input_shape[0] // 8 * (input_shape[1] // 8) * c3
        self.conv1 = build.real_conv(input_shape[2], c1, use_bias=True)
        self.norm1 = build.batch_norm(c1)
        self.conv2 = build.conv("conv2", c1, c1)
        self.norm2 = build.batch_norm(c1)
        self.conv3 = build.conv("conv3", c1, c2)
        self.norm3 = build.batch_norm(c2)
        self.conv4 = build.conv("conv4", c2, c2)
        self.norm4 = build.batch_norm(c2)
        self.conv5 = build.conv("conv5", c2, c3)
        self.norm5 = build.batch_norm(c3)
        self.conv6 = build.conv("conv6", c3, c3)
        self.norm6 = build.batch_norm(c3)
        self.dense7 = build.dense("dense7", flat, hidden)
        self.norm7 = build.batch_norm(hidden)
        self.dense8 = build.dense("dense8", hidden, hidden)
        self.norm8 = build.batch_norm(hidden)
        self.dense9 = build.head(hidden, num_classes)
        self.norm9 = build.batch_norm(num_classes, affine=False)
        self.choices = build.choices()

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits ``(batch, classes)`` of images ``(batch, h, w, channels)``."""
        activate, max_pool = blocks.activate, pooling.max_pool
        x = self.norm1(self.conv1(images))
        x = self.norm2(max_pool(activate(self.conv2, x)))
        x = self.norm3(activate(self.conv3, x))
        x = self.norm4(max_pool(activate(self.conv4, x)))
        x = self.norm5(activate(self.conv5, x))
        x = self.norm6(max_pool(activate(self.conv6, x)))
        x = self.norm7(activate(self.dense7, blocks.flatten(x)))
        x = self.norm8(activate(self.dense8, x))
        return self.norm9(activate(self.dense9, x))
