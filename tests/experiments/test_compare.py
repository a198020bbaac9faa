import contextlib
import json
import shutil

import pytest

import shared_runs
from sgdat_jax import cli, report, run_folder
from sgdat_jax.experiments import compare, configs, methods, registry
from sgdat_jax.training import loop

pytestmark = pytest.mark.usefixtures("compiled_quickly", "without_drawing")


def test_methods_are_the_papers_and_can_be_trained():
    labels = [method.label for method in methods.PAPER.values()]
    assert labels == [
        "SGD*",
        "SGDM*",
        "Adam*",
        "SGD",
        "SGDM",
        "Bop",
        "Bop2ndOrder",
        "SGDT",
        "SGDAT",
        "SGDAT with momentum",
    ]
    comparison = configs.CompareConfig(optimizers=tuple(methods.METHODS))
    runs = {name: comparison.run(name, 0) for name in methods.METHODS}
    assert {run.optimizer for run in runs.values()} == set(registry.OPTIMIZERS)
    assert len({run.run_dir for run in runs.values()}) == len(runs)
    for name in ("sgd_star", "sgdm_star"):
        assert runs[name].real_optimizer == "sgd"
        assert runs[name].real_learning_rate == 1e-4
    assert runs["sgdm_star"].real_momentum == runs["sgdm_star"].momentum == 0.9
    assert runs["sgd"].real_optimizer == "adam"


@pytest.fixture
def folder(tmp_path):
    """A comparison of which one run has been done and one was interrupted."""
    folder = tmp_path / "comparison"
    finished = shared_runs.finished()
    for seed in (0, 1):
        target = folder / "sgdat" / f"seed{seed}"
        shutil.copytree(finished.folder, target)
        file = target / "config.json"
        settings = json.loads(file.read_text()) | {"seed": seed}
        file.write_text(json.dumps(settings))
    (folder / "sgdat" / "seed1" / "result.json").unlink()
    shutil.rmtree(folder / "sgdat" / "seed1" / "checkpoints")
    return folder


def _config(folder, **settings):
    defaults = {"epochs": shared_runs.EPOCHS, "diagnostics": True, "seeds": 2}
    optimizers = ("sgdat",)
    return configs.CompareConfig(
        **{"optimizers": optimizers, "run_dir": str(folder)} | defaults | settings
    )


@pytest.mark.whole
def test_finished_runs_are_not_repeated(folder):
    before = (folder / "sgdat" / "seed0" / "metrics.jsonl").read_bytes()
    comparison = compare.set_up(_config(folder))
    assert [[run.seed for run in runs] for runs in comparison.todo] == [[1]]
    outcomes = list(
        compare.train_all(
            comparison, lambda run: contextlib.nullcontext(loop.Watcher())
        )
    )
    assert [outcome.config.seed for outcome in outcomes] == [1]
    result = run_folder.read_result(folder / "sgdat" / "seed1")
    assert outcomes[0].result == result
    assert (result["seed"], result["epochs"]) == (1, shared_runs.EPOCHS)
    assert (folder / "sgdat" / "seed0" / "metrics.jsonl").read_bytes() == before
    assert compare.set_up(_config(folder)).todo == []


def test_a_method_named_twice_is_trained_once(folder):
    comparison = compare.set_up(_config(folder, optimizers=("sgdat", "sgdat")))
    assert comparison.total == 2
    assert [[run.seed for run in runs] for runs in comparison.todo] == [[1]]


def test_a_result_that_cannot_be_read_is_not_a_finished_run(folder):
    (folder / "sgdat" / "seed0" / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"seed0/result\.json cannot be read"):
        compare.set_up(_config(folder))


def test_command_reports_the_seeds_that_it_was_asked_for(folder, capsys, monkeypatch):
    reported = []
    monkeypatch.setattr(
        report, "write_comparison", lambda *found, **_: reported.append(found)
    )
    seed0, seed1 = (folder / "sgdat" / f"seed{seed}" for seed in (0, 1))
    shutil.copy(seed0 / "result.json", seed1)
    arguments = ["compare", "--epochs", "2", "--diagnostics", "--seed", "1"]
    arguments += ["--seeds", "1", "--optimizers", "sgdat", "--run-dir", str(folder)]
    cli.main(arguments)
    assert capsys.readouterr().err == ""
    ((where, (group,)),) = reported
    assert (where, [run.folder for run in group.runs]) == (folder, [seed1])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"batch_size": 32}, "seed0 holds a run with batch_size=64, not 32"),
        ({"epochs": 3}, "epochs=2, not 3"),
    ],
)
def test_runs_of_other_settings_are_refused(folder, settings, named):
    with pytest.raises(ValueError, match=named):
        compare.set_up(_config(folder, **settings))


def test_a_folder_of_other_files_is_left_alone(folder):
    other = folder / "sgdat" / "seed2"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="seed2 is not the folder of a run"):
        compare.set_up(_config(folder, seeds=3))
    assert (other / "thesis.txt").read_text() == "mine"


def test_the_folder_of_a_run_is_left_alone():
    folder = shared_runs.finished().folder
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError, match="run_dir must be no folder of a run, got /"):
        compare.set_up(_config(folder))
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("layers", [("*",), ("conv*", "dense4")])
def test_networks_without_binary_layers_have_nothing_to_compare(tmp_path, layers):
    settings = _config(tmp_path / "new", full_precision=layers)
    with pytest.raises(ValueError, match="full_precision leaves no layer binary, got "):
        compare.set_up(settings)
    assert list(tmp_path.iterdir()) == []


def test_file_in_the_place_of_a_methods_folder(tmp_path):
    (tmp_path / "sgdat").write_text("mine")
    settings = _config(tmp_path, optimizers=("bop", "sgdat"))
    with pytest.raises(ValueError, match=r"run_dir must be a folder.*sgdat/seed0: "):
        compare.set_up(settings)
    assert [path.name for path in tmp_path.iterdir()] == ["sgdat"]


def test_command_goes_on_after_a_divergence_and_reports(folder, capsys):
    arguments = ["compare", "--epochs", "2", "--diagnostics", "--seeds", "1"]
    arguments += ["--optimizers", "sgdat", "--run-dir", str(folder)]
    cli.main(arguments)
    output = capsys.readouterr().out
    assert "1 runs, 1 of them finished before" in output
    assert f"tables, plots and report.html in {folder}" in output
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert {"comparison.md", "comparison.csv", "comparison.json"} < names
    assert {"accuracy.png", "flip_ratio.png", "flip_histogram.png"} < names
    report = folder / "report"
    cli.main(["report", str(folder), "--out", str(report)])
    printed = capsys.readouterr()
    # The run that was interrupted is named, the rest shown.
    assert f"skipped: {folder / 'sgdat' / 'seed1'} is not" in printed.err
    assert (report / "comparison.md").read_text() == (
        folder / "comparison.md"
    ).read_text()


@pytest.mark.whole
def test_divergence_is_recorded_and_not_repeated(tmp_path, capsys):
    arguments = ["compare", "--epochs", "2", "--seeds", "1"]
    arguments += ["--optimizers", "sgdat", "--real-learning-rate", "1e30"]
    for done in (0, 1):
        with pytest.raises(SystemExit) as caught:
            cli.main([*arguments, "--run-dir", str(tmp_path)])
        assert caught.value.code == 1
        printed = capsys.readouterr()
        assert f"1 runs, {done} of them finished before" in printed.out
        assert ("seed0: diverged" in printed.out) == (not done)
        assert printed.err == "sgdat-jax: error: all runs diverged\n"
        assert "| SGDAT | 1 (1 diverged) |" in (tmp_path / "comparison.md").read_text()
    run = tmp_path / "sgdat" / "seed0"
    names = {path.name for path in run.iterdir()}
    assert names == {"config.json", "diverged.json", "checkpoints", "lock"}
    assert run_folder.read_diverged(run)["epoch"] == 1


def test_runs_that_cannot_be_read_are_named(folder, capsys):
    (folder / "sgdat" / "seed0" / "metrics.jsonl").write_text("{\n")
    arguments = ["compare", "--epochs", "2", "--diagnostics", "--seeds", "1"]
    arguments += ["--optimizers", "sgdat", "--run-dir", str(folder)]
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 1
    skipped, error = capsys.readouterr().err.splitlines()
    file = folder / "sgdat" / "seed0" / "metrics.jsonl"
    assert skipped.startswith(f"sgdat-jax: skipped: {file} cannot be read")
    assert error == "sgdat-jax: error: no run can be read"


def test_only_one_process_compares_in_a_folder(folder):
    first = compare.set_up(_config(folder))
    with pytest.raises(ValueError, match="comparison is in use by another process"):
        compare.set_up(_config(folder))
    first.lock.release()
    compare.set_up(_config(folder)).lock.release()
