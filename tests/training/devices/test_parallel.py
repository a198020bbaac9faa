import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import shared_runs
import small_runs
from sgdat_jax.data import augment
from sgdat_jax.experiments import configs, setup
from sgdat_jax.training import checkpoint, loop, steps
from sgdat_jax.training.devices import parallel, splits

pytestmark = pytest.mark.usefixtures("compiled_quickly")

COPIED = parallel.lay_out(jax.devices())
SHARDED = parallel.lay_out(jax.devices(), sharded=True)
ALONE = small_runs.alone()


@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_is_the_same_wherever_the_images_lie(flip):
    images = small_runs.digits().train_images[:64]
    recipe = augment.Augmentation(crop_padding=1, flip=flip)
    change = jax.jit(augment.augment, static_argnums=2)
    ours, theirs = (
        change(jax.random.key(7), where.put_rows(images), recipe)
        for where in (COPIED, ALONE)
    )
    assert not ours.is_fully_replicated
    shared_runs.assert_bit_equal(ours, theirs)
    assert (np.asarray(ours) != images).any()


def test_a_checkpoint_goes_from_a_sharded_run_to_any_other(tmp_path):
    start = small_runs.task_and_init(SHARDED)[1](np.uint32(0))
    with checkpoint.Saver(tmp_path, keep=2) as saver:
        saver.save(checkpoint.Checkpoint(start, {}))
    for layout in (ALONE, COPIED, SHARDED):
        like = layout.shapes(start)
        restored = checkpoint.restore(tmp_path, like).state
        shared_runs.assert_bit_equal(restored, start)
        for leaf, shape in zip(
            jax.tree.leaves(restored), jax.tree.leaves(like), strict=True
        ):
            assert leaf.sharding == shape.sharding


@pytest.mark.parametrize("batch_size", [1, 60, 63, 65])
def test_a_batch_that_does_not_divide_is_refused(batch_size):
    settings = configs.TrainConfig(batch_size=batch_size)
    with pytest.raises(ValueError) as error:
        setup.create(settings, small_runs.digits(), 1, COPIED)
    assert str(error.value) == (
        f"batch_size must be a multiple of the 8 devices, got {batch_size}."
    )
    ALONE.check_batch_size(batch_size)


@pytest.mark.parametrize(
    ("shape", "devices", "parts"),
    [
        ((), 8, ()),
        ((0,), 8, (1,)),
        ((3, 5), 8, (1, 1)),
        ((10,), 8, (2,)),
        ((64,), 8, (8,)),
        ((64, 10), 8, (8, 1)),
        ((64, 12), 16, (16, 1)),
        ((3, 3, 64, 64), 8, (1, 1, 8, 1)),
        ((3, 3, 64, 128), 8, (1, 1, 1, 8)),
        ((3, 3, 64, 128), 256, (1, 1, 2, 128)),
        ((3, 3, 64, 64), 4096, (1, 1, 64, 64)),
        ((3, 3, 512, 512), 4096, (1, 1, 512, 8)),
        ((8192, 1024), 4096, (4096, 1)),
        ((12, 24, 36), 8, (1, 2, 4)),
        ((12, 24, 36), 6, (1, 1, 6)),
    ],
)
def test_parts(shape, devices, parts):
    assert splits.parts(shape, devices) == parts


@pytest.mark.parametrize("devices", [2, 3, 4, 6, 8])
def test_binary_weights_are_gathered_whole_by_any_number_of_devices(devices):
    start = small_runs.task_and_init(ALONE)[1](np.uint32(0))
    for bits in (True, False):
        layout = parallel.lay_out(jax.devices()[:devices], sharded=True, bits=bits)
        lie = layout.shapes(start).params
        placed = jax.tree.map(
            lambda leaf, shape: jax.device_put(leaf, shape.sharding), start.params, lie
        )
        held = [
            leaf.addressable_shards[-1].data.size for leaf in jax.tree.leaves(placed)
        ]
        sizes = [
            leaf.size // math.prod(splits.parts(leaf.shape, devices))
            for leaf in jax.tree.leaves(start.params)
        ]
        assert held == sizes
        send = jax.jit(layout.whole_params)
        lowered = send.lower(placed, start.opt_state)
        packed = re.search(r"u32\[[\d,]*\]\S* all-gather", lowered.compile().as_text())
        assert bool(packed) == (bits and devices != 3)  # which splits no kernel
        sent = send(placed, start.opt_state)
        shared_runs.assert_bit_equal(sent, start.params)
        assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(sent))


def test_devices_lie_in_order_whatever_order_they_are_given_in():
    layout = parallel.lay_out(jax.devices()[::-1])
    assert layout == COPIED
    assert hash(layout) == hash(COPIED)
    assert layout != SHARDED
    assert list(layout.mesh.devices.flat) == jax.devices()
    assert layout.rows(64) == slice(0, 64)
    batch = layout.put_rows(np.arange(64))
    for place, shard in enumerate(batch.addressable_shards):
        np.testing.assert_array_equal(shard.data, np.arange(8) + 8 * place)


def test_a_program_for_one_device_knows_of_no_other():
    task, init = small_runs.task_and_init(ALONE)
    images, labels = small_runs.digits().train_images, small_runs.digits().train_labels
    shapes = jax.eval_shape(init, np.uint32(0))
    lowered = small_runs.train_steps().lower(
        task, shapes, steps.Images.of(images, labels), small_runs.ORDER[:1]
    )
    text = lowered.as_text()
    assert "mhlo.num_partitions = 1 : i32" in text
    assert "sharding" not in text


def test_nothing_changes_on_one_device():
    assert parallel.lay_out(jax.devices()[:1], sharded=True) == ALONE
    assert not ALONE.sharded and ALONE.devices == 1
    assert ALONE.rows(5) == slice(0, 5)
    tree = {"a": jnp.ones(8)}
    for pin in (ALONE.whole, ALONE.settle, ALONE.gather):
        assert pin(tree) is tree
    assert ALONE.whole_params(tree, ()) is tree
    for put in (ALONE.put_rows, ALONE.put_whole):
        placed = put(tree)["a"]
        assert placed.sharding == jnp.ones(8).sharding
        assert not placed.committed  # or the first step would be compiled twice
    # Where a restored state is to lie, wherever it was when it was saved.
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for shapes in (ALONE.shapes, ALONE.row_shapes, ALONE.whole_shapes):
        assert shapes(tree)["a"].sharding == here


def test_one_device_may_be_any():
    last = parallel.lay_out(jax.devices()[-1:])
    assert last.put_whole(np.ones(3)).devices() == set(jax.devices()[-1:])
    assert last != ALONE


@pytest.mark.parametrize("layout", [ALONE, COPIED, SHARDED])
def test_shapes_are_those_of_what_is_put(layout):
    batch = {"images": np.ones((16, 8), np.uint8), "labels": np.ones((8, 8), np.int8)}
    for axis in (0, 1):
        for put, shapes in (
            (layout.put_whole(batch), layout.whole_shapes(batch)),
            (layout.put_rows(batch, axis), layout.row_shapes(batch, axis)),
        ):
            told = jax.tree.map(lambda leaf: leaf.sharding, shapes)
            assert jax.tree.map(lambda leaf: leaf.sharding, put) == told


def test_the_test_set_is_divided_among_all_devices():
    data = small_runs.digits()
    data = data._replace(
        test_images=data.test_images[:357], test_labels=data.test_labels[:357]
    )
    ((batch, weights),) = loop.test_batches(data, COPIED)
    assert len(batch.images) == 360  # the least multiple of eight
    assert float(weights.sum()) == 357
    np.testing.assert_array_equal(batch.images[:357], data.test_images)
    assert {len(shard.data) for shard in batch.images.addressable_shards} == {45}
