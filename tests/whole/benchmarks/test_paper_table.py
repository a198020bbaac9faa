import dataclasses
import importlib.util
import math
import time

import pytest

import guides
import shared_runs
from sgdat_jax import run_folder
from sgdat_jax.experiments import configs, methods, recipes
from sgdat_jax.training import interruption

_SCRIPT = guides.ROOT / "benchmarks" / "paper_table.py"


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
    tasks = {f"{d}-{m}" for d in paper_table._DATASETS for m in paper_table._MODELS}
    assert tasks == set(recipes.TASKS)


def _write(folder, method, seed, result):
    """Writes a run of 200 epochs on CIFAR-100, or one that diverged."""
    path = folder / "cifar100-binarynet" / method / f"seed{seed}"
    settings = recipes.config(configs.TrainConfig, f"cifar100-binarynet-{method}")
    config = dataclasses.replace(settings, seed=seed, compute_dtype="bfloat16")
    run_folder.create(path, config).release()
    if result is None:
        run_folder.write_diverged(path, epoch=3, step=900)
        return
    names = ("test_accuracy", "train_accuracy", "test_loss", "train_loss")
    line = {**dict.fromkeys(names, result), "flip_ratio": 0.0}
    lines = [{"epoch": n, **line, "flip_ratio_per_layer": {}} for n in range(1, 201)]
    times = {"seconds": 2.0, "images_per_second": 1.0}
    run_folder.write_epochs(
        path, lines, [{"epoch": line["epoch"], **times} for line in lines]
    )
    reached = {
        "test_accuracy": result,
        "best_test_accuracy": result + 0.01,
        "best_epoch": 200,
        "epochs": 200,
        "seconds": 400.0,
        "seed": seed,
        "device": "gpu",
        "flips_per_weight": 1.0,
    }
    run_folder.write_result(path, reached)


def test_table_stands_beside_the_published_numbers(paper_table, tmp_path):
    for seed, accuracy in enumerate((0.65, 0.67)):
        _write(tmp_path, "sgdat", seed, accuracy)
    text = paper_table.tables(tmp_path)
    assert "## BinaryNet on cifar100" in text
    assert (
        "| optimizer | paper (%) | rerun 2026 (%) | last epoch (%) | best epoch (%) "
        "| runs | s/epoch |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    ) in text
    assert (
        "| SGDAT | 65.40 | 65.50 | 66.00 ± 1.41 | 67.00 ± 1.41 | 2 | 2.00 ± 0.00 |"
    ) in text
    assert "| Bop | 63.46 | 63.91 |  |  |  |  |" in text
    assert (
        "Epochs: 200. Devices: gpu. "
        'Not as in the paper: {"compute_dtype": "bfloat16"}.\n'
    ) in text
    assert "cifar10\n" not in text


def test_runs_that_diverged_are_counted_and_not_averaged(paper_table, tmp_path):
    _write(tmp_path, "bop", 0, None)
    text = paper_table.tables(tmp_path)
    assert "| Bop | 63.46 | 63.91 |  |  | 1 (1 diverged) |  |" in text
    assert "Epochs: 200. Not as" in text
    _write(tmp_path, "bop", 1, 0.65)
    assert "| 65.00 | 66.00 | 2 (1 diverged) | 2.00 |" in paper_table.tables(tmp_path)


def test_the_recorded_table_is_that_of_its_runs(paper_table):
    results = _SCRIPT.parent / "results" / "cifar10_h200"
    assert paper_table.tables(results / "runs") == (results / "README.md").read_text()


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
    config = paper_table._config("cifar10", "binarynet", paper_table._parse(words))
    settings = config.run("sgdat", 0)
    folder = tmp_path / "runs" / "cifar10-binarynet" / "sgdat" / "seed0"
    assert settings.run_dir == str(folder)
    run_folder.create(folder, dataclasses.replace(settings, seed=1)).release()
    run_folder.write_diverged(folder, epoch=1, step=2)
    with pytest.raises(SystemExit, match="seed=1, not 0"):
        paper_table.main(words)
    run_folder.write_config(folder, settings)
    for _ in range(2):
        paper_table.main(words)
        printed = capsys.readouterr().out
        assert " epoch 1: " not in printed
        assert "|  |  | 1 (1 diverged) |  |" in printed
    assert (tmp_path / "out" / "README.md").read_text() in printed


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
    table = (tmp_path / "out" / "README.md").read_text()
    assert 'Not as in the paper: {"' in table
    assert '"width": 0.0625' in table
    assert table.count("| 1 |") == 2
    paper_table.main([*arguments, *small])
    assert " epoch 1: " not in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"holds a run with width=0\.0625, not 1\.0"):
        paper_table.main([*arguments, small[0], small[2]])
