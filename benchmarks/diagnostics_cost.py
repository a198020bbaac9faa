"""What do diagnostics add to a training step?

The step of ``sgdat-jax train`` with and without ``--diagnostics``, in turns, and what
they add at the end of an epoch. Off, the program is the same as without the feature.

    python -m benchmarks.diagnostics_cost --model BinaryNet --width 0.25
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp

from benchmarks import timing, train_step
from sgdat_jax import optimizers
from sgdat_jax.data import sources
from sgdat_jax.experiments import configs, setup
from sgdat_jax.training import steps
from sgdat_jax.training.metrics import diagnostics

RESULTS = pathlib.Path(__file__).parent / "results" / "diagnostics_cost"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="DigitsNet")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args(arguments)
    is_small = options.model == "DigitsNet"
    data = sources.digits() if is_small else train_step.made_images(options.batch)
    turns = [
        train_step.training_steps(
            configs.TrainConfig(
                model=options.model,
                width=options.width,
                batch_size=options.batch,
                diagnostics=on,
            ),
            data,
        )
        for on in (False, True)
    ]
    samples = timing.take_turns(turns, rounds=options.rounds)
    ratio = timing.paired_ratio(samples.wall, 1, 0)
    per_epoch = epoch_seconds(options, data)
    step = timing.spread(samples.wall[:, 0]).median / steps.steps_per_call()
    print(f"{options.model} x{options.width:g}, batch {options.batch}:")
    print(
        f"a step takes {1e3 * step:.1f} ms; with diagnostics {ratio.median:.3f} of it"
    )
    print(f"(quartiles {ratio.low:.3f} to {ratio.high:.3f})")
    print(f"the end of an epoch takes {1e3 * per_epoch:.1f} ms more")
    result = {
        "ratio": ratio._asdict(),
        "rounds": len(samples.wall),
        "step_seconds": step,
        "epoch_seconds": per_epoch,
    }
    name = f"{jax.default_backend()}-{options.model}-width{options.width:g}.json"
    timing.write(options.out / name, result)


def epoch_seconds(options, data):
    """Returns what the distributions at the end of an epoch take."""
    settings = configs.TrainConfig(
        model=options.model, width=options.width, batch_size=options.batch
    )
    state = setup.plan(settings, data).init(0)
    counts = jax.jit(optimizers.flip_counts)(state.opt_state)
    before = jax.tree.map(jnp.zeros_like, counts)
    diagnose = jax.jit(diagnostics.diagnose)
    samples = timing.take_turns([lambda: diagnose(state.opt_state, before)], rounds=11)
    return timing.spread(samples.wall).median


if __name__ == "__main__":
    main()
