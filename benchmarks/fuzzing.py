"""Readers of files, and what each of them is given when it is fuzzed.

A reader may return or raise ValueError or OSError of one line; anything else is a
fault. It must leave the file as it is.
"""

import dataclasses
import io
import json
import pathlib
import random
import shutil
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks import mutations
from sgdat_jax import files, report, run_folder
from sgdat_jax.data import arrays, decoding, pictures
from sgdat_jax.experiments import configs, setup, sweep
from sgdat_jax.inference import weight_files
from sgdat_jax.training import checkpoint, runs

_SIZE = 24  # pixels of a side of the images


class Case(NamedTuple):
    """A reader, and the whole file that it reads."""

    file: pathlib.Path
    read: Callable[[], object]
    mutate: Callable[[random.Random], bytes]  # the next content of the file


class Counts(NamedTuple):
    """What came of the mutations of a file."""

    read: int  # as if nothing were wrong with it
    refused: int  # with one line
    faults: tuple[str, ...]  # what else was raised or lost, with its seed


def fuzz(case: Case, first: int, count: int) -> Counts:
    """Reads a file as each seed from ``first`` on changes it."""
    read, refused, faults = 0, 0, []
    for seed in range(first, first + count):
        changed = case.mutate(random.Random(seed))
        case.file.write_bytes(changed)
        fault = None
        try:
            case.read()
            read += 1
        except (ValueError, OSError) as error:
            refused += 1
            if "\n" in str(error) or not str(error):
                fault = f"{type(error).__name__} of other than one line: {error!r}"
        except Exception as error:
            fault = repr(error)
        if case.file.read_bytes() != changed:
            fault = "the file was changed"
        if fault:
            faults.append(f"{seed}: {fault[:200]}")
    return Counts(read, refused, tuple(faults))


def cases(
    folder: pathlib.Path, run: pathlib.Path, swept: pathlib.Path
) -> dict[str, Case]:
    """Returns all cases by name.

    Args:
      folder: for the changed files.
      run: a finished run with a saved state.
      swept: a finished sweep.
    """
    return (
        _of_run_folder(shutil.copytree(run, folder / "run"))
        | _of_sweep(shutil.copytree(swept, folder / "sweep"))
        | _of_weights(shutil.copytree(run, folder / "weights") / run_folder.BEST)
        | _of_images(folder)
        | _of_arrays(folder)
    )


def _of_run_folder(run: pathlib.Path) -> dict[str, Case]:
    config = run_folder.read_config(run, configs.TrainConfig)
    prepared = runs.unstarted(setup.plan(config, setup.load(config)), 0, run)
    step = checkpoint.steps(run / run_folder.CHECKPOINTS)[-1]
    state = checkpoint.restore(run / run_folder.CHECKPOINTS, prepared.state).state
    progress = checkpoint.progress_file(run / run_folder.CHECKPOINTS, step)
    ended = run / "ended"  # in another folder: such a run's result is not looked at
    ended.mkdir()
    run_folder.write_diverged(ended, 1, step)

    def read_config() -> None:
        run_folder.read_config(run, configs.TrainConfig)
        run_folder.read_data(run)

    def read_run() -> None:
        found, skipped = report.read_runs([run])
        if skipped:
            raise ValueError(skipped[0])
        rows = report.compare_runs(report.group_runs(found))
        report.comparison_table(rows)
        report.comparison_markdown(rows)

    def read_progress() -> None:
        found = files.read_json(progress)
        runs.at(prepared, checkpoint.Checkpoint(state, found))

    def read_digests() -> None:
        checkpoint.newest_whole(run / run_folder.CHECKPOINTS)

    documents = {
        run / run_folder.CONFIG: read_config,
        run / run_folder.RESULT: read_run,
        progress: read_progress,
        progress.with_name("sha256.json"): read_digests,
        ended / run_folder.DIVERGED: lambda: run_folder.read_diverged(ended),
    }
    lines = {run / name: read_run for name in (run_folder.METRICS, run_folder.TIMES)}
    return _documents(documents) | _lines(lines)


def _of_sweep(folder: pathlib.Path) -> dict[str, Case]:
    values = json.loads((folder / sweep.CONFIG).read_text())
    names = {field.name for field in dataclasses.fields(configs.SweepConfig)}
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name in names
    }
    config = dataclasses.replace(configs.SweepConfig(**values), run_dir=str(folder))

    def read_config() -> None:
        sweep.set_up(config).lock.release()

    def read_trials() -> None:
        trials = sweep.read(folder)
        report.settings_table(report.rank_settings(trials))

    return _documents({folder / sweep.CONFIG: read_config}) | _lines(
        {folder / sweep.TRIALS: read_trials}
    )


def _documents(readers: Mapping[pathlib.Path, Callable[[], None]]) -> dict[str, Case]:
    mutate = mutations.document
    return {file.name: _of_text(file, read, mutate) for file, read in readers.items()}


def _lines(readers: Mapping[pathlib.Path, Callable[[], None]]) -> dict[str, Case]:
    mutate = mutations.lines
    return {file.name: _of_text(file, read, mutate) for file, read in readers.items()}


def _of_text(
    file: pathlib.Path,
    read: Callable[[], object],
    mutate: Callable[[random.Random, str], bytes],
) -> Case:
    text = file.read_text()
    return Case(file, read, lambda chance: mutate(chance, text))


def _of_weights(file: pathlib.Path) -> dict[str, Case]:
    whole = file.read_bytes()
    with np.load(file) as archive:
        entries = dict(archive)
    about = entries["about"].tobytes().decode()

    def with_about(chance: random.Random) -> bytes:
        changed = np.frombuffer(mutations.document(chance, about), np.uint8)
        data = io.BytesIO()
        np.savez(data, **entries | {"about": changed})
        return data.getvalue()

    def read() -> None:
        weight_files.read_about(file)
        weight_files.read_model(file)

    return {
        "about of weights": Case(file, read, with_about),
        "weights": Case(file, read, lambda chance: mutations.content(chance, whole)),
        "weights, checksums made right": Case(
            file, read, lambda chance: _rewritten(chance, whole)
        ),
    }


def _rewritten(chance: random.Random, whole: bytes) -> bytes:
    """Returns an archive with a changed member, whose checksum is right."""
    data = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(whole)) as old,
        zipfile.ZipFile(data, "w", chance.choice([0, 8, 12, 14])) as new,
    ):
        names = old.namelist()
        victim = chance.choice(names)
        for name in names:
            member = old.read(name)
            if name == victim:
                head = mutations.content(chance, member[:128])
                member = head + member[128:]
            new.writestr(name, member)
    return data.getvalue()


def _of_images(folder: pathlib.Path) -> dict[str, Case]:
    pixels = random.Random(0).randbytes(_SIZE * _SIZE * 3)
    image = Image.frombytes("RGB", (_SIZE, _SIZE), pixels)
    found = {}
    for kind in pictures.FORMATS:
        file = folder / f"image.{kind.lower()}"
        image.save(file, kind)
        found[f"picture {kind}"] = _of_bytes(file, lambda file=file: _picture(file))
        if kind in decoding.FORMATS:
            other = shutil.copy(file, folder / f"decoded.{kind.lower()}")
            found[f"decoded {kind}"] = _of_bytes(
                other, lambda file=other: decoding.decode(file.read_bytes())
            )
    return found


def _picture(file: pathlib.Path) -> None:
    with file.open("rb") as data:
        pictures.read_header(data)
        pictures.read(data, (8, 8, 3), "crop")


def _of_arrays(folder: pathlib.Path) -> dict[str, Case]:
    file = folder / "array.npy"
    np.save(file, np.arange(600, dtype=np.uint8).reshape(10, 6, 10, 1))
    return {"array": _of_bytes(file, lambda: arrays.read(file).sum())}


def _of_bytes(file: pathlib.Path, read: Callable[[], Any]) -> Case:
    whole = file.read_bytes()
    return Case(file, read, lambda chance: mutations.content(chance, whole))
