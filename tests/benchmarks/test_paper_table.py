import importlib.util
import json
import math
import pathlib
import time

import pytest

import shared_runs
from sgdat_jax.training import interruption, methods, recipes

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
        "| SGDAT | 65.40 | 65.50 | 66.00 ± 1.41 | 67.00 ± 1.41 | 2 | 2.00 ± 0.00 |"
    ) in text
    assert "| Bop | 63.46 | 63.91 |  |  |  |  |" in text
    assert "Epochs: 200. Devices: gpu.\n" in text
    assert "cifar10\n" not in text


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
