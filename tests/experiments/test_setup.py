"""What a run is set up with."""

import jax
import pytest

import small_sets
from sgdat_jax.data import sources
from sgdat_jax.experiments import configs, setup
from sgdat_jax.training import runs


@pytest.mark.parametrize(
    ("gigabytes", "streamed"),
    [(0.0, True), (91_967e-9, True), (91_969e-9, False), (1.0, False)],
)
def test_images_are_streamed_above_so_many_gigabytes(gigabytes, streamed):
    dataset = sources.digits()
    assert dataset.train_images.nbytes == 91_968
    settings = configs.TrainConfig(stream_above=gigabytes)
    plan = runs.Plan(settings, dataset, None, None, 1, {})
    assert runs.is_streamed(plan) == streamed


@pytest.mark.parametrize("num_classes", [1, 2])
def test_one_class_alone_gets_a_word(num_classes, tmp_path):
    small_sets.arrays(tmp_path, num_classes)
    notes = setup.load(configs.TrainConfig(dataset=f"{tmp_path}/", batch_size=2)).notes
    assert any("one class alone" in note for note in notes) == (num_classes == 1)


@pytest.mark.parametrize(("batch_size", "steps"), [(1437, 1), (719, 1), (718, 2)])
def test_steps_of_an_epoch_are_whole_batches(batch_size, steps):
    settings = configs.TrainConfig(batch_size=batch_size, devices=1)
    assert setup.plan(settings, sources.digits()).steps_per_epoch == steps


def test_a_run_on_a_cpu_takes_one_device_or_as_many_as_are_told():
    there = jax.local_device_count()
    layouts = [
        setup.plan(configs.TrainConfig(devices=count), sources.digits()).task.layout
        for count in (None, 1, there)
    ]
    assert [layout.devices for layout in layouts] == [1, 1, there]
    assert there > 1
    message = f"devices must be at most the {there} there are, got {there + 1}"
    with pytest.raises(ValueError, match=message):
        setup.plan(configs.TrainConfig(devices=there + 1), sources.digits())
