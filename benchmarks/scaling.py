"""What do many devices need, and where does the network become the limit?

Measures a training step of one device on its share of a batch, and computes from it a
table for 8 to 4096 devices that take as many images each:

    python -m benchmarks.scaling --model BinaryNet --batch 128 --gigabytes-per-second 50

State copied to every device stands beside state that is split over all of them, whose
weights are gathered at every step: as float32, or binary weights as single bits.
"""

import argparse
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks import timing, train_step
from sgdat_jax import cpu, files, optimizers
from sgdat_jax.data import sources
from sgdat_jax.experiments import configs, setup
from sgdat_jax.training import loop, steps
from sgdat_jax.training.devices import parallel, splits

RESULTS = pathlib.Path(__file__).parent / "results"
DEVICES = tuple(2**power for power in range(3, 13))
NOTES = """\
Measured, on one device of this machine: the seconds of a step on its share of a batch,
and the bytes that its program takes besides state and images. Exact, by the shapes of
the state and the rule by which they are split: the bytes of state. All else is computed
for n devices in a ring:

- gradients: each device sends 2 (n - 1) / n times their bytes to sum them up, whether
  the state is copied or split; where it is split the compiler may do with half of them;
- weights, where they are split into p parts: it sends (p - 1) / p times their bytes, 4
  per weight, or 1/8 per binary weight;
- efficiency: the measured seconds over the same and the bytes sent over the bandwidth,
  as if nothing of the two overlapped. Latency is left out.
"""


class Measured(NamedTuple):
    """What is measured of a step on one device."""

    seconds: float
    temporary_bytes: int  # of the program, besides its arguments


def gathered_bytes(params: Any, devices: int, *, bits: bool) -> float:
    """Returns the bytes that a device sends for all others to have the weights whole.

    Args:
      params: parameters, or their shapes.
      devices: over which they are split.
      bits: whether binary weights travel as bits.
    """

    def count(binary: Any, leaf: Any) -> float:
        pieces = math.prod(splits.parts(leaf.shape, devices))
        is_binary = not isinstance(binary, optax.MaskedNode)
        whole = leaf.size / 8 if bits and is_binary else _bytes(leaf)
        return whole * (pieces - 1) / pieces

    counts = jax.tree.map(
        count,
        optimizers.select_binary(params, params),
        params,
        is_leaf=lambda node: isinstance(node, optax.MaskedNode),
    )
    return sum(jax.tree.leaves(counts))


def _bytes(leaf: Any) -> int:
    return leaf.size * leaf.dtype.itemsize


def row(
    state: Any, devices: int, measured: Measured, bytes_per_second: float
) -> dict[str, Any]:
    """Returns a row of the table, as the notes say.

    Args:
      state: of a run, or its shapes.
      devices: how many.
      measured: of one of them.
      bytes_per_second: that a device sends to the next.
    """
    gradients = sum(map(_bytes, jax.tree.leaves(state.params)))
    all_reduced = 2 * (devices - 1) / devices * gradients
    weights = {
        "copied": 0.0,
        "split, float32": gathered_bytes(state.params, devices, bits=False),
        "split, bits": gathered_bytes(state.params, devices, bits=True),
    }
    seconds = {
        name: measured.seconds + (all_reduced + count) / bytes_per_second
        for name, count in weights.items()
    }
    return {
        "devices": devices,
        "state_bytes": {
            "copied": parallel.bytes_per_device(state, devices, sharded=False),
            "split": parallel.bytes_per_device(state, devices, sharded=True),
        },
        "gradients_sent_bytes": all_reduced,
        "weights_sent_bytes": weights,
        "seconds": seconds,
        "efficiency": {name: measured.seconds / s for name, s in seconds.items()},
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns rows as a table of Markdown."""
    headers = (
        "devices",
        "state copied, MB",
        "state split, MB",
        "gradients sent, MB",
        "weights as float32, MB",
        "weights as bits, MB",
        "efficiency copied",
        "split, float32",
        "split, bits",
    )
    lines = [" | ".join(headers), " | ".join(["---:"] * len(headers))]
    for one in rows:
        megabytes = (
            *one["state_bytes"].values(),
            one["gradients_sent_bytes"],
            *list(one["weights_sent_bytes"].values())[1:],
        )
        cells = [f"{one['devices']:,}", *(f"{n / 1e6:,.2f}" for n in megabytes)]
        cells += [f"{share:.1%}" for share in one["efficiency"].values()]
        lines.append(" | ".join(cells))
    return "".join(f"| {line} |\n" for line in lines)


def measure(settings: configs.TrainConfig, data: sources.Dataset, rounds: int) -> Any:
    """Returns the shapes of the state, and what is measured of a step on one device."""
    turn = train_step.training_steps(settings, data)
    turns = timing.take_turns([turn], rounds=rounds).wall[:, 0]
    plan = setup.plan(settings, data)
    state = jax.eval_shape(plan.init, 0)
    images = steps.Images.of(data.train_images, data.train_labels)
    indices = jnp.arange(settings.batch_size)[jnp.newaxis]
    take = loop.programs().train_steps
    compiled = take.lower(plan.task, state, images, indices).compile()
    memory = compiled.memory_analysis()
    seconds = timing.spread(turns).median / steps.steps_per_call()
    return state, Measured(seconds, memory.temp_size_in_bytes if memory else 0)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--model", default="BinaryNet", choices=("DigitsNet", *train_step.MODELS)
    )
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, default=128, help="images per device")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument(
        "--gigabytes-per-second",
        type=float,
        default=50.0,
        help="assumed: that a device sends to the next while it also receives",
    )
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args(arguments)
    cpu.keep_freed_memory()  # as the command does
    is_small = options.model == "DigitsNet"
    data = sources.digits() if is_small else train_step.made_images(options.batch)
    settings = train_step.settings_of(options.model, options.batch, options)
    state, measured = measure(settings, data, options.rounds)
    speed = 1e9 * options.gigabytes_per_second
    rows = [row(state, devices, measured, speed) for devices in DEVICES]
    title = (
        f"{options.model} x{options.width:g} in {options.dtype}, {options.batch} "
        f"images per device, {options.gigabytes_per_second:g} GB/s assumed. A step of "
        f"one device takes {1e3 * measured.seconds:.1f} ms and "
        f"{measured.temporary_bytes / 1e6:,.0f} MB besides state and images (measured)."
    )
    text = f"{title}\n\n{table(rows)}\n{NOTES}"
    print(text)
    result = {
        "title": title,
        "measured": measured._asdict(),
        "bytes_per_second_assumed": speed,
        "notes": NOTES,
        "rows": rows,
    }
    timing.write(options.out / "scaling.json", result)
    files.write_text(options.out / "scaling.md", f"# Many devices\n\n{text}")


if __name__ == "__main__":
    main()
