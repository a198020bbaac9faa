import jax
import jax.numpy as jnp
import numpy as np
import pytest

import shared_runs
import small_sets
from sgdat_jax.data import sources, stream

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def digits():
    return sources.digits()


def _order(seed, epoch, batch_size):
    return stream.epoch_order(seed, epoch, 1437, batch_size)


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_batches_are_those_of_a_set_on_the_device(digits, seed):
    data = jnp.asarray(digits.train_images), jnp.asarray(digits.train_labels)
    for epoch in (0, 3):
        key = jax.random.fold_in(jax.random.key(seed), epoch)
        order = jax.random.permutation(key, 1437)[: 22 * 64].reshape(22, 64)
        got = list(stream.batches(digits, _order(seed, epoch, 64)))
        assert len(got) == 22
        for indices, batch in zip(order, got, strict=True):
            shared_runs.assert_bit_equal(batch, tuple(part[indices] for part in data))


def test_memory_mapped_images_are_streamed(tmp_path):
    made = small_sets.arrays(tmp_path)
    data = sources.load(f"{tmp_path}/")
    order = np.asarray(stream.epoch_order(5, 1, 12, 5))
    got = list(stream.batches(data, order))
    assert len(got) == 2
    for rows, (images, labels) in zip(order, got, strict=True):
        assert isinstance(images, jax.Array)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(images, made["train_images"][rows])
        np.testing.assert_array_equal(labels, made["train_labels"][rows])


def test_batches_are_put_where_they_are_asked_for(digits):
    order = np.asarray(_order(0, 0, 64)[:3])
    got = list(stream.batches(digits, order, put=lambda batch: ("here", batch[1])))
    assert [where for where, _ in got] == 3 * ["here"]
    for rows, (_, labels) in zip(order, got, strict=True):
        np.testing.assert_array_equal(labels, digits.train_labels[rows])


def test_a_stream_may_be_left_early(digits):
    order = _order(0, 0, 1)
    epoch = stream.batches(digits, order)
    first = next(epoch)
    epoch.close()
    shared_runs.assert_bit_equal(first, next(stream.batches(digits, order)))
    assert list(stream.batches(digits, order[1437:])) == []


def test_grain_is_not_needed_without_streaming():
    code = (
        "import sys; sys.modules['grain'] = None; "
        "from sgdat_jax.data import sources, stream; "
        "print(stream.epoch_order(0, 0, 10, 4).shape)"
    )
    done = shared_runs.python("-c", code)
    assert (done.returncode, done.stdout) == (0, "(2, 4)\n"), done.stderr
