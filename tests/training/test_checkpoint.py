import shutil

import jax
import jax.numpy as jnp
import pytest

import shared_runs
from sgdat_jax.training import checkpoint, run_folder, state


def _state(step, seed=0):
    a, b = jax.random.split(jax.random.key(seed))
    return state.TrainState(
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
    _save(tmp_path, _state(2, seed=2))  # the damaged one is gone
    assert checkpoint.restore_newest_whole(tmp_path, _state(0))[1] == []
    for step in (1, 2):
        _truncate(tmp_path / str(step) / "state" / "_METADATA")
    found, messages = checkpoint.restore_newest_whole(tmp_path, _state(0))
    assert found is None
    assert len(messages) == 2


def test_what_was_cut_short_is_removed(tmp_path):
    _save(tmp_path, _state(1))
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    (tmp_path / "2" / "sha256.json").unlink()  # it comes last
    (tmp_path / "3" / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    assert checkpoint.steps(tmp_path) == [1]
    _save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


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
    with pytest.raises(ValueError, match=r"is of version 0\.1 of sgdat-jax"):
        checkpoint.restore(tmp_path, _state(0))
