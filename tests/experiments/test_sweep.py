import csv
import json
import shutil
import signal
import sys

import numpy as np
import pytest

import small_runs  # noqa: F401, whose TinyNet it registers
from sgdat_jax import cli, report
from sgdat_jax.cli import progress
from sgdat_jax.experiments import configs, setup, sweep
from sgdat_jax.training import loop

pytestmark = pytest.mark.usefixtures("compiled_quickly")

# Three steps of one epoch: enough to tell settings apart.
_SHORT = {"model": "TinyNet", "epochs": 1, "batch_size": 479}
_SHORT |= {"seeds": 2, "threshold": (0.0, 1e-6)}


def test_grid():
    assert configs.SweepConfig().grid() == {
        "learning_rate": (1e-5, 1e-4, 1e-3),
        "threshold": (1e-8, 1e-7, 1e-6),
    }
    assert configs.SweepConfig(optimizer="boat").grid() == {"eta": (0.01, 0.1, 1.0)}
    bop = configs.SweepConfig(optimizer="bop", gamma=(1e-3, 1e-4), threshold=(1e-8,))
    assert bop.grid() == {"threshold": (1e-8,), "gamma": (1e-3, 1e-4)}
    trials = sweep.trials(configs.SweepConfig(seeds=2, seed=3, threshold=(0, 1e-7)))
    assert trials == [
        ({"threshold": 0}, 3),
        ({"threshold": 0}, 4),
        ({"threshold": 1e-7}, 3),
        ({"threshold": 1e-7}, 4),
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": (1e-7,)}, "several values, got none"),
        (
            {"learning_rate": (1, 2), "threshold": (1, 2), "momentum": (0.1, 0.2)},
            "several values, got learning_rate, threshold, momentum",
        ),
        ({"gamma": (1e-3, 1e-4)}, "sgdat has no `gamma`"),
        (
            {"threshold": (1.0, 1.0)},
            "at least one value, and each once",
        ),
        ({"threshold": (1.0, float("nan"))}, "`threshold` must be in"),
        ({"models_at_once": 0}, "models_at_once must be at least 1, got 0"),
    ],
)
def test_grids_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        configs.SweepConfig(**settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    settings = configs.SweepConfig(**_SHORT, run_dir=str(folder))
    prepared = sweep.set_up(settings)
    assert prepared.total == len(prepared.todo) == 4
    # Interrupted after the first model, and started again.
    next(sweep.train_all(prepared))
    prepared = sweep.set_up(settings)
    assert (prepared.total, len(prepared.todo)) == (4, 3)
    assert [len(lines) for lines in sweep.train_all(prepared)] == [1, 1, 1]
    return folder


@pytest.mark.parametrize("is_terminal", [False, True])
def test_command_ends_at_a_signal_and_goes_on(
    tmp_path, capsys, monkeypatch, is_terminal
):
    words = ["sweep", "--model", "TinyNet", "--epochs", "1", "--batch-size", "479"]
    words += ["--threshold", "0", "1e-6", "--seeds", "1", "--run-dir", str(tmp_path)]
    steps = iter(range(99))

    def stepped(watcher, count):
        if next(steps) == 4:  # of the second model
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(progress.SweepBar, "stepped", stepped)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 75
    heard = (
        "sgdat-jax: SIGTERM: ends after the step under way; a second signal ends it at "
        "once\n"
    )
    assert capsys.readouterr().err == heard * is_terminal + (
        "sgdat-jax: error: SIGTERM: the models that have ended are kept; it goes on "
        "with the same command\n"
    )
    assert (next(steps), len(sweep.read(tmp_path))) == (5, 1)
    cli.main(words)
    assert "2 models, 1 of them finished before" in capsys.readouterr().out
    assert (next(steps), len(sweep.read(tmp_path))) == (9, 2)


def test_each_seed_has_its_own_order_of_images(tmp_path):
    settings = {"model": "TinyNet", "epochs": 1, "batch_size": 128}
    swept = configs.SweepConfig(
        **settings, threshold=(0.0, 1e-6), seed=1, seeds=1, run_dir=str(tmp_path / "s")
    )
    list(sweep.train_all(sweep.set_up(swept)))
    run = setup.set_up(
        configs.TrainConfig(
            **settings, threshold=1e-6, seed=1, run_dir=str(tmp_path / "run")
        )
    )
    _, result = loop.train(run, loop.Watcher())
    line = sweep.read(tmp_path / "s")[1]
    # Loose: hyperparameters that are traced are rounded otherwise.
    assert line["flips_per_weight"] == pytest.approx(result["flips_per_weight"], 1e-4)
    assert line["test_accuracy"] == pytest.approx(result["test_accuracy"], abs=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"full_precision": ("*",)}, "full_precision leaves no layer binary"),
        ({"stream_above": 0.0}, "stream_above must be above their 9.2e-05 gigabytes"),
    ],
)
def test_settings_that_no_sweep_can_have(tmp_path, settings, message):
    settings = configs.SweepConfig(**settings, run_dir=str(tmp_path / "new"))
    with pytest.raises(ValueError, match=message):
        sweep.set_up(settings)
    assert list(tmp_path.iterdir()) == []


def test_every_trial_is_recorded_once(finished):
    lines = sweep.read(finished)
    keys = [(line["hyperparameters"]["threshold"], line["seed"]) for line in lines]
    assert keys == [(0.0, 0), (0.0, 1), (1e-6, 0), (1e-6, 1)]
    for line in lines:
        assert line["test_accuracy"] == line["test_accuracies"][-1]
        assert 0 < line["test_accuracy"] <= line["best_test_accuracy"] <= 1
        assert not line["diverged"]
    # A threshold stops the flips back.
    assert lines[0]["flips_per_weight"] > lines[2]["flips_per_weight"] > 0.1


@pytest.mark.slow
def test_trial_is_the_run_of_train(finished, tmp_path):
    settings = {name: _SHORT[name] for name in ("model", "epochs", "batch_size")}
    run = setup.set_up(
        configs.TrainConfig(**settings, threshold=1e-6, run_dir=str(tmp_path / "run"))
    )
    _, result = loop.train(run, loop.Watcher())
    line = sweep.read(finished)[2]
    assert line["flips_per_weight"] == pytest.approx(
        result["flips_per_weight"], rel=1e-3
    )
    # Loose: rounding may move a few images of 360 after three steps.
    assert abs(line["test_accuracy"] - result["test_accuracy"]) < 0.03


@pytest.mark.slow
def test_models_at_once_are_the_models_one_by_one(finished, tmp_path):
    settings = configs.SweepConfig(**_SHORT, run_dir=str(tmp_path), models_at_once=3)
    prepared = sweep.set_up(settings)
    programs = sweep._programs("cpu").train_steps._cache_size()
    assert [len(lines) for lines in sweep.train_all(prepared)] == [3, 1]
    assert (
        sweep._programs("cpu").train_steps._cache_size() == programs + 1
    )  # the last is filled up
    assert list(sweep.train_all(prepared._replace(todo=[]))) == []
    for together, alone in zip(sweep.read(tmp_path), sweep.read(finished), strict=True):
        assert together["hyperparameters"] == alone["hyperparameters"]
        assert together["flips_per_weight"] == pytest.approx(
            alone["flips_per_weight"], rel=1e-2
        )


def test_a_sweep_of_before_and_elsewhere_is_the_same(finished, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(finished, folder)
    old = json.loads((folder / "sweep.json").read_text())
    for name in ("restart_binary_every_epoch", "unbiased_variance"):
        del old[name]  # which came later
    (folder / "sweep.json").write_text(json.dumps(old))
    settings = {**_SHORT, "run_dir": str(folder), "data_dir": "elsewhere"}
    assert sweep.set_up(configs.SweepConfig(**settings)).todo == []
    with pytest.raises(ValueError, match="unbiased_variance=False, not True"):
        sweep.set_up(configs.SweepConfig(**settings, unbiased_variance=True))


@pytest.mark.whole
def test_a_model_whose_steps_are_skipped_has_diverged(tmp_path):
    settings = {"model": "TinyNet", "epochs": 1, "batch_size": 64}
    settings |= {"real_learning_rate": 1e30, "seeds": 1, "threshold": (0.0, 1e-6)}
    swept = configs.SweepConfig(**settings, run_dir=str(tmp_path / "s"))
    list(sweep.train_all(sweep.set_up(swept)))
    assert [line["diverged"] for line in sweep.read(tmp_path / "s")] == [True, True]
    settings = {k: v for k, v in settings.items() if k not in ("seeds", "threshold")}
    run = setup.set_up(configs.TrainConfig(**settings, run_dir=str(tmp_path / "run")))
    with pytest.raises(FloatingPointError, match="10 steps in a row"):
        loop.train(run, loop.Watcher())


def test_a_torn_last_line_is_named_and_its_model_trained_again(finished, tmp_path):
    folder = tmp_path / "torn"
    shutil.copytree(finished, folder)
    whole = (folder / "trials.jsonl").read_bytes()
    (folder / "trials.jsonl").write_bytes(whole[:-20])
    prepared = sweep.set_up(configs.SweepConfig(**_SHORT, run_dir=str(folder)))
    assert len(prepared.todo) == 1
    (note,) = prepared.notes
    assert note.startswith(f"the last line of {folder / 'trials.jsonl'}")
    list(sweep.train_all(prepared))
    again = sweep.read(folder)
    assert [line["test_accuracy"] for line in again] == [
        line["test_accuracy"] for line in sweep.read(finished)
    ]
    assert not sweep.set_up(configs.SweepConfig(**_SHORT, run_dir=str(folder))).notes


def test_a_model_that_is_there_twice(finished, tmp_path):
    first, *_ = (finished / sweep.TRIALS).read_text().splitlines()
    (tmp_path / sweep.TRIALS).write_text(f"{first}\n{first}\n")
    with pytest.raises(ValueError, match=r"it has \(\{'threshold': 0\.0\}, 0\) twice"):
        sweep.read(tmp_path)


def test_command_reports_a_finished_sweep(finished, capsys):
    arguments = ["sweep", "--model", "TinyNet", "--epochs", "1", "--batch-size", "479"]
    arguments += ["--seeds", "2", "--threshold", "0", "1e-6"]
    arguments += ["--run-dir", str(finished)]
    cli.main(arguments)
    output = capsys.readouterr().out
    assert "4 models, 4 of them finished before" in output
    rows = json.loads((finished / "settings.json").read_text())
    assert rows == report.rank_settings(sweep.read(finished))
    means = [row["test_accuracy"]["mean"] for row in rows]
    assert means == sorted(means, reverse=True)
    with (finished / "trials.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 4
    assert (finished / "heat_map.png").stat().st_size > 1000
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--epochs", "2"])
    assert "holds a sweep with epochs=1, not 2" in capsys.readouterr().err


def _trial(gamma, threshold, seed, accuracy, diverged=False):
    return {
        "hyperparameters": {"gamma": gamma, "threshold": threshold},
        "seed": seed,
        "test_accuracy": accuracy,
        "best_test_accuracy": 0.9,
        "test_accuracies": [0.9, accuracy],
        "flips_per_weight": 1.0,
        "diverged": diverged,
    }


def test_models_that_diverged_are_counted_and_not_ranked(tmp_path):
    trials = [
        _trial(0.1, 1.0, 0, 0.1, diverged=True),
        _trial(0.1, 2.0, 0, 0.5),
        _trial(0.1, 2.0, 1, 0.1, diverged=True),
        _trial(0.1, 3.0, 0, 0.4),
    ]
    rows = report.rank_settings(trials)
    found = [
        (
            row["hyperparameters"]["threshold"],
            row["runs"],
            row["diverged"],
            row["test_accuracy"]["mean"],
        )
        for row in rows
    ]
    assert found == [(2.0, 2, 1, 0.5), (3.0, 1, 0, 0.4), (1.0, 1, 1, None)]
    texts = [text.get_text() for text in report.plot_heat_map(rows).axes[0].texts]
    assert texts == ["1 diverged", "50.00\n1 diverged", "40.00"]
    report.write_sweep(tmp_path, trials)
    assert "| 2 (1 diverged) | 50.00 |" in (tmp_path / "settings.md").read_text()


def test_the_table_of_the_terminal_has_the_best_ten(tmp_path):
    trials = [_trial(0.1, float(n), 0, n / 100) for n in range(12)]
    rows = report.rank_settings(trials)
    assert len(rows) == 12
    table = report.settings_table(rows)
    (column,) = (c for c in table.columns if c.header == "threshold")
    assert list(column.cells) == [str(n) for n in range(11, 1, -1)]
    assert report.settings_table(rows, best=3).row_count == 3


def test_raw_numbers_have_a_column_for_each_value(tmp_path):
    report.write_sweep(tmp_path, [_trial(0.1, 1.0, 3, 0.5), _trial(0.1, 2.0, 3, 0.6)])
    with (tmp_path / "trials.csv").open(newline="") as file:
        first, _ = csv.DictReader(file)
    assert first == {
        "gamma": "0.1",
        "threshold": "1.0",
        "seed": "3",
        "test_accuracy": "0.5",
        "best_test_accuracy": "0.9",
        "flips_per_weight": "1.0",
        "diverged": "False",
    }


@pytest.mark.parametrize("diverged", [False, True])
def test_sweep_of_which_one_setting_is_there(tmp_path, diverged):
    paths = report.write_sweep(tmp_path, [_trial(0.1, 1.0, 0, 0.5, diverged)])
    assert sorted(paths) == sorted(tmp_path.iterdir())


def test_sweep_without_a_finished_trial(tmp_path):
    for function in (report.rank_settings, report.settings_table, report.plot_heat_map):
        with pytest.raises(ValueError, match="at least one finished trial"):
            function([])
    with pytest.raises(ValueError, match="at least one finished trial"):
        report.write_sweep(tmp_path, [])
    assert list(tmp_path.iterdir()) == []


def test_heat_map_places_each_setting():
    trials = [
        _trial(gamma, threshold, seed, gamma + threshold + 0.01 * seed)
        for gamma in (0.2, 0.1)
        for threshold in (0.3, 0.4, 0.5)
        for seed in (0, 1)
    ]
    fig = report.plot_heat_map(report.rank_settings(trials))
    axes = fig.axes[0]
    (image,) = axes.get_images()
    expected = 100 * np.add.outer([0.3, 0.4, 0.5], [0.1, 0.2]) + 0.5
    np.testing.assert_allclose(image.get_array(), expected)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("gamma", "threshold")
