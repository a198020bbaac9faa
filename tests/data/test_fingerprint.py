"""Digests of data sets, which the processes of a job compare."""

import hashlib
import time

import numpy as np
import pytest

from sgdat_jax.data import dataset, sources


def test_equal_sets_have_equal_digests(tmp_path):
    digits = sources.digits()
    np.save(tmp_path / "images.npy", digits.train_images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    other = digits._replace(name="other", train_images=mapped)
    assert dataset.fingerprint(digits) == dataset.fingerprint(other)


@pytest.mark.parametrize("field", sources.digits()._fields[1:6])
def test_each_field_counts(field):
    digits = sources.digits()
    value = getattr(digits, field)
    if field == "class_names":
        changed = (*value[:-1], "ten")
    else:
        changed = value.copy()
        changed.flat[-1] ^= 1
    before, after = map(
        dataset.fingerprint, (digits, digits._replace(**{field: changed}))
    )
    assert {name for name in before if before[name] != after[name]} == {field}


def test_shape_and_dtype_count():
    digits = sources.digits()
    seen = {
        dataset.fingerprint(digits._replace(train_images=images))["train_images"]
        for images in (
            digits.train_images,
            digits.train_images.reshape(-1, 64, 1, 1),
            digits.train_images.view(np.int8),
            digits.train_images[::-1],
        )
    }
    assert len(seen) == 4


@pytest.mark.bench
def test_sixty_thousand_images_take_what_their_digest_takes():
    images = np.zeros((60_000, 32, 32, 3), np.uint8)
    labels = np.zeros(60_000, np.int32)
    large = dataset.Dataset("large", images, labels, images[:1], labels[:1], ("a",))
    seconds = []
    for work in (lambda: hashlib.sha256(images), lambda: dataset.fingerprint(large)):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    assert seconds[1] < 3 * seconds[0]
