"""The study of CIFAR tells what its records hold, and computes none of them again."""

import pathlib

import pytest

from benchmarks import cifar_study
from sgdat_jax import files, run_folder
from sgdat_jax.cli import parsing
from sgdat_jax.experiments import configs, sweep


def test_tables_are_those_of_the_records():
    for name, text in cifar_study.texts():
        assert (cifar_study.RESULTS / name).read_text() == text, name


@pytest.mark.parametrize("number", ["74.69 ± 0.07", "72.49 ± 0.93", "74.86 ± 0.63"])
def test_readme_has_the_numbers_of_the_table(number):
    recorded = (cifar_study.RESULTS / "cifar10" / "comparison.md").read_text()
    readme = pathlib.Path(cifar_study.__file__).parents[1] / "README.md"
    assert number in recorded and number in readme.read_text()


@pytest.mark.parametrize("part", ["cifar10", "cifar100", "cifar10_50", "variants"])
def test_recorded_runs_are_those_of_the_command(part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cifar_study.RUNS.mkdir(parents=True)
    files.write_text(cifar_study.RUNS / "rows.toml", cifar_study.VARIANTS)
    _, config = parsing.parse(cifar_study.command(part))
    runs = [
        config.run(row, seed)
        for row in config.optimizers
        for seed in range(config.seeds)
    ]
    folder = cifar_study.RESULTS / part
    assert len(runs) == len(list(folder.glob("*/*/result.json")))
    for run in runs:
        place = folder / pathlib.Path(run.run_dir).relative_to(cifar_study.RUNS / part)
        recorded = run_folder.read_config(place, configs.TrainConfig)
        run_folder.check_same(place, recorded, run)


@pytest.mark.parametrize("part", ["thresholds/sgdat", "thresholds/sgdt"])
def test_recorded_trials_are_those_of_the_command(part):
    _, config = parsing.parse(cifar_study.command(part))
    wanted = [trial._asdict() for trial in sweep.trials(config)]
    recorded = sweep.read(cifar_study.RESULTS / part)
    assert [{name: line[name] for name in wanted[0]} for line in recorded] == wanted


def test_records_are_copied_once(tmp_path):
    result = tmp_path / "runs" / "sgd" / "seed0" / "result.json"
    (tmp_path / "runs" / "sgd" / "seed1").mkdir(parents=True)
    for path, text in ((result, "1"), (result.with_name("weights.npz"), "")):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    for _ in range(2):
        cifar_study.copy_records(tmp_path / "runs", tmp_path / "kept")
        result.write_text("2")
    copied = [p for p in (tmp_path / "kept").rglob("*") if p.is_file()]
    assert copied == [tmp_path / "kept" / "sgd" / "seed0" / "result.json"]
    assert copied[0].read_text() == "1"
