"""A plug-in of one file by commands, as its author would use it."""

import json

import numpy as np
import pytest

import guides
import shared_runs
from sgdat_jax import cli, inference
from sgdat_jax.data import sources

pytestmark = pytest.mark.usefixtures(
    "compiled_quickly", "without_drawing", "kept_tables"
)

_FILE = guides.ROOT / "tests" / "plugin.py"


_TASK = (
    *("--dataset", "blobs", "--model", "PairNet", "--input-sign", "triangle"),
    *("--real-schedule", "halves", "--epochs", "2", "--batch-size", "32"),
)


def _run(*words):
    cli.main([*map(str, words), "--plugin", str(_FILE)])


def test_train_evaluate_load_and_resume(plugin_folder, capsys):
    options = ("--optimizer", "patient", "--set", "decay=0.5", "patience=1.2")
    _run("train", *_TASK, *options, "--diagnostics", "--run-dir", "run")
    assert "PairNet on blobs: 192 images to train" in capsys.readouterr().out
    result = json.loads((plugin_folder / "run" / "result.json").read_text())
    assert result["best_test_accuracy"] > 0.8
    assert result["flips_per_weight"] > 0
    _run("evaluate", "run")
    _run("evaluate", "run/best.npz")
    assert capsys.readouterr().out.count("test accuracy") == 2
    data = sources.load("blobs")
    logits = inference.load("run/best.npz")(data.test_images)
    accuracy = np.mean(np.argmax(logits, -1) == data.test_labels)
    assert accuracy == pytest.approx(result["best_test_accuracy"])
    _run("train", "--resume", "run", "--epochs", "3")
    assert "goes on after step 12" in capsys.readouterr().out


def test_its_optimizer_of_the_real_valued_parameters(plugin_folder, capsys):
    task = (*_TASK[:-4], "--epochs", "1", "--batch-size", "64")
    real = ("--real-optimizer", "shy_adam", "--real-set", "most=0.5")
    _run("train", *task, *real, "--run-dir", "runs/shy")
    _run("train", *task, "--real-optimizer", "adamw", "--run-dir", "runs/adamw")
    capsys.readouterr()
    _run("evaluate", "runs/shy")
    _run("train", "--resume", "runs/shy", "--epochs", "2")
    _run("report", "runs", "--out", "report")
    printed = capsys.readouterr().out
    assert "test accuracy" in printed
    assert "goes on after step 3" in printed
    table = (plugin_folder / "report" / "comparison.md").read_text()
    assert "sgdat real_optimizer=shy_adam real_most=0.5" in table
    assert "sgdat real_optimizer=adamw" in table


def test_its_rows_beside_ours_and_a_file_of_rows(plugin_folder, capsys):
    (plugin_folder / "rows.toml").write_text(
        "[quick]\noptimizer = 'patient'\npatience = 1.1\nlabel = 'Quick'\n"
        "[large]\noptimizer = 'sgdat'\nlearning_rate = 1e-3\nweight_decay = 1e-4\n"
    )
    names = ("--optimizers", "patience", "coin", "bop", "quick", "large")
    task = (*_TASK[:-4], "--epochs", "1", "--batch-size", "64")
    _run(
        "compare", *task, "--rows", "rows.toml", *names, "--seeds", 1, "--run-dir", "c"
    )
    assert "5/5" in capsys.readouterr().out
    _run("report", "c", "--out", "report")
    table = (plugin_folder / "report" / "comparison.md").read_text()
    for label in ("Patience", "coin", "Bop", "Quick", "large"):
        assert f"| {label} " in table, label
    config = json.loads(
        (plugin_folder / "c" / "large" / "seed0" / "config.json").read_text()
    )
    assert config["set"] == ["weight_decay=0.0001"]


def test_sweep_of_its_hyperparameters(plugin_folder, capsys):
    words = ("--optimizer", "patient", "--set", "decay=0.3,0.6", "patience=1.2")
    _run("sweep", *_TASK[:-4], "--epochs", 1, *words, "--seeds", 1, "--run-dir", "s")
    lines = (plugin_folder / "s" / "trials.jsonl").read_text().splitlines()
    values = [json.loads(line)["hyperparameters"] for line in lines]
    assert values == [{"decay": 0.3, "patience": 1.2}, {"decay": 0.6, "patience": 1.2}]


_READ = """
from sgdat_jax import cli, experiments, inference
for words in ("evaluate run", "evaluate run/best.npz", "train --resume run",
              "report run"):
    try:
        cli.main(words.split())
    except SystemExit as end:
        print(end.code)
inference.load("run/best.npz")
"""


def test_without_the_plugin_one_line_says_so(plugin_folder):
    words = ("--plugin", "my_bnn", "--optimizer", "coin", "--epochs", "1")
    done = shared_runs.command("train", *_TASK[:-4], *words, "--run-dir", "run")
    assert (done.returncode, done.stderr) == (0, "")
    done = shared_runs.python("-c", _READ)
    assert done.stdout.split() == ["2", "2", "2", "2"]
    lines = done.stderr.splitlines()
    of_runs = [line for line in lines if line.startswith("sgdat-jax: error: run")]
    assert len(of_runs) == 3
    assert all("it needs --plugin my_bnn." in line for line in of_runs)
    assert lines[3].startswith("sgdat-jax: skipped: run/config.json")
    assert "Its run had --plugin my_bnn." in lines[-1]
