"""What do training steps and optimizers take on TPUs and GPUs, by compiled programs?

XLA compiles for TPUs that are not there (``pip install -e '.[tpu-compile]'``). Its
programs tell memory, bytes moved, operations and what chips send to each other. Times
are computed from the chips' published rates, never measured: the longest of operations,
bytes and links, as if each ran at its peak and all at once. No step is faster.

    python -m benchmarks.compiled optimizers
    python -m benchmarks.compiled steps --models BinaryNet --chips v5e --devices 1 4
    python -m benchmarks.compiled steps --devices 4 256 --states sharded
    python -m benchmarks.compiled tables

An H100 or H200 needs an environment with ``jax[cuda13]`` (4.7 GB), no driver. There
libraries multiply, and the program does not tell the number of operations:

    python -m benchmarks.compiled optimizers --chips H100 H200
    python -m benchmarks.compiled steps --models BinaryNet --chips H100

A step takes minutes to compile. Each is kept as soon as it is known, and what is kept
is not compiled again unless ``--anew`` is given; ``tables`` writes all as Markdown.
"""

import argparse
import collections
import importlib.metadata
import itertools
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import chips, hlo, hlo_products, optimizer_step, timing, train_step
from sgdat_jax import files
from sgdat_jax.data import sources
from sgdat_jax.experiments import configs, setup
from sgdat_jax.training import ahead, runs
from sgdat_jax.training.devices import parallel

RESULTS = pathlib.Path(__file__).parent / "results" / "compiled"
OPTIMIZERS = (
    "optax.adam",
    "sgdat",
    "sgdat int8",
    "sgdat compact",
    "sgdat momentum",
    "latent(sgd)",
    "bop",
)


def computed(
    chip: chips.Chip, operations: dict[str, float], hbm: float, sent: float
) -> dict[str, float]:
    """Returns the seconds that a program takes at least, by what bounds it.

    Args:
      chip: one of those that run it.
      operations: of one chip, by the dtype of their operands.
      hbm: bytes that it reads from and writes to its memory.
      sent: bytes that it sends to others.
    """
    narrow = operations.get("s8", 0)
    wide = sum(operations.values()) - narrow
    found = {
        "operations": wide / chip.operations + narrow / chip.int8_operations,
        "bytes": hbm / chip.hbm_bytes,
        "links": sent / chip.sent_bytes,
    }
    return {**found, "all": max(found.values())}


def facts(chip: chips.Chip, compiled: jax.stages.Compiled) -> dict[str, Any]:
    """Returns what a compiled program tells of one chip."""
    program = hlo.parse(compiled.as_text())
    operations: dict[str, float] = collections.Counter()
    kinds: dict[str, int] = collections.Counter()
    for product in hlo_products.products(program):
        both = set(product.operands)
        operations["s8" if both == {"s8"} else "bf16"] += product.operations
        kinds[f"{' x '.join(product.operands)} -> {product.result}"] += 1
    sent: dict[str, float] = collections.Counter()
    for one in hlo.collectives(program):
        sent[f"{one.kind} {one.dtype}"] += one.sent
    memory = compiled.memory_analysis()
    hbm = hlo.hbm_bytes(program)
    return {
        "state_and_batch_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "hbm_bytes": hbm,
        "operations": dict(operations),
        "products": dict(kinds),
        "sent_bytes": dict(sent),
        "computed_seconds": computed(chip, operations, hbm, sum(sent.values())),
    }


def plan(model: str, layout: parallel.Layout, dtype: str, images: int) -> runs.Plan:
    """Returns a run on images of CIFAR's shape, so many per device."""
    batch = images * layout.devices
    pixels = np.broadcast_to(np.uint8(0), (batch, *train_step.SHAPE))
    labels = np.broadcast_to(np.int32(0), batch)
    names = tuple("0123456789")
    made = sources.Dataset("made", pixels, labels, pixels, labels, class_names=names)
    config = configs.TrainConfig(
        model=model,
        compute_dtype=dtype,
        batch_size=batch,
        crop_padding=4,
        flip=True,
        normalization="imagenet",
    )
    return setup.plan(config, made, layout)


def step(
    chip: str, devices: int, state: str, model: str, dtype: str, images: int
) -> dict[str, Any]:
    """Returns a row: a training step on some chips."""
    layout = parallel.lay_out(chips.devices(chip, devices), sharded=state == "sharded")
    compiled = ahead.train_batch(plan(model, layout, dtype, images)).compile()
    return facts(chips.CHIPS[chip], compiled)


def optimizer(chip: str, name: str, dtype: str) -> dict[str, Any]:
    """Returns a row: update and `optax.apply_updates` of the weights of BinaryNet."""
    layout = parallel.lay_out(chips.devices(chip, 1))
    shapes = optimizer_step.shapes_of("BinaryNet")
    tx = optimizer_step.OPTIMIZERS[name]()
    params = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]

    def take(params: Any, state: Any, gradients: Any) -> Any:
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    arguments = params, jax.eval_shape(tx.init, params), params
    lowered = jax.jit(take, donate_argnums=(0, 1)).lower(
        *layout.whole_shapes(arguments)
    )
    found = facts(chips.CHIPS[chip], lowered.compile())
    return found | {
        "bytes_per_weight": found["hbm_bytes"] / sum(map(math.prod, shapes))
    }


def keep(file: pathlib.Path, key: dict[str, Any], row: dict[str, Any]) -> None:
    """Writes a row to its file, in the place of the one of the same key."""
    rows = [old for old in read(file) if not key.items() <= old.items()]
    compiler = "libtpu" if key["chip"] in chips.TPUS else "jaxlib"
    version = importlib.metadata.version(compiler)
    timing.write(file, {"rows": [*rows, {**key, **row, compiler: version}]})


def is_known(file: pathlib.Path, key: dict[str, Any]) -> bool:
    """Returns whether a row of a key is kept."""
    return any(key.items() <= row.items() for row in read(file))


def read(file: pathlib.Path) -> list[dict[str, Any]]:
    return files.read_json(file)["rows"] if file.exists() else []


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table of Markdown, the numbers to the right."""
    lines = [headers, [*["---"] * 2, *["---:"] * (len(headers) - 2)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def optimizers_table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a line per optimizer and dtype; chips differ in their rates alone."""
    of = {(row["optimizer"], row["dtype"], row["chip"]): row for row in rows}
    names = [name for name in chips.CHIPS if any(key[2] == name for key in of)]
    lines = []
    for dtype, name in itertools.product(("float32", "bfloat16"), OPTIMIZERS):
        found = [of.get((name, dtype, chip)) for chip in names]
        rivals = [of.get((OPTIMIZERS[0], dtype, chip)) for chip in names]
        if not names or not all(found) or not all(rivals):
            continue
        cells = [f"`{name}`", dtype, f"{found[0]['bytes_per_weight']:.1f}"]
        ratio = found[0]["hbm_bytes"] / rivals[0]["hbm_bytes"]
        cells.append(f"{ratio:.2f}")
        cells += [f"{1e6 * row['computed_seconds']['all']:.0f}" for row in found]
        lines.append(cells)
    headers = ["optimizer", "weights", "HBM bytes per weight", "over Adam's"]
    return table([*headers, *(f"computed, {chip}, µs" for chip in names)], lines)


def steps_table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a line per step."""
    lines = []
    for row in sorted(
        rows, key=lambda row: (row["model"], row["chip"], row["devices"])
    ):
        seconds, sent = row["computed_seconds"], row["sent_bytes"]
        operations = sum(row["operations"].values())
        state = row["state"] if row["devices"] > 1 else ""
        lines.append(
            [
                f"{row['model']}, {row['dtype']}, {row['images']} images",
                f"{row['devices']} x {row['chip']} {state}".strip(),
                f"{row['state_and_batch_bytes'] / 1e6:,.1f}",
                f"{row['temporary_bytes'] / 1e6:,.0f}",
                f"{row['hbm_bytes'] / 1e9:.2f}",
                f"{operations / 1e12:.2f}" if operations else "",
                f"{sum(sent.values()) / 1e6:,.1f}" if sent else "",
                " / ".join(
                    f"{1e3 * seconds[name]:.2f}"
                    for name in ("operations", "bytes", "links")
                ),
            ]
        )
    headers = ["per chip", "chips", "state and batch, MB", "temporary, MB", "HBM, GB"]
    headers += ["10^12 operations", "sent, MB"]
    return table([*headers, "computed: operations / bytes / links, ms"], lines)


def write_tables(out: pathlib.Path) -> str:
    """Writes what is kept as Markdown, and returns it."""
    text = "# Compiled for TPUs and GPUs, never run\n\n"
    text += f"{optimizers_table(read(out / 'optimizers.json'))}\n"
    text += steps_table(read(out / "steps.json"))
    files.write_text(out / "tables.md", text)
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("optimizers", "steps", "tables"))
    parser.add_argument("--chips", nargs="+", default=chips.TPUS)
    parser.add_argument("--devices", nargs="+", type=int, default=[1])
    parser.add_argument("--states", nargs="+", default=["sharded"])
    parser.add_argument("--models", nargs="+", default=["BinaryNet"])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"])
    parser.add_argument("--images", type=int, default=1024, help="per device")
    parser.add_argument("--anew", action="store_true", help="also what is kept")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")
    if options.what == "optimizers":
        dtypes = ("float32", "bfloat16")
        for key in itertools.product(options.chips, OPTIMIZERS, dtypes):
            named = dict(zip(("chip", "optimizer", "dtype"), key, strict=True))
            keep(options.out / "optimizers.json", named, optimizer(*key))
    elif options.what == "steps":
        names = ("chip", "devices", "state", "model", "dtype", "images")
        for key in itertools.product(
            options.chips,
            options.devices,
            options.states,
            options.models,
            options.dtypes,
            [options.images],
        ):
            named = dict(zip(names, key, strict=True))
            file = options.out / "steps.json"
            if options.anew or not is_known(file, named):
                keep(file, named, step(*key))
                print(named, flush=True)
    print(write_tables(options.out))


if __name__ == "__main__":
    main()
