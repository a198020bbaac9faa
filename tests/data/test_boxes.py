"""Where the parts of random resized crops lie, and how large they are."""

import jax
import numpy as np
import pytest

from sgdat_jax.data import augment

pytestmark = pytest.mark.usefixtures("compiled_quickly")

COUNT = 2000
_boxes = jax.jit(augment._random_boxes, static_argnums=(1, 2, 3, 4))


def boxes(shape, scale, ratio):
    found = np.asarray(_boxes(jax.random.key(0), COUNT, shape, scale, ratio))
    assert found.shape == (COUNT, 4)
    np.testing.assert_array_equal(found, np.rint(found))
    return found.T  # top, left, height, width


def test_every_place_is_as_likely_as_any_other():
    top, left, height, width = boxes((3, 4), (4 / 12, 4 / 12), (1.0, 1.0))
    assert set(height) == set(width) == {2}
    counts = np.array(
        [[np.sum((top == i) & (left == j)) for j in range(3)] for i in (0, 1)]
    )
    assert counts.sum() == COUNT
    # Five standard deviations.
    share = 1 / 6
    assert np.abs(counts - share * COUNT).max() < 5 * np.sqrt(share * COUNT)


def test_areas_and_ratios_are_drawn_as_told():
    # In so many pixels rounding of the sides hardly counts.
    *_, height, width = boxes((4000, 4000), (0.1, 0.25), (0.5, 2.0))
    share, ratio = height * width / 4000**2, width / height
    for values, low, high in ((share, 0.1, 0.25), (np.log2(ratio), -1.0, 1.0)):
        place = (values - low) / (high - low)
        assert -0.01 < place.min() < 0.01 < 0.99 < place.max() < 1.01
        counts = np.histogram(place, 4, (-0.01, 1.01))[0]
        # Five standard deviations of a quarter, and the one percent at the ends.
        assert np.abs(counts / COUNT - 0.25).max() < 5 * np.sqrt(3 / 16 / COUNT) + 0.01


def test_the_ratio_is_of_width_to_height():
    *_, height, width = boxes((4000, 4000), (0.1, 0.1), (2.0, 3.0))
    ratio = width / height
    assert 1.99 < ratio.min() < 2.05 < 2.95 < ratio.max() < 3.01
