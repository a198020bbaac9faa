import errno
import os
import shutil

import jax
import jax.numpy as jnp
import pytest

import shared_runs
from benchmarks import strangers
from sgdat_jax import run_folder
from sgdat_jax.training import checkpoint, states

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def _state(step, seed=0):
    a, b = jax.random.split(jax.random.key(seed))
    return states.TrainState(
        step=jnp.int32(step),
        seed=jnp.uint32(seed),
        params={"w": jax.random.normal(a, (3, 5)), "h": jnp.ones(4, jnp.bfloat16)},
        stats={"mean": jnp.array([jnp.nan, -0.0, jnp.inf])},
        opt_state=(
            jax.random.randint(b, (7,), -(2**15), 2**15, jnp.int16),
            jnp.array([2**31 - 1, -(2**31)], jnp.int32),
            jnp.zeros((), jnp.int8),
        ),
        skipped=jnp.int32(0),
        counts_before=None,
    )


_PROGRESS = {"lines": [{"loss": 0.1 + 0.2}], "record": None}


def _save(folder, *states, keep=2):
    with checkpoint.Saver(folder, keep) as saver:
        for saved in states:
            saver.save(checkpoint.Checkpoint(saved, _PROGRESS))


def test_round_trip_is_bit_equal_and_newest_wins(tmp_path):
    _save(tmp_path, *(_state(step, seed=step) for step in (8, 9, 10)))
    assert checkpoint.steps(tmp_path) == [9, 10]  # as text, "9" comes after "10"
    restored, progress = checkpoint.restore(tmp_path, _state(0))
    assert progress == _PROGRESS
    shared_runs.assert_bit_equal(restored, _state(10, seed=10))
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(restored)}
    assert dtypes == {"int8", "int16", "int32", "uint32", "bfloat16", "float32"}


def test_state_of_a_run_round_trips(tmp_path):
    run = shared_runs.finished()
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(run.state.opt_state)}
    assert {"int16", "int32", "float32"} <= dtypes
    like = shared_runs.fresh_state(run, seed=5)
    restored, _ = checkpoint.restore(run.folder / run_folder.CHECKPOINTS, like)
    shared_runs.assert_bit_equal(restored, run.state)


def test_missing_and_empty_folder(tmp_path):
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(ValueError, match="holds no checkpoint") as caught:
            checkpoint.restore(folder, _state(0))
        assert str(folder) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_of_another_run(tmp_path):
    _save(tmp_path, _state(1))
    with pytest.raises(ValueError, match=r"1 is not a checkpoint of this run"):
        checkpoint.restore(tmp_path, _state(0)._replace(opt_state=()))


def _truncate(file):
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def _change(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 1] = b"\x00"
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), _truncate, _change])
def test_damage_to_any_file(tmp_path, damage, capfd):
    _save(tmp_path / "good", _state(1))
    files = sorted(
        file.relative_to(tmp_path / "good")
        for file in (tmp_path / "good").rglob("*")
        if file.is_file()
    )
    assert len(files) > 5
    capfd.readouterr()
    for name in files:
        folder = tmp_path / "bad"
        shutil.copytree(tmp_path / "good", folder)
        before = (folder / name).read_bytes()
        damage(folder / name)
        if (folder / name).exists() and (folder / name).read_bytes() == before:
            restored, _ = checkpoint.restore(folder, _state(0))
            shared_runs.assert_bit_equal(restored, _state(1))
        else:
            with pytest.raises(ValueError, match=r"1 is a damaged|no chec") as caught:
                checkpoint.restore(folder, _state(0))
            if (folder / "1" / "sha256.json").exists():
                assert name.name in str(caught.value)
        shutil.rmtree(folder)
    assert capfd.readouterr().err == ""  # nothing but the one error


def test_the_one_before_a_damaged_checkpoint_is_used(tmp_path):
    _save(tmp_path, _state(1, seed=1), _state(2, seed=2))
    _change(tmp_path / "2" / "progress.json")
    found, (message,) = checkpoint.restore_newest_whole(tmp_path, _state(0))
    shared_runs.assert_bit_equal(found.state, _state(1, seed=1))
    assert "2 is a damaged checkpoint: progress.json has changed" in message
    assert message.endswith("has changed. It is now 2.damaged.")
    aside = (tmp_path / "2.damaged" / "progress.json").read_bytes()
    assert b"\x00" in aside
    _save(tmp_path, _state(2, seed=2))  # the damaged one is out of the way
    assert checkpoint.restore_newest_whole(tmp_path, _state(0))[1] == []
    for step in (1, 2):
        _truncate(tmp_path / str(step) / "state" / "_METADATA")
    found, messages = checkpoint.restore_newest_whole(tmp_path, _state(0))
    assert found is None
    assert len(messages) == 2
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["1.damaged", "2.damaged", "2.damaged-2"]
    assert (tmp_path / "2.damaged" / "progress.json").read_bytes() == aside


def test_what_was_cut_short_is_removed(tmp_path):
    _save(tmp_path, _state(1))
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    (tmp_path / "2" / "sha256.json").unlink()  # it comes last
    (tmp_path / "3" / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    assert checkpoint.steps(tmp_path) == [1]
    _save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize("place", ["state", "state/d", "state/ocdbt.process_0/d"])
@pytest.mark.parametrize("kind", ["file", "link"])
def test_an_unfinished_state_with_other_files_is_set_aside(tmp_path, place, kind):
    _save(tmp_path, _state(1), _state(2))
    (tmp_path / "2" / "sha256.json").unlink()
    stranger = tmp_path / "2" / place / "my copy"
    if kind == "file":
        stranger.write_text("mine")
    else:
        stranger.symlink_to("nowhere")
    before = strangers.contents(tmp_path / "2")
    _save(tmp_path, _state(2))
    assert checkpoint.steps(tmp_path) == [1, 2]
    assert strangers.contents(tmp_path / "2.unfinished") == before


def test_a_state_may_be_donated_while_it_is_saved(tmp_path):
    size = 1 << 22
    grow = jax.jit(lambda s: s._replace(params=s.params + 1), donate_argnums=0)
    begin = _state(1)._replace(params=jnp.zeros(size))
    with checkpoint.Saver(tmp_path, 2) as saver:
        saver.save(checkpoint.Checkpoint(begin, {}))
        after = begin
        for _ in range(20):
            after = grow(after)
    restored, _ = checkpoint.restore(tmp_path, after)
    assert float(after.params[0]) == 20
    assert not restored.params.any()


def test_format_of_an_earlier_version(tmp_path):
    (tmp_path / "44" / "default").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"was written by version 0\.1"):
        checkpoint.restore(tmp_path, _state(0))


def _put_strangers(folder, outside):
    """Puts what is not the program's beside its checkpoints and into whole ones."""
    (folder / "notes").mkdir()
    (folder / "notes" / "a").write_text("mine")
    for name in ("44 good copy", "best", "007", "\N{SUPERSCRIPT TWO}", "5.orig"):
        shutil.copytree(folder / "1", folder / name)
    (folder / "6").mkdir()  # empty, or without a state
    (folder / "7").mkdir()
    (folder / "7" / "thesis.txt").write_text("mine")
    (folder / "8" / "state").mkdir(parents=True)
    (folder / "8" / "state" / "thesis.txt").write_text("mine")
    (folder / "9").symlink_to(outside)
    (folder / "10").symlink_to("nowhere")
    (folder / "11").mkdir()
    (folder / "11" / "state").symlink_to(outside)
    (folder / "12").write_text("mine")
    (folder / ".DS_Store").write_bytes(b"\0mine")
    for place in ("1", "1/state", "1/state/d"):
        (folder / place / ".DS_Store").write_bytes(b"\0mine")
    (folder / "1" / "copy").mkdir()
    (folder / "1" / "empty").mkdir()
    (folder / "1" / "copy" / "link").symlink_to(outside)


def test_strange_files_are_ignored_and_stay(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "checkpoints"
    outside.mkdir()
    for name in ("sha256.json", "progress.json", "thesis.txt"):
        (outside / name).write_text("mine")
    _save(folder, _state(1))
    ours = set(strangers.contents(folder))
    _put_strangers(folder, outside)
    strange = {
        k: v for k, v in strangers.contents(tmp_path).items() if k[12:] not in ours
    }
    assert len(strange) > 40
    assert checkpoint.steps(folder) == [1]
    shared_runs.assert_bit_equal(checkpoint.restore(folder, _state(0)).state, _state(1))
    assert checkpoint.restore_newest_whole(folder, _state(0))[1] == []
    (folder / "2" / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    _save(folder, _state(3), _state(4), keep=1)
    after = strangers.contents(tmp_path)
    assert strange.items() <= after.items()
    assert checkpoint.steps(folder) == [4]
    assert not (folder / "2").exists()
    left = {name for name in after if name.startswith("checkpoints/1/")}
    assert left == {k for k in strange if k.startswith("checkpoints/1/")} | {
        "checkpoints/1/state",
        "checkpoints/1/state/d",
    }


@pytest.mark.parametrize("step", [8, 9, 10, 11, 12])
def test_nothing_is_saved_over_strange_files(tmp_path, step):
    outside, folder = tmp_path / "outside", tmp_path / "checkpoints"
    outside.mkdir()
    _save(folder, _state(1))
    _put_strangers(folder, outside)
    before = strangers.contents(tmp_path)
    with pytest.raises(
        OSError, match=rf"/{step}.* does not belong to this run"
    ) as error:
        _save(folder, _state(step))
    assert "\n" not in str(error.value)
    assert strangers.contents(tmp_path) == before


def test_a_link_in_place_of_the_folder_is_refused(tmp_path):
    _save(tmp_path / "outside", _state(1))
    (tmp_path / "outside" / "2").mkdir()
    (tmp_path / "outside" / "thesis.txt").write_text("mine")
    before = strangers.contents(tmp_path / "outside")
    (tmp_path / "checkpoints").symlink_to("outside")
    with pytest.raises(OSError, match="checkpoints cannot be written: it is a symb"):
        _save(tmp_path / "checkpoints", _state(3))
    assert strangers.contents(tmp_path / "outside") == before


def test_digests_that_lead_elsewhere_remove_nothing(tmp_path):
    _save(tmp_path / "checkpoints", _state(1))
    (tmp_path / "thesis.txt").write_text("mine")
    file = tmp_path / "checkpoints" / "1" / "sha256.json"
    names = (
        "../../thesis.txt",
        str(tmp_path / "thesis.txt"),
        "state/../../../thesis.txt",
    )
    text = file.read_text()[:-2] + "".join(f', "{name}": ""' for name in names) + "}"
    file.write_text(text)
    _save(tmp_path / "checkpoints", _state(2), keep=1)
    assert checkpoint.steps(tmp_path / "checkpoints") == [2]
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_damaged_old_checkpoint_does_not_stop_the_saver(tmp_path):
    _save(tmp_path, _state(1))
    (tmp_path / "1" / "sha256.json").write_text("{")
    _save(tmp_path, _state(2), keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {"1.damaged", "2"}


@pytest.mark.parametrize("name", ["sha256.json", "progress.json", "state/_METADATA"])
def test_a_file_that_cannot_be_read_is_no_damage(tmp_path, monkeypatch, name):
    _save(tmp_path, _state(1), _state(2))
    before = strangers.contents(tmp_path)
    unreadable = os.path.join(tmp_path, "2", name)
    strangers.make_unreadable(monkeypatch, unreadable)
    for read in (checkpoint.restore, checkpoint.restore_newest_whole):
        with pytest.raises(PermissionError, match="denied") as caught:
            read(tmp_path, _state(0))
        assert unreadable in str(caught.value)
    monkeypatch.undo()
    assert strangers.contents(tmp_path) == before
    assert checkpoint.restore_newest_whole(tmp_path, _state(0))[1] == []


def test_a_folder_that_cannot_be_read_is_not_empty(tmp_path, monkeypatch):
    _save(tmp_path, _state(1))

    def deny(folder):
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr("pathlib.Path.iterdir", deny)
    with pytest.raises(PermissionError, match="denied"):
        checkpoint.restore_newest_whole(tmp_path, _state(0))
