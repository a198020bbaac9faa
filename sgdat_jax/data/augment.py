"""What happens to images on the device, jitted."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


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
    channels = (1, 1, 1, -1)
    return (scaled - jnp.asarray(mean).reshape(channels)) / jnp.asarray(std).reshape(
        channels
    )


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
