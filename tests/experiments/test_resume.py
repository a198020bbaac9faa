"""Runs that are interrupted, damaged or added to, and what comes of them."""

import dataclasses
import itertools
import json
import pathlib
import shutil
import signal
import subprocess
import time

import jax.numpy as jnp
import numpy as np
import pytest

import shared_runs
from sgdat_jax import cli, run_folder
from sgdat_jax.cli import parsing, work
from sgdat_jax.experiments import configs, setup
from sgdat_jax.training import interruption, loop, runs

pytestmark = pytest.mark.usefixtures("compiled_quickly")

_STEPS = shared_runs.EPOCHS * 22  # of the shared run


@pytest.fixture(scope="module")
def plan():
    run = shared_runs.finished()
    return setup.plan(run.config, run.dataset)


def _train_until(run, calls):
    """Trains until a check has been called so often; returns whether to its end."""
    left = itertools.count(calls, -1)

    def check():
        if next(left) == 1:
            raise interruption.Interrupted("enough")

    try:
        loop.train(run, loop.Watcher(), check)
    except interruption.Interrupted:
        return False
    return True


def _assert_same(folder):
    """Asserts that a run equals the shared one, to the bit."""
    whole = shared_runs.finished()
    shared_runs.assert_bit_equal(setup.restore(folder).state, whole.state)
    metrics = [(path / run_folder.METRICS) for path in (folder, whole.folder)]
    assert metrics[0].read_bytes() == metrics[1].read_bytes()
    for name in (run_folder.BEST, run_folder.LAST):
        ours, theirs = (_weights(path / name) for path in (folder, whole.folder))
        assert ours == theirs


def _weights(file):
    """Returns all that a file of weights holds, but for the folder of its run."""
    with np.load(file) as archive:
        arrays = dict(archive)
    about = json.loads(arrays.pop("about").tobytes())
    del about["config"]["run_dir"]
    return about, {
        name: (array.dtype, array.shape, array.tobytes())
        for name, array in arrays.items()
    }


def test_interrupted_anywhere_ends_in_the_same_bits(tmp_path, plan, monkeypatch):
    # By a clock that goes backwards.
    monkeypatch.setattr(time, "time", map(float, itertools.count(2e9, -1000)).__next__)
    folder = tmp_path / "run"
    steps = []
    # After the steps of an epoch the check is called again: once for the state at its
    # end, once in the evaluation, once after it.
    for calls in (1, 5, 16, 1, 1, 1, 20):
        run = runs.go_on(plan, 0, folder)
        steps.append(run.steps_done)
        assert not _train_until(run, calls)
        assert not (folder / run_folder.RESULT).exists()
    assert steps == [0, 1, 6, 22, 22, 22, 22]
    assert _train_until(runs.go_on(plan, 0, folder), 0)
    _assert_same(folder)
    result = run_folder.read_result(folder)
    whole = run_folder.read_result(shared_runs.finished().folder)
    times = {"seconds"}
    assert {k: result[k] for k in result.keys() - times} == {
        k: whole[k] for k in whole.keys() - times
    }


def test_states_are_saved_on_the_way(tmp_path, plan):
    settings = dataclasses.replace(plan.config, save_every_steps=5, keep_states=3)
    run = runs.begin(plan._replace(config=settings), 0, tmp_path / "run")
    assert not _train_until(run, 18)
    names = {path.name for path in (run.folder / run_folder.CHECKPOINTS).iterdir()}
    assert names == {"10", "15", "18"}


@pytest.fixture
def interrupted(tmp_path, plan):
    """The folder of a run of which the states after 10 and 16 steps are saved."""
    settings = dataclasses.replace(plan.config, save_every_steps=10)
    run = runs.begin(plan._replace(config=settings), 0, tmp_path / "run")
    assert not _train_until(run, 16)
    return run.folder


def test_damaged_newest_state(interrupted, plan, capsys):
    (file,) = (interrupted / "checkpoints" / "16" / "state").glob("_METADATA")
    file.write_bytes(file.read_bytes()[:-1])
    (interrupted / run_folder.TIMES).write_bytes(b"\xff")  # is written anew
    run = runs.go_on(plan, 0, interrupted)
    (note,) = run.notes
    assert "16 is a damaged checkpoint: state/_METADATA has changed" in note
    assert run.steps_done == 10
    assert _train_until(run, 0)
    _assert_same(interrupted)


def test_no_state_left_begins_anew(interrupted, plan):
    shutil.rmtree(interrupted / "checkpoints")
    run = runs.go_on(plan, 0, interrupted)
    assert (run.steps_done, run.notes) == (0, ())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "holds a run with seed=0, not 1; choose another run_dir"),
        (
            {"threshold": 1e-6, "batch_size": 32},
            "with threshold=None, not 1e-06; batch_size=64, not 32",
        ),
        ({"epochs": 1}, "epochs must be at least the 2 of the run"),
    ],
)
def test_changed_config_is_refused(interrupted, changes, named):
    before = (interrupted / run_folder.CONFIG).read_bytes()
    recorded = run_folder.read_config(interrupted, configs.TrainConfig)
    with pytest.raises(ValueError, match=named):
        setup.resume(dataclasses.replace(recorded, **changes))
    assert (interrupted / run_folder.CONFIG).read_bytes() == before


@pytest.mark.whole
@pytest.mark.usefixtures("without_drawing")
def test_command_ends_at_a_signal_and_goes_on(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "a run"
    words = ["train", "--resume", str(folder), "--epochs", "2", "--diagnostics"]

    def stepped(watcher, metrics, flip_ratio):
        if next(count) == 30:
            signal.raise_signal(signal.SIGTERM)

    count = itertools.count(1)
    monkeypatch.setattr(loop.Watcher, "stepped", stepped)
    monkeypatch.setattr(work.progress.ProgressBar, "stepped", stepped)
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 75
    assert capsys.readouterr().err == (
        "sgdat-jax: error: SIGTERM: the run is saved; it goes on with sgdat-jax train "
        f"--resume '{folder}'\n"
    )
    cli.main(words[:3])
    assert "goes on after step 30\n" in capsys.readouterr().out
    _assert_same(folder)
    before = (folder / run_folder.RESULT).read_bytes()
    cli.main(words[:3])
    assert "already finished\ntest accuracy" in capsys.readouterr().out
    assert (folder / run_folder.RESULT).read_bytes() == before
    with pytest.raises(SystemExit) as caught:
        cli.main([*words[:3], "--seed", "3"])
    assert caught.value.code == 2
    assert "holds a run with seed=0, not 3" in capsys.readouterr().err
    cli.main([*words[:3], "--epochs", "3"])
    assert "goes on after step 44\n" in capsys.readouterr().out
    lines = run_folder.read_metrics(folder)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert run_folder.read_config(folder, configs.TrainConfig).epochs == 3
    assert run_folder.read_result(folder)["epochs"] == 3


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("compare --resume a", "compare takes no --resume, got a."),
        ("train --resume a --resume b", "--resume must have one value"),
        ("train --resume", "--resume must have one value"),
        ("train --resume file", "file is not the folder of a run"),
        ("train --resume other", "other is not the folder of a run"),
        (
            "train --resume run --recipe cifar10-binarynet-sgdat",
            "dataset='digits', not 'cifar10'; model='DigitsNet', not 'BinaryNet'",
        ),
        ("train --resume run", "run is in use by another process."),
    ],
)
def test_refused_resume(tmp_path, capsys, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    folder = pathlib.Path("run")
    held = run_folder.create(folder, configs.TrainConfig(model="DigitsNet"))
    with pytest.raises(SystemExit) as caught:
        cli.main(words.split())
    held.release()
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_steps_that_are_not_finite_are_skipped(plan, tmp_path):
    run = runs.begin(plan, 0, tmp_path / "run")
    before = shared_runs.copy(run.state)
    data = loop.on_device(run.dataset, run.task.layout)
    numbers = jnp.arange(64)[jnp.newaxis]
    bias = before.params["dense5"]["bias"][...]
    broken = shared_runs.copy(before)
    broken.params["dense5"]["bias"][...] = jnp.full_like(bias, jnp.nan)
    state = loop.programs().train_steps(
        run.task, shared_runs.copy(broken), data, numbers
    )[0]
    state, (metrics, weights) = loop.programs().train_steps(
        run.task, state, data, numbers
    )
    assert (int(state.step), int(state.skipped)) == (2, 2)
    assert weights.skipped.tolist() == [2]
    assert metrics.examples == metrics.loss == weights.flips.total == 0
    same = state._replace(step=broken.step, skipped=broken.skipped)
    shared_runs.assert_bit_equal(same, broken)
    state.params["dense5"]["bias"][...] = bias
    state, (metrics, _) = loop.programs().train_steps(run.task, state, data, numbers)
    assert (int(state.step), int(state.skipped)) == (3, 0)
    assert metrics.examples == 64
    assert np.isfinite(metrics.loss)


def _on_small_disk(folder, size):
    """Mounts a file system of its own; skips where that is not allowed."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(["mount", *options], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")


@pytest.mark.whole
def test_full_disk_and_read_only_folder(tmp_path, plan):
    disk = tmp_path / "disk"
    _on_small_disk(disk, "5m")
    try:
        settings = dataclasses.replace(plan.config, save_every_steps=5, keep_states=9)
        run = runs.begin(plan._replace(config=settings), 0, disk / "run")
        with pytest.raises(OSError, match=r"cannot be (saved|written)"):
            _train_until(run, 0)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(ValueError, match="run cannot be written: Read-only file"):
            runs.go_on(plan, 0, run.folder)
        remount = ["mount", "-o", "remount,rw,size=50m", str(disk)]
        subprocess.run(remount, check=True)
        again = runs.go_on(plan, 0, run.folder)
        assert again.steps_done % 5 == 0 < again.steps_done < _STEPS
        assert again.notes == ()
        assert _train_until(again, 0)
        _assert_same(run.folder)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_weights_in_packed_files(capsys):
    run = shared_runs.finished()
    best = setup.restore_weights(run.folder / run_folder.BEST)
    last = setup.restore_weights(run.folder / run_folder.LAST)
    shared_runs.assert_bit_equal(
        (last.state.params, last.state.stats), (run.state.params, run.state.stats)
    )
    lines = run_folder.read_metrics(run.folder)
    assert loop.evaluate(last).items() <= lines[-1].items()
    top = max(lines, key=lambda line: line["test_accuracy"])
    assert loop.evaluate(best).items() <= top.items()
    cli.main(["evaluate", str(run.folder / run_folder.BEST)])
    printed = capsys.readouterr().out
    assert printed.startswith(f"test accuracy {top['test_accuracy']:.2%},")
    with np.load(run.folder / run_folder.LAST) as archive:
        about = json.loads(archive["about"].tobytes())
        packed = {name: archive[name] for name in about["packed"]}
    assert about["reached"]["test_accuracy"] == lines[-1]["test_accuracy"]
    assert len(packed) == 3
    for name, shape in about["packed"].items():
        assert packed[name].nbytes == np.prod(shape) / 8  # of float32: 4 per weight


def _without(name):
    def change(arrays):
        del arrays[name]

    return change


def _about(**values):
    def change(arrays):
        about = json.loads(arrays["about"].tobytes())
        about = json.dumps(about | values).encode()
        arrays["about"] = np.frombuffer(about, np.uint8)

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_without("about"), "is not a whole file of weights"),
        (_without("conv2/kernel"), "does not fit the network it names at conv2/ker"),
        (_about(packed={}), "at conv2/kernel"),
        (_about(packed=None), "is not a whole file of weights"),
        (_about(packed={"conv2/kernel": [3]}), "at conv2/kernel"),
        (_about(packed={"conv2/kernel": "x"}), "is not a whole file of weights"),
        (_about(format=7), "has format 7"),
        (_about(config={"colour": 1}), "colour"),
        (_about(config=None), "does not tell which images"),
        (lambda arrays: arrays.update(about=np.array([1])), "not a whole file"),
    ],
)
def test_file_of_weights_that_is_none(tmp_path, change, named):
    file = tmp_path / "best.npz"
    with np.load(shared_runs.finished().folder / run_folder.BEST) as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match=named) as caught:
        setup.restore_weights(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_damaged_file_of_weights(tmp_path, share):
    content = (shared_runs.finished().folder / run_folder.BEST).read_bytes()
    file = tmp_path / "best.npz"
    position = int(share * len(content))
    flipped = content[position] ^ 1
    for damaged in (
        content[:position],
        content[:position] + bytes([flipped]) + content[position + 1 :],
    ):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="is not a whole file of weights"):
            setup.restore_weights(file)


def test_the_command_with_a_recipe_goes_on_as_well(tmp_path):
    folder = tmp_path / "run"
    name = "cifar10-binarynet-bop"
    words = ["train", "--resume", str(folder), "--recipe", name, "--seed", "4"]
    name, begun = parsing.parse(words)
    assert (begun.seed, begun.optimizer, begun.run_dir) == (4, "bop", str(folder))
    run_folder.create(folder, begun).release()
    assert parsing.parse(words) == (name, begun)
    runs.check_recorded(folder, begun)
    assert parsing.parse(words[:3])[1] == begun  # by its own options
