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
    )


def test_round_trip_is_bit_equal_and_newest_wins(tmp_path):
    for step in (9, 10):  # as text, "9" comes after "10"
        checkpoint.save(tmp_path, _state(step, seed=step))
    restored = checkpoint.restore(tmp_path, _state(0))
    shared_runs.assert_bit_equal(restored, _state(10, seed=10))
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(restored)}
    assert dtypes == {"int8", "int16", "int32", "uint32", "bfloat16", "float32"}


def test_state_of_a_run_round_trips(tmp_path):
    run = shared_runs.finished()
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(run.state.opt_state)}
    assert {"int16", "int32", "float32"} <= dtypes
    like = shared_runs.fresh_state(run, seed=5)
    restored = checkpoint.restore(run.folder / run_folder.CHECKPOINTS, like)
    shared_runs.assert_bit_equal(restored, run.state)


def test_missing_and_empty_folder(tmp_path):
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(ValueError, match="holds no checkpoint") as caught:
            checkpoint.restore(folder, _state(0))
        assert str(folder) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_of_another_run(tmp_path):
    checkpoint.save(tmp_path, _state(1))
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
    checkpoint.save(tmp_path / "good", _state(1))
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
            shared_runs.assert_bit_equal(
                checkpoint.restore(folder, _state(0)), _state(1)
            )
        else:
            with pytest.raises(ValueError, match="1 is a damaged checkpoint") as caught:
                checkpoint.restore(folder, _state(0))
            assert name.name in str(caught.value)
        shutil.rmtree(folder)
    assert capfd.readouterr().err == ""  # nothing but the one error
