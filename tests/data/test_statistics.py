"""Mean and deviation of each channel."""

import numpy as np

from sgdat_jax.data import dataset


def test_statistics_are_of_each_channel():
    rng = np.random.default_rng(0)
    highest = np.array([3, 100, 256])  # another spread for each channel
    images = rng.integers(0, highest, (50, 4, 6, 3)).astype(np.uint8)
    mean, std = dataset.channel_statistics(images)
    scaled = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std((0, 1, 2)), rtol=1e-12)


def test_statistics_of_many_images_are_summed_in_parts(monkeypatch):
    images = np.random.default_rng(1).integers(0, 256, (50, 4, 6, 2)).astype(np.uint8)
    whole = dataset.channel_statistics(images)
    monkeypatch.setattr(dataset, "_PIXELS_AT_ONCE", 7 * 48)
    assert dataset.channel_statistics(images) == whole
