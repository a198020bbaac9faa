"""A network and a data set of your own, trained by the same program as the command.

The two last lines add them to the command's tables: with this file as a plug-in,
``sgdat-jax train --plugin ./own_network.py --model TwoLayers --dataset corners`` works.
"""

import jax
import numpy as np
import optax
from flax import nnx

import sgdat_jax as sj
from sgdat_jax import training
from sgdat_jax.data.dataset import Dataset
from sgdat_jax.experiments import DATASETS, NETWORKS


class TwoLayers(nnx.Module):
    """Images to logits, through one binary layer."""

    def __init__(self, num_classes, *, input_shape, rngs):
        features = int(np.prod(input_shape))
        self.first = nnx.Linear(features, 32, rngs=rngs)
        self.norm = nnx.BatchNorm(32, rngs=rngs)
        self.binary = sj.BinaryLinear(32, 64, rngs=rngs)
        self.last = nnx.Linear(64, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = self.first(images.reshape(len(images), -1))
        return self.last(self.binary(self.norm(x)))


def corners(data_dir=None) -> Dataset:
    """Noisy images of three classes, each with another bright corner."""
    rng = np.random.default_rng(0)

    def part(count):
        labels = np.arange(count) % 3
        images = rng.integers(0, 120, (count, 8, 8, 1))
        for label, (row, column) in enumerate(((0, 0), (0, 4), (4, 0))):
            images[labels == label, row : row + 4, column : column + 4] += 120
        return images.astype(np.uint8), labels.astype(np.int32)

    return Dataset("corners", *part(192), *part(96), ("left", "right", "below"))


if __name__ == "__main__":
    data = corners()
    model = TwoLayers(data.num_classes, input_shape=data.input_shape, rngs=nnx.Rngs(0))
    tx = sj.partition_binary(model, binary=sj.sgdat(), real=optax.adam(1e-2))
    fitted = training.fit(model, tx, data, epochs=3, batch_size=32)
    for line in fitted.lines:
        print(line["epoch"], f"{line['test_accuracy']:.1%}")
    assert fitted.result["best_test_accuracy"] > 0.9

NETWORKS["TwoLayers"] = TwoLayers
DATASETS["corners"] = corners
