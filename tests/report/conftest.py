import dataclasses
import json
import shutil

import pytest

import shared_runs
from sgdat_jax import report, run_folder
from sgdat_jax.experiments import configs


@pytest.fixture
def folder_of(tmp_path):
    """Makes copies of the shared run, with other settings and accuracies."""

    def make(name, accuracy=None, without=(), **settings):
        source = shared_runs.finished().folder
        folder = tmp_path / "runs" / name
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("checkpoints"))
        config = (
            dataclasses.asdict(run_folder.read_config(source, configs.TrainConfig))
            | settings
        )
        (folder / "config.json").write_text(json.dumps(config))
        lines = [
            {key: value for key, value in line.items() if key not in without}
            for line in run_folder.read_metrics(source)
        ]
        result = run_folder.read_result(source) | {"seed": config["seed"]}
        if accuracy is not None:
            lines[-1]["test_accuracy"] = result["test_accuracy"] = accuracy
            lines[0]["test_accuracy"] = result["best_test_accuracy"] = accuracy + 0.1
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
        (folder / "result.json").write_text(json.dumps(result))
        return folder

    return make


@pytest.fixture
def diverged_of(folder_of):
    """Makes what is left of a run that diverged in its second epoch."""

    def make(name, **settings):
        folder = folder_of(name, **settings)
        (folder / "result.json").unlink()
        run_folder.write_diverged(folder, 2, 30)
        return folder

    return make


@pytest.fixture
def groups(folder_of):
    """Two methods: two seeds with diagnostics, one without."""
    folders = [
        folder_of("a", 0.5),
        folder_of("b", 0.7, seed=1),
        folder_of("c", 0.4, optimizer="bop", without=("gradient_per_layer",)),
    ]
    runs, skipped = report.read_runs(folders)
    assert not skipped
    return report.group_runs(runs)
