import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sgdat_jax.data import augment, sources

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_normalize_centres_the_training_set():
    images = sources.digits().train_images
    scaled = images.astype(np.float64) / 255
    mean, std = float(scaled.mean()), float(scaled.std())
    got = jax.jit(augment.normalize)(
        jnp.asarray(images), jnp.array([mean]), jnp.array([std])
    )
    assert got.dtype == jnp.float32
    got = np.asarray(got, np.float64)
    np.testing.assert_allclose(got, (scaled - mean) / std, rtol=1e-5, atol=1e-6)
    assert abs(got.mean()) < 1e-5
    assert abs(got.std() - 1) < 1e-5


def test_normalize_goes_channel_by_channel():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3), np.uint8)
    mean, std = (0.1, 0.5, 0.9), (0.2, 1.0, 3.0)
    got = augment.normalize(jnp.asarray(images), mean, std)
    for channel in range(3):
        expected = (images[..., channel] / 255 - mean[channel]) / std[channel]
        np.testing.assert_allclose(got[..., channel], expected, rtol=1e-5, atol=1e-6)


def _shifts(image, padding):
    """All crops of a zero-padded image, by a route that shares nothing with JAX."""
    height, width = image.shape[:2]
    padded = np.zeros((height + 2 * padding, width + 2 * padding, image.shape[2]))
    padded[padding : padding + height, padding : padding + width] = image
    return {
        padded[row : row + height, column : column + width].tobytes(): (row, column)
        for row in range(2 * padding + 1)
        for column in range(2 * padding + 1)
    }


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("padding", [1, 2])
def test_random_crop_takes_every_shift_and_nothing_else(padding, jit):
    rng = np.random.default_rng(padding)
    images = rng.integers(1, 256, (400, 5, 4, 2), np.uint8)
    crop = (
        jax.jit(augment.random_crop, static_argnums=2) if jit else augment.random_crop
    )
    got = crop(jax.random.key(0), jnp.asarray(images), padding)
    assert got.shape == images.shape
    assert got.dtype == jnp.uint8
    taken = []
    for before, after in zip(images, np.asarray(got, np.float64), strict=True):
        shifts = _shifts(before, padding)
        assert after.tobytes() in shifts
        taken.append(shifts[after.tobytes()])
    counts = np.array([taken.count(shift) for shift in sorted(set(taken))])
    assert len(counts) == (2 * padding + 1) ** 2
    expected = 400 / len(counts)
    # Chi-squared with 8 or 24 degrees of freedom: far beyond what chance does.
    assert ((counts - expected) ** 2 / expected).sum() < 60


def test_random_crop_is_reproducible_by_key():
    images = jnp.asarray(sources.digits().train_images[:64])
    first, again, other = (
        np.asarray(augment.random_crop(jax.random.key(seed), images, 1))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.float32, jnp.bfloat16])
def test_random_crop_without_padding_is_the_identity(dtype):
    images = jnp.asarray(sources.digits().train_images[:8], dtype)
    got = augment.random_crop(jax.random.key(0), images, 0)
    assert got.dtype == dtype
    np.testing.assert_array_equal(np.asarray(got), np.asarray(images))


def test_each_change_draws_from_a_key_of_its_own():
    images = jax.random.bits(jax.random.key(1), (64, 8, 8, 1), jnp.uint8)
    key = jax.random.key(0)
    cropped = augment.augment(key, images, augment.Augmentation(crop_padding=2))
    np.testing.assert_array_equal(cropped, augment.random_crop(key, images, 2))
    both = augment.augment(key, images, augment.Augmentation(crop_padding=2, flip=True))
    flipped = (both != cropped).any((1, 2, 3))
    assert 20 < flipped.sum() < 44
    # These are not the flips that the key of the crop would give.
    alike = augment.random_flip(key, images)
    assert (flipped != (alike != images).any((1, 2, 3))).any()
