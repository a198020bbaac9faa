"""Augmentation and normalization of images on the device, jitted."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Far from the small numbers that `jax.random` itself derives keys with:
# `fold_in(key, 1)` is the second of the keys that `randint` splits it into.
_FLIP = 0x666C6970
_RESIZED_CROP = 0x63726F70
_TRIES = 10


class Augmentation(NamedTuple):
    """Random changes of training images; by default none.

    It is hashable, so jitted functions take it as a static argument.
    """

    crop_padding: int = 0  # pixels, of `random_crop`
    flip: bool = False  # whether `random_flip`
    resized_crop: bool = False  # whether `random_resized_crop`, to the images' own size


def augment(key: jax.Array, images: jax.Array, augmentation: Augmentation) -> jax.Array:
    """Returns images after the described changes, of the same shape and dtype.

    They are, in this order: resized crop, crop, flip. Each draws from a key of its own,
    so that none changes what the others do; the crop takes ``key`` as it is.

    Args:
      key: random key.
      images: shape (batch, height, width, channels), uint8 or floating point.
      augmentation: which changes, and how strong.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from sgdat_jax.data import augment
      >>> images = jnp.ones((2, 8, 8, 1), jnp.uint8)
      >>> recipe = augment.Augmentation(crop_padding=1, flip=True)
      >>> augment.augment(jax.random.key(0), images, recipe).shape
      (2, 8, 8, 1)
    """
    if augmentation.resized_crop:
        images = random_resized_crop(
            jax.random.fold_in(key, _RESIZED_CROP), images, _sides(images)
        )
    if augmentation.crop_padding:
        images = random_crop(key, images, augmentation.crop_padding)
    if augmentation.flip:
        images = random_flip(jax.random.fold_in(key, _FLIP), images)
    return images


def normalize(
    images: jax.Array, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
    """Returns images centred and scaled, channel by channel.

    Args:
      images: shape (batch, height, width, channels), uint8.
      mean: one number per channel, of images scaled to [0, 1].
      std: one number per channel, above 0.

    Returns:
      float32 of the same shape: ``(images / 255 - mean) / std``.

    Example:
      >>> import jax.numpy as jnp
      >>> from sgdat_jax.data import augment
      >>> images = jnp.full((1, 1, 2, 1), 255, jnp.uint8)
      >>> print(augment.normalize(images, mean=[0.5], std=[0.25]).ravel())
      [2. 2.]
    """
    scaled = images.astype(jnp.float32) / 255
    return (scaled - _per_channel(mean)) / _per_channel(std)


def _per_channel(values: Sequence[float]) -> jax.Array:
    return jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1)


def random_crop(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Returns images shifted at random, each by up to ``padding`` pixels either way.

    The images are padded with zeros and cropped to their old size, each at a place of
    its own, uniformly.

    Args:
      key: random key.
      images: shape (batch, height, width, channels), any dtype.
      padding: pixels on each side, at least 0.

    Returns:
      Same shape and dtype.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from sgdat_jax.data import augment
      >>> images = jnp.ones((2, 8, 8, 1), jnp.uint8)
      >>> augment.random_crop(jax.random.key(0), images, padding=1).shape
      (2, 8, 8, 1)
    """
    sides = (padding, padding)
    padded = jnp.pad(images, ((0, 0), sides, sides, (0, 0)))
    offsets = jax.random.randint(key, (len(images), 2), 0, 2 * padding + 1)

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (*offset, 0), images.shape[1:])

    return jax.vmap(crop)(padded, offsets)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability 1/2.

    Args:
      key: random key.
      images: shape (batch, height, width, channels), any dtype.

    Returns:
      Same shape and dtype.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from sgdat_jax.data import augment
      >>> images = jnp.tile(jnp.array([0, 255], jnp.uint8), 4).reshape(4, 1, 2, 1)
      >>> print(augment.random_flip(jax.random.key(0), images)[:, 0, 0, 0])
      [  0   0 255 255]
    """
    flipped = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def random_resized_crop(
    key: jax.Array,
    images: jax.Array,
    size: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
    """Returns a random part of each image, resized.

    A part has a share of the area drawn uniformly from ``scale`` and a width to height
    drawn from ``ratio``, uniformly in its logarithm; if it does not fit into the image,
    both are drawn anew, up to ten times, and then the largest part in the middle that
    ``ratio`` allows is taken. Resizing is bilinear, of the part alone, and averages
    where it shrinks.

    Args:
      key: random key.
      images: shape (batch, height, width, channels), uint8 or floating point.
      size: height and width of what is returned, in pixels.
      scale: least and greatest share of the area, in (0, 1].
      ratio: least and greatest width to height, above 0.

    Returns:
      shape (batch, *size, channels) of the same dtype; uint8 is rounded, once.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from sgdat_jax.data import augment
      >>> images = jnp.full((2, 8, 8, 1), 7, jnp.uint8)
      >>> crop = jax.jit(augment.random_resized_crop, static_argnums=2)
      >>> crops = crop(jax.random.key(0), images, (4, 4))
      >>> crops.shape, int(crops.min()), int(crops.max())
      ((2, 4, 4, 1), 7, 7)

    References:
      Szegedy et al., Going deeper with convolutions, CVPR 2015, section 6,
      https://arxiv.org/abs/1409.4842; tries and rounding as in torchvision's
      ``RandomResizedCrop``
    """
    boxes = _random_boxes(key, len(images), _sides(images), scale, ratio)
    resized = images.astype(jnp.float32)
    # Two matrix products per image instead of a gather per pixel.
    for axis, equation in enumerate(("bop,bphc->bohc", "bop,bhpc->bhoc")):
        weights = _bilinear_weights(
            boxes[:, axis], boxes[:, axis + 2], images.shape[axis + 1], size[axis]
        )
        resized = jnp.einsum(
            equation, weights, resized, precision=jax.lax.Precision.HIGHEST
        )
    if jnp.issubdtype(images.dtype, jnp.integer):
        resized = jnp.rint(resized)
    return resized.astype(images.dtype)


def _sides(images: jax.Array) -> tuple[int, int]:
    height, width = images.shape[1:3]
    return height, width


def _random_boxes(
    key: jax.Array,
    count: int,
    shape: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> jax.Array:
    """Returns top, left, height and width of parts, in pixels: shape (count, 4)."""
    keys = jax.random.split(key, 3)
    image = jnp.array(shape, jnp.float32)
    area = image.prod() * jax.random.uniform(
        keys[0], (count, _TRIES), minval=scale[0], maxval=scale[1]
    )
    bounds = jnp.log(jnp.array(ratio))
    aspect = jnp.exp(
        jax.random.uniform(keys[1], (count, _TRIES), minval=bounds[0], maxval=bounds[1])
    )
    sides = jnp.rint(jnp.sqrt(jnp.stack([area / aspect, area * aspect], -1)))
    fits = ((sides > 0) & (sides <= image.reshape(1, 1, 2))).all(-1)
    first = jnp.argmax(fits, axis=1).reshape(-1, 1, 1)
    drawn = jnp.take_along_axis(sides, first, axis=1)[:, 0]
    found = fits.any(1)[:, jnp.newaxis]
    sides = jnp.where(found, drawn, jnp.array([_largest(shape, ratio)], jnp.float32))
    room = image.reshape(1, 2) - sides
    places = jnp.floor(jax.random.uniform(keys[2], (count, 2)) * (room + 1))
    # A product that rounds up must not leave the image.
    corner = jnp.where(found, jnp.minimum(places, room), jnp.floor(room / 2))
    return jnp.concatenate([corner, sides], axis=1)


def _largest(shape: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int]:
    """Returns height and width of the largest part of an image of such a ratio."""
    height, width = shape
    if width < ratio[0] * height:
        return round(width / ratio[0]), width
    if width > ratio[1] * height:
        return height, round(height * ratio[1])
    return height, width


def _bilinear_weights(
    start: jax.Array, length: jax.Array, pixels: int, size: int
) -> jax.Array:
    """Returns the weights of a row's pixels in those of its part, resized.

    A triangle around each new pixel's centre, as wide as two pixels, old or new,
    whichever are larger; cut off at the ends of the part and scaled to sum 1.

    Args:
      start: first pixel of each part, shape (batch,), float32.
      length: pixels of each part, shape (batch,), float32.
      pixels: of a row.
      size: pixels of the resized part.

    Returns:
      float32 of shape (batch, size, pixels).
    """
    start, length = start.reshape(-1, 1, 1), length.reshape(-1, 1, 1)
    old = jnp.arange(pixels, dtype=jnp.float32).reshape(1, 1, -1)
    new = jnp.arange(size, dtype=jnp.float32).reshape(1, -1, 1)
    step = length / size
    centre = start + (new + 0.5) * step - 0.5
    weights = jnp.maximum(1 - jnp.abs(old - centre) / jnp.maximum(step, 1), 0)
    weights = jnp.where((old >= start) & (old < start + length), weights, 0)
    return weights / weights.sum(-1, keepdims=True)
