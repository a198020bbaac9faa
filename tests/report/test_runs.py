import dataclasses
import json

import numpy as np
import pytest

from sgdat_jax import report
from sgdat_jax.training import fitting


def test_groups_differ_in_more_than_the_seed(groups):
    assert [group.label for group in groups] == ["SGDAT", "Bop"]
    assert [len(group.runs) for group in groups] == [2, 1]
    np.testing.assert_array_equal(groups[0].epochs, [1, 2])
    np.testing.assert_array_equal(
        groups[0].values("test_accuracy"), [[0.6, 0.5], [0.7 + 0.1, 0.7]]
    )
    np.testing.assert_array_equal(groups[0].results("test_accuracy"), [0.5, 0.7])
    assert groups[0].values("flip_histogram").shape == (2, 2, 16)


@pytest.mark.parametrize(
    ("first", "second", "labels"),
    [
        ({}, {"threshold": 1e-6}, ["SGDAT", "sgdat threshold=1e-06"]),
        ({}, {"momentum": 0.9}, ["SGDAT", "SGDAT with momentum"]),
        ({}, {"batch_size": 32}, ["SGDAT batch_size=64", "SGDAT batch_size=32"]),
        (
            {"real_learning_rate": 0.1},
            {"real_learning_rate": 0.2},
            ["SGDAT real_learning_rate=0.1", "SGDAT real_learning_rate=0.2"],
        ),
        (
            {},
            {"optimizer": "sgd", "real_optimizer": "sgd", "real_learning_rate": 1e-4},
            ["SGDAT", "SGD*"],
        ),
    ],
)
def test_labels_say_what_differs(folder_of, first, second, labels):
    folder_of("a", **first), folder_of("b", **second)
    runs, _ = report.read_runs([folder_of("c", seed=5).parent])
    names = [group.label for group in report.group_runs(runs[:2])]
    assert names == labels


def test_seeds_saved_or_placed_otherwise_are_of_one_row(folder_of):
    folder_of("a", seed=0, diagnostics=False)
    folder_of("b", seed=1, save_every_minutes=1.0, data_dir="elsewhere")
    folder = folder_of("c", seed=2, keep_states=5, devices=4, tensorboard=True)
    runs, skipped = report.read_runs([folder.parent])
    assert skipped == []
    (group,) = report.group_runs(runs)
    assert (group.label, len(group.runs)) == ("SGDAT", 3)


def test_folders_below_are_found_and_bad_ones_named(folder_of, tmp_path):
    good = folder_of("good")
    (folder_of("unfinished", seed=1) / "result.json").unlink()
    (folder_of("damaged", seed=2) / "metrics.jsonl").write_text('{"epoch": 1\n')
    (folder_of("short", seed=3) / "metrics.jsonl").write_text("")
    cut = folder_of("cut", seed=5) / "metrics.jsonl"
    cut.write_text(cut.read_text().splitlines()[0])
    (folder_of("older", seed=4) / "result.json").write_text('{"epochs": 2}')
    folder_of("again")
    runs, skipped = report.read_runs([tmp_path / "runs", tmp_path / "none", good])
    assert [run.folder.name for run in runs] == ["again"]
    named = {
        "unfinished": "finished run",
        "damaged": "cannot be read",
        "short": "no epoch",
        "cut": "a line for each of the 2 epochs, got 1",
        "older": "missing required field `test_accuracy`",
        "good": "repeats",
        "none": "not the folder of a run",
    }
    assert len(skipped) == len(named)
    for name, reason in named.items():
        (message,) = [m for m in skipped if str(tmp_path / "runs" / name) in m][:1] or [
            m for m in skipped if name in m
        ]
        assert reason in message


def test_runs_that_cannot_be_compared(folder_of):
    runs, _ = report.read_runs([folder_of("a"), folder_of("b", seed=1)])
    other = runs[1].config.__class__(run_dir="x")
    object.__setattr__(other, "dataset", "letters")
    with pytest.raises(ValueError, match=r"one data set, got digits in .*letters in "):
        report.group_runs([runs[0], runs[1]._replace(config=other)])
    with pytest.raises(ValueError, match="at least one finished run"):
        report.group_runs([])


def test_runs_of_fit_are_told_apart_by_their_labels(folder_of, tmp_path):
    for name, label in (("a", "mine"), ("b", "mine"), ("c", "yours")):
        file = folder_of(name) / "config.json"
        entries = json.loads(file.read_text())
        names = {field.name for field in dataclasses.fields(fitting.FitConfig)}
        kept = {key: entries[key] for key in names & set(entries)}
        file.write_text(json.dumps(kept | {"label": label}))
    runs, (message,) = report.read_runs([tmp_path])
    assert [run.config.label for run in runs] == ["mine", "yours"]
    assert message.endswith(
        f"{runs[0].folder}: give each method of `fit` a `label` of its own, got 'mine'."
    )
