"""Commands as users give them: some of them in a process of their own."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest

import sgdat_jax as sj
import shared_runs
from benchmarks import strangers
from sgdat_jax import cli, run_folder
from sgdat_jax.experiments import configs, setup
from sgdat_jax.training import checkpoint

pytestmark = pytest.mark.usefixtures("compiled_quickly")

_LINE = {
    "epoch",
    "train_loss",
    "train_accuracy",
    "train_top5_accuracy",
    "test_loss",
    "test_accuracy",
    "test_top5_accuracy",
    "flip_ratio",
    "flip_ratio_per_layer",
    "seconds",
    "images_per_second",
    "gradient_per_layer",
    "flip_histogram",
    "flip_histogram_per_layer",
    "epoch_flip_histogram",
    "epoch_flip_histogram_per_layer",
    "threshold_histogram",
    "margin_histogram",
}


def test_train_fills_the_folder():
    folder, output = shared_runs.by_command()
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.json",
        "metrics.jsonl",
        "times.jsonl",
        "result.json",
        "best.npz",
        "last.npz",
        "lock",
        "checkpoints",
        "plots",
    }
    assert len(list((folder / "plots").glob("*.png"))) == 3
    settings = json.loads((folder / "config.json").read_text())
    fields = {f.name for f in dataclasses.fields(configs.TrainConfig)}
    assert set(settings) == {"format", "data"} | fields
    assert settings["epochs"] == shared_runs.EPOCHS
    assert settings["run_dir"] == str(folder)

    lines = run_folder.read_metrics(folder)
    assert [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        assert set(line) == _LINE
        assert set(line["flip_ratio_per_layer"]) == {"conv2", "conv3", "dense4"}
        shares = [
            line[key] for key in _LINE if "accuracy" in key or key == "flip_ratio"
        ]
        assert all(0 <= share <= 1 for share in shares)
        assert line["train_accuracy"] <= line["train_top5_accuracy"]
        assert line["images_per_second"] * line["seconds"] == pytest.approx(22 * 64)

    result = json.loads((folder / "result.json").read_text())
    assert 0 <= result["test_accuracy"] <= result["best_test_accuracy"] <= 1
    assert (result["epochs"], result["seed"]) == (shared_runs.EPOCHS, 0)
    assert result["seconds"] > sum(line["seconds"] for line in lines)
    assert result["device"].startswith("cpu")
    assert {"python", "jax", "sgdat-jax"} <= set(result["versions"])

    assert "…" not in output
    epochs = [row for row in output.splitlines() if row.startswith("epoch ")]
    assert len(epochs) == shared_runs.EPOCHS
    assert all(row.endswith(" images/s") for row in epochs)  # not wrapped
    last = output.splitlines()[-2:]
    assert last[0].startswith(f"test accuracy {result['test_accuracy']:.2%} after 2 ")
    assert last[1] == f"results and plots in {folder}"


def test_same_seed_gives_the_same_bits_in_another_process():
    run = shared_runs.finished()
    folder, _ = shared_runs.by_command()
    other, _ = checkpoint.restore(folder / run_folder.CHECKPOINTS, run.state)
    shared_runs.assert_bit_equal(other, run.state)
    shared_runs.assert_bit_equal(
        sj.latent_weights(other.opt_state), sj.latent_weights(run.state.opt_state)
    )
    assert any(leaf.any() for leaf in jax.tree.leaves(sj.flip_counts(other.opt_state)))
    metrics = [
        (path / run_folder.METRICS).read_bytes() for path in (folder, run.folder)
    ]
    assert metrics[0] == metrics[1]
    assert len(run_folder.read_metrics(folder)) == shared_runs.EPOCHS


def test_evaluate_prints_what_training_printed(capfd):
    folder, output = shared_runs.by_command()
    before = strangers.contents(folder)
    capfd.readouterr()
    cli.main(["evaluate", str(folder)])
    printed = capfd.readouterr()
    assert printed.err == ""
    accuracy = printed.out.partition(",")[0]
    assert accuracy.startswith("test accuracy ")
    assert f"\n{accuracy} after 2 epochs" in output
    last = run_folder.read_metrics(folder)[-1]
    loss = f"loss {last['test_loss']:.4f} on 360 images of digits"
    assert printed.out.endswith(
        f", top-5 {last['test_top5_accuracy']:.2%}, {loss}, weights of the last epoch\n"
    )
    assert strangers.contents(folder) == before


def test_refusal_in_a_process_of_its_own():
    done = shared_runs.command("train", "--epochs", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "sgdat-jax: error: epochs must be at least 1, got 0.\n"


def test_without_the_extra():
    hidden = "import sys; sys.modules['tyro'] = None; from sgdat_jax import __main__; "
    done = shared_runs.python("-c", hidden + "__main__.main()")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "sgdat-jax: error: tyro is not installed; the training program needs: "
        "pip install 'sgdat-jax[train]'\n"
    )


def test_imports_leave_the_root_logger_alone():
    code = (
        "import logging; from sgdat_jax.cli import work; from sgdat_jax.data import "
        "sources, stream; import numpy as np; data = sources.digits();"
        "next(stream.batches(data, np.zeros((1, 2), int), lambda x: x));"
        "print(logging.root.handlers, logging.root.level)"
    )
    done = shared_runs.python("-c", code)
    assert (done.returncode, done.stdout) == (0, "[] 30\n"), done.stderr


def test_training_that_diverges_says_so_in_one_line(tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ["train", "--epochs", "2", "--real-learning-rate", "1e30"]
    with pytest.raises(SystemExit) as caught:
        cli.main([*arguments, "--run-dir", str(folder)])
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("sgdat-jax: error: the loss or gradients of 10 steps in")
    assert error.count("\n") == 1
    assert json.loads((folder / "diverged.json").read_text())["epoch"] == 1
    assert not (folder / "result.json").exists()
    assert (
        setup.resume(run_folder.read_config(folder, configs.TrainConfig)).steps_done
        > 10
    )


def test_a_terminal_without_the_signs_gets_others(tmp_path):
    run = shutil.copytree(shared_runs.finished().folder, tmp_path / "run")
    again = shutil.copytree(run, tmp_path / "again")
    config = json.loads((again / "config.json").read_text())
    (again / "config.json").write_text(json.dumps(config | {"seed": 1}))
    arguments = ["report", str(run), str(again), "--out", str(tmp_path / "out")]
    done = shared_runs.python(
        "-m", "sgdat_jax", *arguments, PYTHONIOENCODING="ascii", COLUMNS="200"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "+-0.00" in done.stdout and done.stdout.isascii()
    assert "±" in (tmp_path / "out" / "comparison.md").read_text()


def test_compiled_programs_that_are_damaged_are_made_anew(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((1, 8, 8, 1), np.uint8))
    words = ["predict", "digits", str(tmp_path / "a.npy"), "--csv"]
    places = {"XDG_CACHE_HOME": str(tmp_path), "JAX_COMPILATION_CACHE_DIR": ""}
    places |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

    def programs():
        kept = (tmp_path / "sgdat_jax" / "compiled").iterdir()
        return {path: path.stat().st_size for path in kept if path.stat().st_size}

    first = shared_runs.python("-m", "sgdat_jax", *words, **places)
    whole = programs()
    assert whole and (first.returncode, first.stderr) == (0, "")
    for number, path in enumerate(whole):
        os.truncate(path, 100 * (number % 2))
    again = shared_runs.python("-m", "sgdat_jax", *words, **places)
    assert (again.returncode, again.stdout, again.stderr) == (0, first.stdout, "")
    assert programs().keys() == whole.keys()
    assert min(programs().values()) > 100
