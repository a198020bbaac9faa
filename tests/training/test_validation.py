"""A part of the training images picks the best epoch, and the test set does not."""

import json

import numpy as np
import optax
import pytest

import sgdat_jax as sj
import shared_runs
import small_runs
from sgdat_jax import inference, report, run_folder, training
from sgdat_jax.data import dataset as dataset_lib
from sgdat_jax.experiments import configs, setup, sweep
from sgdat_jax.models import specs
from sgdat_jax.run_folder import formats
from sgdat_jax.training import loop, runs
from sgdat_jax.training.metrics import results

pytestmark = pytest.mark.usefixtures("compiled_quickly")

_TASK = {"model": "TinyNet", "epochs": 3, "validation_share": 0.2}


def _digits(share):
    return dataset_lib.hold_out(small_runs.digits(), share)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.999])
def test_each_class_is_divided_alike_and_nothing_is_lost(share):
    whole, data = small_runs.digits(), _digits(share)
    counts = np.bincount(whole.train_labels)
    held = np.bincount(data.valid_labels, minlength=10)
    assert np.all(held >= 1) and np.all(np.bincount(data.train_labels) >= 1)
    expected = np.clip(np.round(share * counts), 1, counts - 1)
    np.testing.assert_array_equal(held, expected)
    parts = np.concatenate([data.train_images, data.valid_images])
    rows = [np.sort(a.reshape(len(a), -1).view("V64")[:, 0]) for a in (parts, whole[1])]
    np.testing.assert_array_equal(*rows)
    again = _digits(share)
    np.testing.assert_array_equal(again.valid_images, data.valid_images)
    assert dataset_lib.fingerprint(data) != dataset_lib.fingerprint(whole)


def test_no_share_changes_nothing():
    assert _digits(0.0) is small_runs.digits()


def test_a_class_of_one_image_is_refused():
    images, labels = np.zeros((3, 8, 8, 1), np.uint8), np.array([0, 0, 1], np.int32)
    data = dataset_lib.Dataset("my", images, labels, images, labels, ("a", "b"))
    with pytest.raises(ValueError, match=r"two training images .* class 1 \(b\)"):
        dataset_lib.hold_out(data, 0.5)


def test_a_run_keeps_the_epoch_of_the_validation_part(tmp_path):
    config = configs.TrainConfig(**_TASK, run_dir=str(tmp_path / "run"))
    run, result = loop.train(setup.set_up(config), loop.Watcher())
    lines = run_folder.read_metrics(run.folder)
    valid = [line["valid_accuracy"] for line in lines]
    assert result["selected_by"] == "validation"
    assert result["best_epoch"] == int(np.argmax(valid)) + 1
    best = lines[result["best_epoch"] - 1]
    assert result["best_test_accuracy"] == best["test_accuracy"]
    assert result["best_valid_accuracy"] == max(valid)
    # The weights of that epoch, on images that were not trained with.
    classify = inference.load(run.folder / run_folder.BEST)
    for part in ("valid", "test"):
        images, labels = (
            getattr(run.dataset, f"{part}_{kind}") for kind in ("images", "labels")
        )
        found = np.mean(np.argmax(classify(images), -1) == labels)
        assert found == pytest.approx(best[f"{part}_accuracy"])
    # An evaluation divides the set in the same way.
    restored = setup.restore(run.folder)
    assert loop.evaluate(restored)["test_accuracy"] == lines[-1]["test_accuracy"]
    found = loop.evaluate(restored, part="valid")
    assert found["valid_accuracy"] == pytest.approx(valid[-1])


def test_the_test_set_picks_it_without_a_validation_part():
    run = shared_runs.finished()
    result = run_folder.read_result(run.folder)
    assert result["selected_by"] == "test"
    assert "best_valid_accuracy" not in result


def test_the_first_of_equal_epochs_is_the_best():
    lines = [
        {"epoch": e, "test_accuracy": t, "valid_accuracy": v, "flip_ratio": 0.0}
        for e, t, v in ((1, 0.9, 0.5), (2, 0.6, 0.7), (3, 0.8, 0.7))
    ]
    run = shared_runs.finished()._replace(progress=runs.Progress(tuple(lines)))
    found = results.result_of(run)
    assert (found["best_epoch"], found["best_test_accuracy"]) == (2, 0.6)
    assert formats.selecting(lines[0]) == "valid_accuracy"


@pytest.mark.whole
def test_fit_divides_too_and_the_report_reads_it(tmp_path):
    for seed in (0, 1):
        model = specs.Spec("TinyNet", 10, (8, 8, 1)).build(seed)
        tx = sj.partition_binary(model, binary=sj.sgdat(), real=optax.adam(1e-3))
        fitted = training.fit(
            model,
            tx,
            small_runs.digits(),
            epochs=2,
            seed=seed,
            validation_share=0.2,
            label="Mine",
            run_dir=tmp_path / "fits" / f"seed{seed}",
        )
        assert fitted.result["selected_by"] == "validation"
    config = configs.TrainConfig(
        model="TinyNet", epochs=2, validation_share=0.2, run_dir=str(tmp_path / "run")
    )
    loop.train(setup.set_up(config), loop.Watcher())
    found, skipped = report.read_runs([tmp_path / "fits", tmp_path / "run"])
    assert skipped == []
    groups = report.group_runs(found)
    assert [(group.label, len(group.runs)) for group in groups] == [
        ("Mine", 2),
        ("SGDAT", 1),
    ]
    report.write_comparison(tmp_path / "out", groups)
    assert "| Mine | 2 |" in (tmp_path / "out" / "comparison.md").read_text()


def test_a_sweep_ranks_by_the_validation_part(tmp_path):
    config = configs.SweepConfig(
        **_TASK | {"epochs": 2}, threshold=(0.0, 1e-7), seeds=1, run_dir=str(tmp_path)
    )
    for _ in sweep.train_all(sweep.set_up(config)):
        pass
    trials = sweep.read(tmp_path)
    for trial in trials:
        best = int(np.argmax(trial["valid_accuracies"]))
        assert trial["best_test_accuracy"] == trial["test_accuracies"][best]
    low, high = trials
    low["valid_accuracy"], high["valid_accuracy"] = 0.9, 0.1
    low["test_accuracy"], high["test_accuracy"] = 0.1, 0.9
    first, _ = report.rank_settings(trials)
    assert first["hyperparameters"]["threshold"] == 0.0
    report.write_sweep(tmp_path, trials)
    assert "validation" in (tmp_path / "settings.md").read_text()
    rows = json.loads((tmp_path / "settings.json").read_text())
    assert rows[0]["valid_accuracy"]["mean"] == 0.9
