"""Saving and restoring the state of a run, with Orbax."""

import pathlib

import jax
import orbax.checkpoint as ocp

from sgdat_jax.training import state as state_lib


def save(folder: pathlib.Path, state: state_lib.TrainState) -> None:
    """Saves a state under its step; returns when it is on disk."""
    with _manager(folder) as manager:
        manager.save(int(state.step), args=ocp.args.StandardSave(state))


def restore(folder: pathlib.Path, like: state_lib.TrainState) -> state_lib.TrainState:
    """Restores the newest state.

    Args:
      folder: what `save` was given.
      like: a state of the same run, for structure, shapes, dtypes and placement.

    Raises:
      ValueError: if there is no checkpoint or it does not fit ``like``.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} holds no checkpoint.")
    with _manager(folder) as manager:
        step = manager.latest_step()
        if step is None:
            raise ValueError(f"{folder} holds no checkpoint.")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return manager.restore(step, args=ocp.args.StandardRestore(abstract))


def _manager(folder: pathlib.Path) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(folder.absolute())
