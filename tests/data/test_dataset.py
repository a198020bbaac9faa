import numpy as np
import pytest

from sgdat_jax.data import dataset


@pytest.mark.parametrize("at_once", [1, 3, 7, 20])
def test_statistics_do_not_depend_on_how_many_images_are_summed_at_once(
    at_once, monkeypatch
):
    shape = (7, 4, 5, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    monkeypatch.setattr(dataset, "_PIXELS_AT_ONCE", at_once * images[0].size)
    means, stds = dataset.channel_statistics(images)
    pixels = images.reshape(-1, 3) / 255
    # Float64 against exact integers.
    np.testing.assert_allclose(means, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(stds, pixels.std(0), rtol=1e-12)
