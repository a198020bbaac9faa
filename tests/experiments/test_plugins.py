"""A plug-in of one file, by commands and from Python, as its author would use it."""

import json
import pathlib
import shutil

import numpy as np
import pytest

import shared_runs
import tables
from sgdat_jax import cli, inference
from sgdat_jax.data import sources
from sgdat_jax.experiments import configs, hyperparameters, plugins, setup

pytestmark = pytest.mark.usefixtures("compiled_quickly", "without_drawing")

_FILE = pathlib.Path(__file__).parent.parent / "plugin.py"
_TASK = (
    *("--dataset", "blobs", "--model", "PairNet", "--input-sign", "triangle"),
    *("--real-schedule", "halves", "--epochs", "2", "--batch-size", "32"),
)


@pytest.fixture(scope="module", autouse=True)
def _tables():
    """Leaves the tables of the process to other tests as they were."""
    with tables.kept():
        yield


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copy(_FILE, tmp_path / "my_bnn.py")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run(*words):
    cli.main([*map(str, words), "--plugin", str(_FILE)])


def test_train_evaluate_load_and_resume(folder, capsys):
    options = ("--optimizer", "patient", "--set", "decay=0.5", "patience=1.2")
    _run("train", *_TASK, *options, "--diagnostics", "--run-dir", "run")
    assert "PairNet on blobs: 192 images to train" in capsys.readouterr().out
    result = json.loads((folder / "run" / "result.json").read_text())
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


def test_its_optimizer_of_the_real_valued_parameters(folder, capsys):
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
    table = (folder / "report" / "comparison.md").read_text()
    assert "sgdat real_optimizer=shy_adam real_most=0.5" in table
    assert "sgdat real_optimizer=adamw" in table


def test_its_rows_beside_ours_and_a_file_of_rows(folder, capsys):
    (folder / "rows.toml").write_text(
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
    table = (folder / "report" / "comparison.md").read_text()
    for label in ("Patience", "coin", "Bop", "Quick", "large"):
        assert f"| {label} " in table, label
    config = json.loads((folder / "c" / "large" / "seed0" / "config.json").read_text())
    assert config["set"] == ["weight_decay=0.0001"]


def test_sweep_of_its_hyperparameters(folder, capsys):
    words = ("--optimizer", "patient", "--set", "decay=0.3,0.6", "patience=1.2")
    _run("sweep", *_TASK[:-4], "--epochs", 1, *words, "--seeds", 1, "--run-dir", "s")
    lines = (folder / "s" / "trials.jsonl").read_text().splitlines()
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


def test_without_the_plugin_one_line_says_so(folder):
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_here", "ModuleNotFoundError: No module named 'nothing_here'"),
        ("1 / 0", "ZeroDivisionError: division by zero ("),
        ("x = (", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3 ("),
    ],
)
def test_plugin_that_fails(folder, text, message):
    (folder / "broken.py").write_text(f"{text}\n")
    with pytest.raises(
        ValueError, match=r"the plug-in \./broken\.py cannot be"
    ) as caught:
        plugins.load(["./broken.py"])
    assert message in str(caught.value)
    with pytest.raises(ValueError, match="the plug-in no_such_module cannot be"):
        plugins.load(["no_such_module"])


def test_networks_options_that_a_plugin_does_not_take():
    plugins.load([str(_FILE)])
    config = configs.TrainConfig(dataset="blobs", model="PairNet", width=0.5)
    with pytest.raises(ValueError, match=r"PairNet takes no `width`, got width=0\.5"):
        setup.load(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"real_optimizer": "adamx"}, "unknown real optimizer 'adamx'; the nearest is"),
        ({"real_set": ("b3=0.5",)}, "adam has no `b3`, got b3=0.5; the nearest is `b"),
        ({"real_set": ("momentum=0.5",)}, "real_set must leave momentum to --real-mom"),
        (
            {"real_set": ("restart_every=5",)},
            "leave restart_every to --restart-real",
        ),
        ({"real_momentum": 0.5}, "adam has no `momentum`, got momentum=0.5"),
        (
            {"real_optimizer": "sgd", "real_momentum": 1.0},
            r"`momentum` must be in",
        ),
        (
            {"real_optimizer": "adamw", "restart_real_every_epoch": True},
            "adamw has no moments that can restart at every epoch",
        ),
    ],
)
def test_wrong_settings_of_the_real_optimizer(options, message):
    with pytest.raises(ValueError, match=message):
        configs.TrainConfig(**options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nesterov"], "set must be NAME=VALUE, got 'nesterov'"),
        (["threshold=1"], "set must leave threshold to --threshold"),
        (["restart_every=3"], "leave restart_every to --restart-binary-every-epoch"),
        (["nesterov=true", "nesterov=false"], "set must have nesterov once"),
        (["nesterof=true"], "sgdat has no `nesterof`.*nearest is `nesterov`"),
        (["weight_decay=1e39"], "weight_decay must be at most 3.4e.38 in float32"),
        ([f"weight_decay=1{400 * '0'}"], "weight_decay must be at most 3.4e.38"),
        (["weight_decay=[1]"], "weight_decay"),
    ],
)
def test_wrong_settings(words, message):
    with pytest.raises(ValueError, match=message):
        configs.TrainConfig(set=tuple(words))


def test_every_hyperparameter_can_be_set():
    for optimizer, words in {
        "sgdat": ("weight_decay=1e-4", "nesterov=true"),
        "prob_bop": ("alpha=0.5",),
        "boat": ("weight_decay=1e-4",),
        "diode": ("b1=0.8",),
    }.items():
        momentum = 0.9 if optimizer == "sgdat" else None
        config = configs.TrainConfig(optimizer=optimizer, momentum=momentum, set=words)
        given = config.hyperparameters()
        assert all(word.partition("=")[0] in given for word in words)


@pytest.mark.parametrize("value", [1e39, 1e-40])
@pytest.mark.parametrize("name", ["learning_rate", "threshold", "real_learning_rate"])
def test_what_float32_does_not_hold_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .* in float32"):
        configs.TrainConfig(**{name: value})
    hyperparameters.check_float32(name, 1e-38 * 1.2)


def test_settings_from_files(folder, capsys):
    cli.main(["train", "--epochs", "3", "--set", "weight_decay=1e-4", "--print-config"])
    text = capsys.readouterr().out
    (folder / "mine.toml").write_text(text)
    cli.main(["train", "--config", "mine.toml", "--seed", "4", "--print-config"])
    assert capsys.readouterr().out == text.replace("seed = 0", "seed = 4")
    recorded = {"format": 1, **vars(configs.TrainConfig(epochs=7, run_dir="old"))}
    (folder / "config.json").write_text(json.dumps(recorded))
    cli.main(["train", "--config", "config.json", "--print-config"])
    found = capsys.readouterr().out
    assert "epochs = 7\n" in found
    assert "run_dir" not in found
    for name, message in {
        "none.toml": "none.toml",
        "torn.toml": "torn.toml is not TOML",
        "other.toml": "other.toml is not a run's config: ",
    }.items():
        (folder / "torn.toml").write_text("epochs = ")
        (folder / "other.toml").write_text("epoch = 3")
        with pytest.raises(SystemExit) as caught:
            cli.main(["train", "--config", name])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
