import dataclasses

import jax
import numpy as np
import pytest

import sgdat_jax as sj
import shared_runs
from sgdat_jax import run_folder
from sgdat_jax.training import runs
from sgdat_jax.training.devices import parallel
from sgdat_jax.training.metrics import records, results

_SUMS = {
    "steps": 4.0,
    "skipped_steps": 1.0,
    "examples": 8.0,
    "loss": 2.0,
    "correct": 4.0,
    "correct_top5": 6.0,
    "flip_ratio": 0.5,
    "flip_ratio_per_layer": {"conv2": 1.0},
}


@pytest.fixture(scope="module")
def run():
    return shared_runs.finished()


def test_flips_per_weight_are_the_mean_of_the_counts(run):
    counts = jax.tree.leaves(sj.flip_counts(run.state.opt_state))
    mean = np.concatenate([np.ravel(leaf) for leaf in counts]).mean(dtype=np.float64)
    found = run_folder.read_result(run.folder)["flips_per_weight"]
    # The share of each step is rounded to float32.
    assert found == pytest.approx(mean, rel=1e-6)


def test_the_best_epoch_is_not_the_last(run):
    lines = [
        {"epoch": epoch, "test_accuracy": accuracy, "flip_ratio": 0.5}
        for epoch, accuracy in ((1, 0.5), (2, 0.75), (3, 0.625))
    ]
    found = results.result_of(run._replace(progress=runs.Progress(tuple(lines))))
    assert (found["test_accuracy"], found["best_test_accuracy"]) == (0.625, 0.75)
    assert (found["best_epoch"], found["skipped_steps"]) == (2, 0)
    assert found["flips_per_weight"] == 1.5 * run.steps_per_epoch


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_results_name_the_number_of_devices(run, devices):
    layout = parallel.lay_out(jax.devices()[:devices])
    found = results.result_of(run._replace(task=run.task._replace(layout=layout)))
    assert found["devices"] == devices


@pytest.mark.parametrize("restart", [False, True])
def test_line_of_an_epoch(run, restart):
    # Nothing has flipped since the last epoch, unless counts started again with it.
    counts = sj.flip_counts(run.state.opt_state)
    run = run._replace(
        config=dataclasses.replace(run.config, reset_flips_every_epoch=restart),
        state=run.state._replace(
            counts_before=sj.select_binary(run.state.params, counts)
        ),
        progress=runs.Progress(epoch_seconds=2.0, record=records.EpochRecord(_SUMS)),
    )
    line, times = results.epoch_lines(run)
    assert (line["epoch"], line["skipped_steps"]) == (1, 1)
    means = [line[f"train_{name}"] for name in ("loss", "accuracy", "top5_accuracy")]
    assert means == [0.25, 0.5, 0.75]
    assert (line["flip_ratio"], line["flip_ratio_per_layer"]) == (
        0.125,
        {"conv2": 0.25},
    )
    assert times == {"epoch": 1, "seconds": 2.0, "images_per_second": 22 * 64 / 2}
    grown = line["epoch_flip_histogram"]
    assert grown == (line["flip_histogram"] if restart else [1.0] + 15 * [0.0])
