"""How much faster is a sweep than one run after another?

The same models, each way in a process of its own so that none profits from what another
has compiled: as runs of ``sgdat-jax train`` that compile for themselves, as a sweep of
one model at a time in one program, and as a sweep of several at once by ``vmap``.

    python -m benchmarks.sweep_speed --models 8 --epochs 3
"""

import argparse
import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import jax

from benchmarks import timing
from sgdat_jax.experiments import configs, setup, sweep
from sgdat_jax.training import loop

THRESHOLDS = (0.0, 1e-8, 1e-7, 1e-6)
RESULTS = pathlib.Path(__file__).parent / "results" / "sweep_speed"
WAYS = ("runs", "one by one", "at once")


def settings_of(models, epochs, folder, at_once):
    return configs.SweepConfig(
        epochs=epochs,
        threshold=THRESHOLDS,
        seeds=models // len(THRESHOLDS),
        models_at_once=at_once,
        run_dir=str(pathlib.Path(folder, "sweep")),
    )


def train(way, models, epochs):
    """Trains all models in one way."""
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(
            models, epochs, folder, models if way == "at once" else 1
        )
        if way != "runs":
            for _ in sweep.train_all(sweep.set_up(settings)):
                pass
            return
        for number, trial in enumerate(sweep.trials(settings)):
            run_dir = str(pathlib.Path(folder, f"run{number}"))
            one = dataclasses.replace(
                settings.run(),
                seed=trial.seed,
                run_dir=run_dir,
                **trial.hyperparameters,
            )
            loop.train(setup.set_up(one), loop.Watcher())


def seconds_of(way, models, epochs):
    """Returns the seconds of a process that trains all models in one way."""
    call = f"sweep_speed.train({way!r}, {models}, {epochs})"
    command = [sys.executable, "-c", f"from benchmarks import sweep_speed; {call}"]
    environment = {k: v for k, v in os.environ.items() if "COMPILATION_CACHE" not in k}
    start = time.perf_counter()
    subprocess.run(command, check=True, env=environment)
    return time.perf_counter() - start


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=int, default=8, help="a multiple of 4")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.models < 1 or options.models % len(THRESHOLDS):
        parser.error(f"--models must be a multiple of 4, got {options.models}")
    seconds = {
        way: seconds_of(way, options.models, options.epochs) for way in options.ways
    }
    for way, took in seconds.items():
        faster = seconds[options.ways[0]] / took
        print(f"{way}: {took:.1f} s, {faster:.2f} times as fast as {options.ways[0]}")
    result = {"models": options.models, "seconds": seconds}
    timing.write(options.out / f"{jax.default_backend()}.json", result)


if __name__ == "__main__":
    main()
