"""Batches in the order of an epoch, also of sets that do not fit on the device."""

import collections
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from sgdat_jax import loggers
from sgdat_jax.data import dataset

_THREADS = 4  # that gather batches on the host
_ON_HOST = 8  # batches gathered ahead
_ON_DEVICE = 2  # batches sent ahead


def epoch_order(seed: int, epoch: int, num_images: int, batch_size: int) -> jax.Array:
    """Returns the image numbers of each step of an epoch, of shape (steps, batch).

    Each image is used at most once; those beyond the last whole batch are left out,
    others in every epoch.

    Args:
      seed: of the run.
      epoch: from 0.
      num_images: to choose from.
      batch_size: images in a step, at most ``num_images``.

    Example:
      >>> from sgdat_jax.data import stream
      >>> stream.epoch_order(seed=0, epoch=0, num_images=10, batch_size=4).shape
      (2, 4)
    """
    return _order(jax.random.key(seed), epoch, num_images, batch_size)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _order(key: jax.Array, epoch: int, num_images: int, batch_size: int) -> jax.Array:
    order = jax.random.permutation(jax.random.fold_in(key, epoch), num_images)
    steps = num_images // batch_size
    return order[: steps * batch_size].reshape(steps, batch_size)


def batches(
    data: dataset.Dataset,
    order: jax.typing.ArrayLike,
    put: Callable[[Any], Any] = jax.device_put,
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Yields training batches, read ahead from memory or disk.

    With an order of `epoch_order` they are those of a set that is on the device, to the
    bit, so a run may go on with or without streaming. Augmentation is left to the
    device.

    Args:
      data: its images may be memory-mapped.
      order: shape (steps, batch): numbers of the images of each step.
      put: brings images and labels to the device or devices.

    Yields:
      Images, uint8 of shape (batch, height, width, channels), and labels, int32 of
      shape (batch,), both on the device.

    Example:
      >>> from sgdat_jax.data import sources, stream
      >>> order = stream.epoch_order(seed=0, epoch=0, num_images=1437, batch_size=500)
      >>> [images.shape for images, labels in stream.batches(sources.digits(), order)]
      [(500, 8, 8, 1), (500, 8, 8, 1)]
    """
    with loggers.kept():
        import grain

    source = _Batches(data.train_images, data.train_labels, np.asarray(order))
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_ON_HOST)
    ahead: collections.deque[tuple[jax.Array, jax.Array]] = collections.deque()
    for batch in grain.MapDataset.source(source).to_iter_dataset(options):
        ahead.append(put(batch))
        if len(ahead) > _ON_DEVICE:
            yield ahead.popleft()
    yield from ahead


class _Batches:
    """Whole batches by their step, as Grain reads them."""

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, order: np.ndarray
    ) -> None:
        self._images = images
        self._labels = labels
        self._order = order  # (steps, batch)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self._order[step]
        return np.asarray(self._images[rows]), self._labels[rows]
