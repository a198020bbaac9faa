"""Finished runs whose checkpoints are damaged, gone or cannot be read."""

import dataclasses
import shutil

import pytest

import shared_runs
from benchmarks import strangers
from sgdat_jax import cli, run_folder
from sgdat_jax.experiments import configs, setup
from sgdat_jax.training import checkpoint


@pytest.fixture
def folder(tmp_path):
    """A copy of the shared run, which has one checkpoint, of its end."""
    return shutil.copytree(shared_runs.finished().folder, tmp_path / "run")


def _damage(folder):
    file = folder / "checkpoints" / "44" / "progress.json"
    file.write_bytes(file.read_bytes()[:-1])


def _remove_all(folder):
    shutil.rmtree(folder / "checkpoints")


def _cut_short(folder):
    (folder / "checkpoints" / "44" / "sha256.json").unlink()


def _keep_the_one_before_alone(folder):
    """Makes a checkpoint of the first epoch's end, and damages the last."""
    run, place = shared_runs.finished(), folder / run_folder.CHECKPOINTS
    found = checkpoint.restore(place, run.state)
    progress = found.progress | {
        name: found.progress[name][:1] for name in ("lines", "times")
    }
    shutil.move(place / "44", folder / "44")
    with checkpoint.Saver(place, 2) as saver:
        state = found.state._replace(step=found.state.step - 22)
        saver.save(checkpoint.Checkpoint(state, progress))
    shutil.move(folder / "44", place / "44")
    assert checkpoint.steps(place) == [22, 44]
    _damage(folder)


_DAMAGES = [_damage, _remove_all, _cut_short, _keep_the_one_before_alone]


@pytest.mark.parametrize("damage", _DAMAGES)
def test_it_is_left_alone(folder, damage, capsys):
    damage(folder)
    before = strangers.contents(folder)
    capsys.readouterr()
    cli.main(["train", "--resume", str(folder)])
    printed = capsys.readouterr()
    assert "already finished\ntest accuracy" in printed.out
    assert printed.err.count("\n") <= 1
    is_told = damage in (_damage, _keep_the_one_before_alone)
    assert ("44 is a damaged checkpoint: progress.json has" in printed.err) == is_told
    assert strangers.contents(folder) == before


@pytest.mark.parametrize("damage", _DAMAGES[:-1])
def test_it_cannot_be_made_longer(folder, damage, capsys):
    damage(folder)
    before = strangers.contents(folder)
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "--resume", str(folder), "--epochs", "3"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        f"sgdat-jax: error: {folder} holds a finished run whose states are damaged or "
        "gone: it cannot go on to epochs=3; choose another run_dir.\n"
    )
    assert strangers.contents(folder) == before


def test_it_is_made_longer_from_an_earlier_state(folder):
    _keep_the_one_before_alone(folder)
    recorded = run_folder.read_config(folder, configs.TrainConfig)
    longer = dataclasses.replace(recorded, epochs=3, run_dir=str(folder))
    run = setup.resume(longer)
    run.lock.release()
    assert run.steps_done == 22
    assert "It is now 44.damaged." in run.notes[0]
    assert (folder / "checkpoints" / "44.damaged" / "state").is_dir()
    assert len(run_folder.read_metrics(folder)) == 1
    assert not (folder / run_folder.RESULT).exists()


@pytest.mark.parametrize("damage", [_damage, _cut_short])
def test_an_unfinished_run_begins_anew(folder, damage):
    damage(folder)
    (folder / run_folder.RESULT).unlink()
    before = strangers.contents(folder / "checkpoints" / "44")
    recorded = run_folder.read_config(folder, configs.TrainConfig)
    run = setup.resume(dataclasses.replace(recorded, run_dir=str(folder)))
    run.lock.release()
    assert run.steps_done == 0
    kept = {_damage: "44.damaged", _cut_short: "44"}[damage]
    assert strangers.contents(folder / "checkpoints" / kept) == before
    assert len(run.notes) == (damage is _damage)


def test_stray_files_are_no_damage(folder, capsys):
    for place in ("", "checkpoints", "checkpoints/44", "checkpoints/44/state"):
        (folder / place / ".DS_Store").write_bytes(b"\0")
    (folder / run_folder.RESULT).unlink()
    recorded = run_folder.read_config(folder, configs.TrainConfig)
    run = setup.resume(dataclasses.replace(recorded, run_dir=str(folder)))
    run.lock.release()
    assert (run.steps_done, run.notes) == (44, ())


@pytest.mark.parametrize("name", ["checkpoints/44/sha256.json", "config.json"])
@pytest.mark.parametrize("is_finished", [True, False])
def test_what_cannot_be_read_is_an_error(
    folder, monkeypatch, capsys, name, is_finished
):
    if not is_finished:
        (folder / run_folder.RESULT).unlink()
    before = strangers.contents(folder)
    with monkeypatch.context() as patched:
        strangers.make_unreadable(patched, str(folder / name))
        with pytest.raises(SystemExit) as caught:
            cli.main(["train", "--resume", str(folder)])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert str(folder / name) in error
    assert "Permission denied" in error
    assert error.count("\n") == 1
    assert strangers.contents(folder) == before
