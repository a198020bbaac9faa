"""Saving and restoring the state of a run, with Orbax."""

import hashlib
import json
import pathlib

import jax
import orbax.checkpoint as ocp

from sgdat_jax.training import state as state_lib

# Orbax overlooks some damage and reports the rest from threads of its own, so each
# checkpoint has the digests of its files, by which damage is found before Orbax reads.
_DIGESTS = "sha256.json"


def save(folder: pathlib.Path, state: state_lib.TrainState) -> None:
    """Saves a state under its step; returns when it is on disk."""
    step = int(state.step)
    with ocp.CheckpointManager(folder.absolute()) as manager:
        manager.save(step, args=ocp.args.StandardSave(state))
    path = folder / str(step)
    (path / _DIGESTS).write_text(json.dumps(_digests(path), indent=2) + "\n")


def restore(folder: pathlib.Path, like: state_lib.TrainState) -> state_lib.TrainState:
    """Restores the newest state.

    Args:
      folder: what `save` was given.
      like: a state of the same run, for structure, shapes, dtypes and placement.

    Raises:
      ValueError: if there is no checkpoint, or it is damaged or does not fit ``like``.
    """
    # A checkpoint that is not whole yet has a longer name.
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    if not steps:
        raise ValueError(f"{folder} holds no checkpoint.")
    path = folder / str(max(steps))
    _check(path)
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    try:
        with ocp.CheckpointManager(folder.absolute()) as manager:
            return manager.restore(max(steps), args=ocp.args.StandardRestore(abstract))
    except Exception as error:  # what Orbax raises is not of one kind
        message = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is not a checkpoint of this run: {message}") from None


def _digests(path: pathlib.Path) -> dict[str, str]:
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file != path / _DIGESTS
    }


def _check(path: pathlib.Path) -> None:
    """Raises ValueError if a file of a checkpoint is not as `save` left it."""
    try:
        expected = json.loads((path / _DIGESTS).read_text())
        found = _digests(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is a damaged checkpoint: {_DIGESTS} cannot be read: {error}."
        ) from None
    if expected == found:
        return
    if not isinstance(expected, dict):
        raise ValueError(
            f"{path} is a damaged checkpoint: {_DIGESTS} holds no digests."
        )
    names = sorted({*expected, *found})
    name = next(name for name in names if expected.get(name) != found.get(name))
    kind = "is missing" if name not in found else "has changed"
    raise ValueError(f"{path} is a damaged checkpoint: {name} {kind}.")
