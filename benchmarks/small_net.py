"""A network that compiles at once, as a plug-in: ``--plugin benchmarks.small_net``."""

import math
from typing import Any

import jax
from flax import nnx

from sgdat_jax.experiments import NETWORKS
from sgdat_jax.models import blocks


class TinyNet(nnx.Module):
    """DigitsNet without its convolutions: three dense layers, one of them binary."""

    def __init__(self, num_classes: int, *, input_shape: Any, **options: Any):
        build = blocks.Builder(**options)
        self.dense1 = build.head(math.prod(input_shape), 64)
        self.norm1 = build.batch_norm(64)
        self.dense2 = build.dense("dense2", 64, 128)
        self.norm2 = build.batch_norm(128)
        self.dense3 = build.head(128, num_classes)
        self.norm3 = build.batch_norm(num_classes, affine=False)
        self.choices = build.choices()

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits."""
        x = self.norm1(self.dense1(blocks.flatten(images)))
        x = self.norm2(blocks.activate(self.dense2, x))
        return self.norm3(blocks.activate(self.dense3, x))


NETWORKS.setdefault("TinyNet", TinyNet)
