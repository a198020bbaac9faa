"""Flip, resized crop and their composition."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sgdat_jax.data import augment, sources

pytestmark = pytest.mark.usefixtures("compiled_quickly")

_COUNT = 4_000
_RATIO = (3 / 4, 4 / 3)
_boxes = jax.jit(augment._random_boxes, static_argnums=(1, 2, 3, 4))
_crop = jax.jit(augment.random_resized_crop, static_argnums=2)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (400, 6, 5, 3), np.uint8)


def test_flip_mirrors_half_of_the_images(images):
    got = np.asarray(
        jax.jit(augment.random_flip)(jax.random.key(0), jnp.asarray(images))
    )
    assert got.dtype == np.uint8
    kept = (got == images).all((1, 2, 3))
    mirrored = (got == images[:, :, ::-1]).all((1, 2, 3))
    assert (kept ^ mirrored).all()
    assert abs(mirrored.sum() - 200) < 50  # five standard deviations


def _torchvision_box(rng, height, width, scale, ratio):
    """Transcription of ``RandomResizedCrop.get_params``."""
    area = height * width
    log_ratio = np.log(ratio)
    for _ in range(10):
        target_area = area * rng.uniform(*scale)
        aspect_ratio = math.exp(rng.uniform(*log_ratio))
        w = round(math.sqrt(target_area * aspect_ratio))
        h = round(math.sqrt(target_area / aspect_ratio))
        if 0 < w <= width and 0 < h <= height:
            i = rng.integers(0, height - h + 1)
            j = rng.integers(0, width - w + 1)
            return i, j, h, w
    in_ratio = width / height
    if in_ratio < min(ratio):
        w = width
        h = round(w / min(ratio))
    elif in_ratio > max(ratio):
        h = height
        w = round(h * max(ratio))
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
    ("shape", "scale"),
    [
        ((64, 64), (0.08, 1.0)),
        ((9, 40), (0.3, 1.0)),  # of which a third falls back
        pytest.param((41, 8), (0.3, 1.0), marks=pytest.mark.slow),
        pytest.param((7, 7), (0.999, 1.0), marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_parts_are_distributed_as_in_torchvision(shape, scale):
    boxes = np.asarray(_boxes(jax.random.key(1), _COUNT, shape, scale, _RATIO))
    assert (boxes == np.rint(boxes)).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] >= 1).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= shape).all()
    rng = np.random.default_rng(0)
    expected = np.array(
        [_torchvision_box(rng, *shape, scale, _RATIO) for _ in range(_COUNT)]
    )
    weights = np.array([1, 100, 7, 31])  # so that how sides go together counts as well
    for got, want in ((boxes, expected), (boxes @ weights, expected @ weights)):
        got, want = got.reshape(_COUNT, -1), want.reshape(_COUNT, -1)
        for a, b in zip(got.T, want.T, strict=True):
            values = np.union1d(a, b)
            difference = np.searchsorted(np.sort(a), values, "right") - np.searchsorted(
                np.sort(b), values, "right"
            )
            # Kolmogorov and Smirnov: chance exceeds it once in a million.
            assert np.abs(difference).max() / _COUNT < 0.06


@pytest.mark.parametrize(
    ("shape", "scale", "box"),
    [
        # Of the ten tries none fits: the middle, as near to the ratios as can be.
        ((4, 400), (0.5, 1.0), (0, 197, 4, 5)),
        ((400, 4), (0.5, 1.0), (197, 0, 5, 4)),
        ((7, 7), (4.0, 5.0), (0, 0, 7, 7)),
    ],
)
def test_where_no_part_fits_it_is_the_middle(shape, scale, box):
    boxes = _boxes(jax.random.key(0), 3, shape, scale, _RATIO)
    np.testing.assert_array_equal(boxes, 3 * [box])
    assert _torchvision_box(np.random.default_rng(0), *shape, scale, _RATIO) == box


def _resized(image, box, size):
    """Bilinear resizing of a part, pixel by pixel in float64."""
    top, left, height, width = map(int, box)
    part = image[top : top + height, left : left + width].astype(np.float64)
    for axis in (0, 1):
        part = np.moveaxis(part, axis, 0)
        step = len(part) / size[axis]
        support = max(step, 1)
        rows = []
        for new in range(size[axis]):
            centre = (new + 0.5) * step
            total, weight_sum = 0, 0
            for old in range(len(part)):
                weight = max(0, 1 - abs(old + 0.5 - centre) / support)
                total, weight_sum = total + weight * part[old], weight_sum + weight
            rows.append(total / weight_sum)
        part = np.moveaxis(np.array(rows), 0, axis)
    return part


@pytest.mark.slow
def test_resized_crop_is_that_of_its_box(images):
    images, key, size = images[:20], jax.random.key(2), (3, 9)
    boxes = _boxes(key, 20, (6, 5), (0.08, 1.0), _RATIO)
    exact = np.asarray(_crop(key, jnp.asarray(images, jnp.float32), size))
    rounded = np.asarray(_crop(key, jnp.asarray(images), size))
    assert (exact.dtype, rounded.dtype) == (np.float32, np.uint8)
    assert exact.shape == rounded.shape == (20, *size, 3)
    np.testing.assert_array_equal(rounded, np.rint(exact))
    for image, box, got in zip(images, np.asarray(boxes), exact, strict=True):
        np.testing.assert_allclose(got, _resized(image, box, size), atol=1e-3)


def test_resized_crop_is_that_of_pillow(images):
    images, key, size = images[:20], jax.random.key(3), (3, 9)
    boxes = _boxes(key, 20, (6, 5), (0.08, 1.0), _RATIO)
    got = _crop(key, jnp.asarray(images), size)
    exact = _crop(key, jnp.asarray(images, jnp.float32), size)
    assert (got.dtype, exact.dtype) == (np.uint8, np.float32)
    np.testing.assert_array_equal(got, np.rint(exact))
    for image, box, mine in zip(images, np.asarray(boxes, int), got, strict=True):
        top, left, height, width = box.tolist()
        part = Image.fromarray(image).crop((left, top, left + width, top + height))
        theirs = np.asarray(part.resize(size[::-1], Image.Resampling.BILINEAR), int)
        # Pillow rounds between the two directions as well.
        assert np.abs(np.asarray(mine, int) - theirs).max() <= 1


def test_augmentation_is_reproducible_by_key(images):
    recipe = augment.Augmentation(2, True, True)
    apply = jax.jit(augment.augment, static_argnums=2)
    batch = jnp.asarray(images)
    first, again, other = (
        np.asarray(apply(jax.random.key(seed), batch, recipe)) for seed in (0, 0, 1)
    )
    assert (first.shape, first.dtype) == (images.shape, np.uint8)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_crop_alone_takes_the_key_as_it_is(images):
    key, batch = jax.random.key(0), jnp.asarray(images)
    got = augment.augment(key, batch, augment.Augmentation(crop_padding=1))
    np.testing.assert_array_equal(got, augment.random_crop(key, batch, 1))


def test_nothing_is_the_identity(images):
    batch = jnp.asarray(images)
    assert augment.augment(jax.random.key(0), batch, augment.Augmentation()) is batch


def test_flip_does_not_depend_on_the_shift():
    images = jnp.zeros((4000, 3, 3, 1), jnp.uint8).at[:, 1, 1].set(255)
    marked = images.at[:, 1, 0].set(100)  # to the left of the middle
    recipe = augment.Augmentation(crop_padding=1, flip=True)
    got = np.asarray(augment.augment(jax.random.key(0), marked, recipe))[..., 0]
    whole = [(g == 255).any() and (g == 100).any() for g in got]
    got = got[np.array(whole)]
    rows = (got == 255).any(2).argmax(1)
    flipped = (got == 100).any(1).argmax(1) > (got == 255).any(1).argmax(1)
    for row in range(3):
        share = flipped[rows == row].mean()
        assert abs(share - 0.5) < 5 * 0.5 / math.sqrt((rows == row).sum())


def test_digits_are_augmented_as_before():
    images = jnp.asarray(sources.digits().train_images[:64])
    recipe = augment.Augmentation(crop_padding=1)
    got = np.asarray(augment.augment(jax.random.key(0), images, recipe))
    offsets = jax.random.randint(jax.random.key(0), (64, 2), 0, 3)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for image, (row, column), mine in zip(
        padded, np.asarray(offsets), got, strict=True
    ):
        np.testing.assert_array_equal(mine, image[row : row + 8, column : column + 8])
