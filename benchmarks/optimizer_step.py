"""What does a step of each optimizer cost, beside one of `optax.adam`?

A step is ``update`` and `optax.apply_updates` in one compiled program that is given its
parameters and its state to overwrite. Each optimizer takes turns with Adam on the same
binary weights in the same process; the answer is the median of the paired ratios.

    python -m benchmarks.optimizer_step --quick
    python -m benchmarks.optimizer_step --trees BinaryNet 100M --dtypes float32
    python -m benchmarks.optimizer_step --quick --keep-memory  # as the command does
"""

import argparse
import functools
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import sgdat_jax as sj
from benchmarks import timing
from sgdat_jax import files

RESULTS = pathlib.Path(__file__).parent / "results" / "optimizer_step"
RIVAL = "optax.adam"
# Adam is timed against itself as well: what that differs from 1 is noise.
OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "sgdat": sj.sgdat,
    "sgdat int8": functools.partial(sj.sgdat, count_dtype=jnp.int8),
    "sgdat momentum": functools.partial(sj.sgdat, momentum=0.9),
    "sgdat reset": functools.partial(sj.sgdat, reset_flips_every=200),
    "sgdat compact": functools.partial(sj.sgdat, layout="compact"),
    "sgdat momentum compact": functools.partial(
        sj.sgdat, momentum=0.9, layout="compact"
    ),
    "sgdt": sj.sgdt,
    "sgdt compact": functools.partial(sj.sgdt, layout="compact"),
    "latent(sgd)": lambda: sj.latent(optax.sgd(1e-4)),
    "latent(adam)": lambda: sj.latent(optax.adam(1e-3)),
    "bop": sj.bop,
    "bop compact": functools.partial(sj.bop, layout="compact"),
    "bop2nd_order": sj.bop2nd_order,
    "boat": sj.boat,
    "prob_bop": functools.partial(sj.prob_bop, steps_per_epoch=200),
    "diode": sj.diode,
    RIVAL: functools.partial(optax.adam, 1e-3),
    "optax.adamw": functools.partial(optax.adamw, 1e-3),
    "optax.sgd momentum": functools.partial(optax.sgd, 1e-3, momentum=0.9),
    "optax.lion": functools.partial(optax.lion, 1e-4),
}
SIZES = {"1M": 10**6, "10M": 10**7, "100M": 10**8, "1G": 10**9}
TREES = ("BinaryNet", "ResNet18", "1000 leaves", *SIZES)
QUICK = {"trees": ["BinaryNet"], "dtypes": ["float32"], "rounds": 10}
FULL = {
    "trees": [tree for tree in TREES if tree != "1G"],
    "dtypes": ["float32", "bfloat16"],
    "rounds": 40,
}
_COPIED = 2**25  # weights; their 128 MiB are beyond most caches


class Costs(NamedTuple):
    """What the compiler knows of a step; all in bytes or operations per weight."""

    state: float
    moved: float  # arguments read and results written once: no step needs less
    accessed: float  # by all fused loops together
    temporary: float  # allocated beyond arguments and results
    flops: float


def shapes_of(tree: str) -> list[tuple[int, ...]]:
    """Returns the shapes of a tree's leaves: a network's binary weights, or made up."""
    if tree in SIZES:
        return [(SIZES[tree],)]
    if tree == "1000 leaves":
        return [(32, 32)] * 1000
    network = {"BinaryNet": sj.models.BinaryNet, "ResNet18": sj.models.SgdatResNet18}
    model = nnx.eval_shape(lambda: network[tree](rngs=nnx.Rngs(0)))
    return [leaf.shape for leaf in jax.tree.leaves(nnx.state(model, sj.BinaryParam))]


def structs(tree: str, dtype: str) -> list[jax.ShapeDtypeStruct]:
    """Returns a tree's leaves as shapes and dtypes alone."""
    return [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes_of(tree)]


def compile_step(
    tx: optax.GradientTransformation, params: Sequence[jax.ShapeDtypeStruct]
) -> jax.stages.Compiled:
    """Compiles ``step(params, state, gradients)``, which overwrites the first two."""

    def step(params, state, gradients):
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(tx.init, params)
    step_of = jax.jit(step, donate_argnums=(0, 1))
    return step_of.lower(params, state, params).compile()


def costs_of(
    step: jax.stages.Compiled,
    tx: optax.GradientTransformation,
    params: Sequence[jax.ShapeDtypeStruct],
) -> Costs:
    """Returns what the compiler knows of a step."""
    memory, cost = step.memory_analysis(), step.cost_analysis()
    weights = _weights(params)
    per_weight = (
        _bytes(jax.eval_shape(tx.init, params)),
        memory.argument_size_in_bytes + memory.output_size_in_bytes,
        cost.get("bytes accessed", math.nan),
        memory.temp_size_in_bytes,
        cost.get("flops", math.nan),
    )
    return Costs(*(value / weights for value in per_weight))


def runner(
    step: jax.stages.Compiled,
    tx: optax.GradientTransformation,
    gradients: Sequence[jax.Array],
) -> Callable[[], Any]:
    """Returns a function that takes one step of a training of its own."""
    params = jax.jit(lambda tree: jax.tree.map(_signs, tree))(gradients)
    carry = [params, jax.jit(tx.init)(params)]

    def run():
        carry[:] = step(*carry, gradients)
        return carry

    return run


def gradients_like(params: Sequence[jax.ShapeDtypeStruct]) -> list[jax.Array]:
    """Returns normally distributed gradients."""
    rng = np.random.default_rng(0)
    return [
        jnp.asarray(rng.standard_normal(p.shape, np.float32), p.dtype) for p in params
    ]


def measure(
    tree: str,
    dtype: str,
    names: Sequence[str],
    *,
    rounds: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """Times optimizers against the rival on one tree.

    Args:
      tree: one of `TREES`.
      dtype: of weights and gradients.
      names: keys of `OPTIMIZERS`.
      rounds: how often each pair takes turns.
      seconds: after which a pair ends earlier.

    Returns:
      A row per optimizer; without times where a pair does not fit into memory.
    """
    params = structs(tree, dtype)
    rival_tx = OPTIMIZERS[RIVAL]()
    rival_step = compile_step(rival_tx, params)
    fits = 3 * _bytes(params) + _peak(rival_step) < timing.free_memory()
    gradients = gradients_like(params) if fits else None
    rival = runner(rival_step, rival_tx, gradients) if fits else None
    copy = timing.copier(_COPIED)
    rows = []
    for name in names:
        tx = OPTIMIZERS[name]()
        step = compile_step(tx, params)
        costs = costs_of(step, tx, params)
        row = {"tree": tree, "dtype": dtype, "optimizer": name, "rival": RIVAL}
        row |= {"weights": _weights(params), "leaves": len(params)} | costs._asdict()
        if rival is not None and _peak(step) < timing.free_memory():
            turns = [runner(step, tx, gradients), rival, copy]
            samples = timing.take_turns(turns, rounds=rounds, seconds=seconds)
            row |= _times(samples, costs.moved * _weights(params))
            del turns  # before the next takes as much memory
        print(_line(row), flush=True)
        rows.append(row)
    return rows


def _times(samples: timing.Samples, moved: float) -> dict[str, Any]:
    copied = 2 * 4 * _COPIED / samples.wall[:, 2]
    return {
        "rounds": len(samples.wall),
        "seconds": timing.spread(samples.wall[:, 0])._asdict(),
        "rival_seconds": timing.spread(samples.wall[:, 1])._asdict(),
        "ratio": timing.paired_ratio(samples.wall, 0, 1)._asdict(),
        "cpu_ratio": timing.paired_ratio(samples.cpu, 0, 1)._asdict(),
        "copy_share": timing.spread(moved / samples.wall[:, 0] / copied)._asdict(),
    }


def _signs(leaf: jax.Array) -> jax.Array:
    return jnp.where(leaf >= 0, 1, -1).astype(leaf.dtype)


def _weights(params: Sequence[jax.ShapeDtypeStruct]) -> int:
    return sum(math.prod(leaf.shape) for leaf in params)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _peak(step: jax.stages.Compiled) -> int:
    memory = step.memory_analysis()
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes


def _line(row: dict[str, Any]) -> str:
    ratio = f"{row['ratio']['median']:.3f}" if "ratio" in row else "does not fit"
    return f"{row['tree']:12} {row['dtype']:9} {row['optimizer']:20} {ratio}"


def tables(rows: Sequence[dict[str, Any]]) -> list[Any]:
    """Returns a table for the terminal of each tree and dtype."""
    from rich import box
    from rich import table as rich_table

    made = []
    for tree, dtype in dict.fromkeys((row["tree"], row["dtype"]) for row in rows):
        group = [row for row in rows if (row["tree"], row["dtype"]) == (tree, dtype)]
        of_group = rich_table.Table(
            *("optimizer", "time ratio", "CPU", "ms", "of copy", *Costs._fields),
            title=f"{tree}, {group[0]['weights']:,} weights, {dtype}",
            box=box.SIMPLE_HEAD,
        )
        for row in group:
            of_group.add_row(
                row["optimizer"],
                *(_measured(row) if "ratio" in row else ["-"] * 4),
                *(f"{row[key]:.1f}" for key in Costs._fields),
            )
        made.append(of_group)
    made[-1].caption = (
        f"Time over {RIVAL}'s, median of paired ratios and quartiles. The last columns "
        "are per weight, in bytes and operations; of copy: bytes moved a second over "
        "those of adding 1 in place."
    )
    return made


def _measured(row: dict[str, Any]) -> list[str]:
    ratio = row["ratio"]
    return [
        f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})",
        f"{row['cpu_ratio']['median']:.2f}",
        f"{1e3 * row['seconds']['median']:.2f}",
        f"{row['copy_share']['median']:.0%}",
    ]


def plot(rows: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws the ratios, a panel for each tree of weights, as PNG and SVG."""
    from sgdat_jax.report import figures

    timed = [row for row in rows if "ratio" in row]
    if not timed:
        return
    trees = list(dict.fromkeys((row["tree"], row["dtype"]) for row in timed))
    names = list(dict.fromkeys(row["optimizer"] for row in timed))
    titles = [f"{tree}, {dtype}" for tree, dtype in trees]
    fig, panels = figures.row_panels(titles, names)
    low = min(row["ratio"]["low"] for row in timed) / 1.1
    high = max(row["ratio"]["high"] for row in timed) * 1.1
    for axes, key in zip(panels, trees, strict=True):
        for row in timed:
            if (row["tree"], row["dtype"]) != key:
                continue
            place, ratio = names.index(row["optimizer"]), row["ratio"]
            ends = (ratio["low"], ratio["high"])
            axes.plot(ends, (place, place), color=figures.PALE, linewidth=4)
            axes.plot(ratio["median"], place, "o", color=figures.MAIN)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(min(low, 0.5), max(high, 2.0))
        figures.name_line(axes, 1.0, RIVAL)
    fig.supxlabel(f"time over {RIVAL}'s: median and quartiles", fontsize="medium")
    figures.title(fig, "a step of each optimizer")
    figures.save(fig, path)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the options of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="BinaryNet in float32, ten rounds")
    add("--trees", nargs="+", choices=TREES, help="what to train")
    add("--dtypes", nargs="+", choices=FULL["dtypes"], help="of the weights")
    add("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    add("--rounds", type=int, help="that each pair takes turns")
    add("--seconds", type=float, default=20.0, help="after which a pair ends earlier")
    add("--keep-memory", action="store_true", help="that is freed, as sgdat-jax does")
    add("--plot", type=pathlib.Path, help="draw recorded results, and end")
    add("--name", help="of the files of results; the backend's if none is given")
    add("--out", type=pathlib.Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    for key, value in (QUICK if options.quick else FULL).items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    return options


def main() -> None:
    """Measures, prints the table and writes the results and the plot."""
    options = parse()
    if options.plot is not None:
        plot(files.read_json(options.plot)["rows"], options.plot.with_suffix(".png"))
        return
    if options.keep_memory:
        sj.keep_freed_memory()
    rows = []
    for tree in options.trees:
        for dtype in options.dtypes:
            rows += measure(
                tree,
                dtype,
                options.optimizers,
                rounds=options.rounds,
                seconds=options.seconds,
            )
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / (options.name or jax.default_backend())
    kept = {"keeps_memory": options.keep_memory}
    result = timing.circumstances() | kept | {"rows": rows}
    files.write_json(path.with_suffix(".json"), result, indent=1)

    import rich

    rich.print(*tables(rows))
    plot(rows, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
