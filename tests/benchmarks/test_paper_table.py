import dataclasses
import importlib.util
import json
import math
import pathlib
import time

import pytest

import shared_runs
from sgdat_jax import run_folder
from sgdat_jax.experiments import methods, recipes
from sgdat_jax.training import interruption

_SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "paper_table.py"


@pytest.fixture(scope="module")
def paper_table():
    spec = importlib.util.spec_from_file_location("paper_table", _SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_published_numbers_are_complete(paper_table):
    assert list(paper_table._PUBLISHED) == list(methods.PAPER)
    for paper, rerun in paper_table._PUBLISHED.values():
        assert len(paper) == 3
        assert len(rerun) in (0, 3)
        assert all(30 < number < 92 for number in (*paper, *rerun))
    every = paper_table._experiments(paper_table._parse(["--models", "resnet18"]))
    assert {experiment.recipe for experiment in every} < set(recipes.RECIPES)


def _record(seed, accuracy):
    return {
        "dataset": "cifar100",
        "model": "binarynet",
        "method": "sgdat",
        "seed": seed,
        "test_accuracy": accuracy,
        "best_test_accuracy": accuracy + 0.01,
        "seconds_per_epoch": 2.0,
        "epochs": 200,
        "device": "gpu",
        "overrides": {},
    }


def test_table_stands_beside_the_published_numbers(paper_table):
    text = paper_table.tables([_record(0, 0.65), _record(1, 0.67)])
    assert "## BinaryNet on cifar100" in text
    assert (
        "| optimizer | paper (%) | rerun 2026 (%) | last epoch (%) | best epoch (%) "
        "| runs | s/epoch |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    ) in text
    assert (
        "| SGDAT | 65.40 | 65.50 | 66.00 ± 1.41 | 67.00 ± 1.41 | 2 | 2.00 ± 0.00 |"
    ) in text
    assert "| Bop | 63.46 | 63.91 |  |  |  |  |" in text
    assert "Epochs: 200. Devices: gpu.\n" in text
    assert "cifar10\n" not in text


def _diverged(seed):
    kept = ("dataset", "model", "method", "epochs", "overrides")
    record = {name: _record(seed, 0.0)[name] for name in kept}
    return record | {"seed": seed, "diverged": {"epoch": 3, "step": 900}}


def test_runs_that_diverged_are_counted_and_not_averaged(paper_table):
    text = paper_table.tables([_record(0, 0.65), _diverged(1)])
    assert "| 65.00 | 66.00 | 2 (1 diverged) | 2.00 |" in text
    text = paper_table.tables([_diverged(0)])
    assert "| SGDAT | 65.40 | 65.50 |  |  | 1 (1 diverged) |  |" in text
    assert "Epochs: 200.\n" in text


def test_a_clock_ends_a_run_when_time_is_up(paper_table):
    paper_table.Clock("run", deadline=math.inf).check()
    with pytest.raises(interruption.Interrupted, match="--minutes are over"):
        paper_table.Clock("run", deadline=time.perf_counter()).check()


def test_training_needs_few_packages():
    heavy = ["tensorflow_datasets", "grain", "tyro", "matplotlib", "sklearn"]
    heavy += ["PIL", "tensorflow"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({heavy}))\n"
        f"import runpy; table = runpy.run_path({str(_SCRIPT)!r})\n"
        "print(table['Clock'].__name__)"
    )
    done = shared_runs.python("-c", code)
    assert (done.returncode, done.stdout) == (0, "Clock\n"), done.stderr


def test_other_settings_do_not_mix_with_the_papers(paper_table, tmp_path, capsys):
    words = ["--set", "epochs=1"]
    for out in ([], ["--out", str(_SCRIPT.parent / "results" / "paper_table")]):
        with pytest.raises(SystemExit):
            paper_table.main([*words, *out])
        assert "error: --set needs an --out of its own" in capsys.readouterr().err
    assert paper_table._parse([*words, "--out", str(tmp_path)]).out == tmp_path


def test_runs_that_diverged_are_not_repeated(paper_table, tmp_path, capsys):
    words = ["--datasets", "cifar10", "--methods", "sgdat", "--data", "cifar10=digits"]
    words += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    words += ["--set", "epochs=2", "batch_size=479", "normalization=dataset"]
    options = paper_table._parse(words)
    (experiment,) = paper_table._experiments(options)
    folder = options.runs / experiment.name
    settings = paper_table._config(experiment, options)
    run_folder.create(folder, dataclasses.replace(settings, seed=1)).release()
    run_folder.write_diverged(folder, epoch=1, step=2)
    with pytest.raises(SystemExit, match="seed=1, not 0"):
        paper_table.main(words)
    run_folder.write_config(folder, settings)
    for done in (0, 1):
        paper_table.main(words)
        printed = capsys.readouterr().out
        assert (f"{experiment.name}: diverged before" in printed) == (not done)
        assert "|  |  | 1 (1 diverged) |  |" in printed
    record = json.loads((options.out / f"{experiment.name}.json").read_text())
    assert (record["method"], record["config"]["epochs"]) == ("sgdat", 2)
    assert record["diverged"] == {"epoch": 1, "step": 2}


@pytest.mark.slow
def test_finished_runs_are_not_repeated(paper_table, tmp_path, capsys):
    arguments = ["--datasets", "cifar10", "--methods", "sgd", "sgdat"]
    arguments += ["--data", "cifar10=digits", "--runs", str(tmp_path / "runs")]
    arguments += ["--out", str(tmp_path / "out"), "--set", "epochs=1"]
    small = ["batch_size=479", "width=0.0625", "normalization=dataset"]
    paper_table.main([*arguments, *small, "--minutes", "0"])
    assert "--minutes are over: start again" in capsys.readouterr().out
    paper_table.main([*arguments, *small])
    printed = capsys.readouterr().out
    assert "cifar10-binarynet-sgdat-seed0 epoch 1: " in printed
    records = [
        json.loads(file.read_text())
        for file in sorted((tmp_path / "out").glob("*.json"))
    ]
    assert [record["method"] for record in records] == ["sgd", "sgdat"]
    assert records[1]["config"]["reset_flips_every_epoch"]
    assert records[1]["choices"]["width"] == 0.0625
    table = (tmp_path / "out" / "README.md").read_text()
    assert 'Not as in the paper: {"epochs": 1, "batch_size": 479' in table
    paper_table.main([*arguments, *small])
    assert " epoch 1: " not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="is of a run with --set"):
        paper_table.main(arguments)
