"""What does a trained network cost where it is used?

One network is exported in every format, and its files take turns: our compiled
function, StableHLO through jax, IREE by counting bits, in int8 and in float32, and
onnxruntime in float32. For each: bytes of the file, seconds from the file to the first
prediction, the latency of a single image (median and 99th percentile) and images per
second of a batch; IREE's files take images one by one, so latency tells both. All use
as many threads as the process may use processors, so one thread and two are

    taskset -c 0 python -m benchmarks.deployment --models DigitsNet
    taskset -c 0,1 python -m benchmarks.deployment --models DigitsNet

Exporting takes minutes. With `--files` what is written is kept, so that it can be done
beforehand (`--prepare`), on a machine that has other work to do. `--processor
x86-64-v3` compiles for processors that count no bits in vectors, which does not reach
onnxruntime. It needs Linux and the extra `export`. Weights are by chance, with averages
of images that the network has seen once.
"""

import argparse
import json
import os
import pathlib
import tempfile
import time

import numpy as np

from benchmarks import deployed, timing
from sgdat_jax import cpu
from sgdat_jax.inference.export import networks

RESULTS = pathlib.Path(__file__).parent / "results" / "deployment"
MODELS = ("DigitsNet", "BinaryNet", "BiRealResNet18")
BATCH = 64
CALLS = 5  # timed in a row
PACKAGES = ("iree-base-compiler", "iree-base-runtime", "onnxruntime")
PROCESSORS = ("x86-64-v3",)


def take_turns(turns, rounds, seconds, calls=CALLS, fewest=5):
    """Returns seconds of shape (rounds, programs, calls).

    Each program's first call of a round is not timed: after the others, the caches lack
    what it needs. The order of programs is by chance.
    """
    taken, chance = [], np.random.default_rng(0)
    begun = time.perf_counter()
    for _ in range(rounds):
        row = np.zeros((len(turns), calls))
        for place in chance.permutation(len(turns)):
            turns[place]()
            for call in range(calls):
                start = time.perf_counter()
                turns[place]()
                row[place, call] = time.perf_counter() - start
        taken.append(row)
        if len(taken) >= fewest and time.perf_counter() - begun > seconds:
            break
    return np.array(taken)


def measure(model, width, folder, options):
    """Returns a row per program of one network."""
    programs = deployed.read_programs(folder, options.programs)
    weights = networks.open_network(folder / deployed.WEIGHTS, None, "uint8")
    images = weights.random_inputs(BATCH)
    single = take_turns(
        [program.bind(images[:1]) for program in programs.values()],
        options.rounds,
        options.seconds,
    )
    # Batches take long, and a few rounds of them tell enough.
    with_batches = [name for name in programs if deployed.FORMS[name].takes_batches]
    batches = take_turns(
        [programs[name].bind(images) for name in with_batches],
        options.rounds,
        options.seconds / 2,
        calls=1,
        fewest=3,
    )
    typical = np.median(single, -1)

    def over(place, name):
        if name not in programs:
            return None
        rival = list(programs).index(name)
        return timing.paired_ratio(typical, place, rival)._asdict()

    def images_per_second(place, name):
        if name in with_batches:
            return BATCH / float(np.median(batches[:, with_batches.index(name)]))
        return 1 / float(np.median(single[:, place]))

    return [
        {
            "model": model,
            "width": width,
            "threads": deployed.threads(),
            "program": name,
            "file_bytes": program.file_bytes,
            "over_float32_bytes": program.file_bytes
            / deployed.float32_bytes(model, width),
            "load_seconds": program.load_seconds,
            "rounds": len(single),
            "calls_a_round": CALLS,
            "latency": timing.spread(single[:, place])._asdict(),
            "latency_99": float(np.percentile(single[:, place], 99)),
            "over_onnxruntime": over(place, deployed.RIVAL),
            "over_ours": over(place, deployed.OURS),
            "rounds_of_batches": len(batches),
            "images_per_second": images_per_second(place, name),
        }
        for place, (name, program) in enumerate(programs.items())
    ]


def show(rows):
    def ratio(row, name):
        return f"{row[name]['median']:.2f}" if row[name] else "-"

    cells = [
        {
            "program": row["program"],
            "file kB": f"{row['file_bytes'] / 1e3:,.0f}",
            "of float32": f"1/{1 / row['over_float32_bytes']:.1f}",
            "load s": f"{row['load_seconds']:.2f}",
            "ms": f"{1e3 * row['latency']['median']:.3f}",
            "99 %": f"{1e3 * row['latency_99']:.3f}",
            "/ onnxruntime": ratio(row, "over_onnxruntime"),
            "/ ours": ratio(row, "over_ours"),
            "images/s": f"{row['images_per_second']:,.0f}",
        }
        for row in rows
    ]
    print(
        f"{rows[0]['model']}, width {rows[0]['width']:g}, {rows[0]['threads']} threads"
    )
    timing.show(cells, names=("program",))


def tables(folder):
    """Returns recorded results as tables in Markdown: latency, throughput and files."""
    results = [
        json.loads(file.read_text())
        for model in MODELS
        for file in sorted(folder.glob(f"{model}-width*-threads*.json"))
    ]
    cells = {
        "Milliseconds for a single image, median (99th percentile)": lambda row: (
            f"{1e3 * row['latency']['median']:.3f} ({1e3 * row['latency_99']:.3f})"
        ),
        f"Images per second, {BATCH} at a time": lambda row: (
            f"{row['images_per_second']:,.0f}"
        ),
        "File in kB (seconds from it to the first prediction)": lambda row: (
            f"{row['file_bytes'] / 1e3:,.0f} ({row['load_seconds']:.2f})"
        ),
    }
    return "\n\n".join(
        "\n".join([f"{title}:", "", *_table(results, cell)])
        for title, cell in cells.items()
    )


def _table(results, cell):
    yield f"| network | width | compiled for | threads | {' | '.join(deployed.FORMS)} |"
    yield f"|---|---:|---|---:|{'---:|' * len(deployed.FORMS)}"
    for result in results:
        rows = {row["program"]: row for row in result["rows"]}
        first = next(iter(rows.values()))
        # Not recorded at first.
        compiled_for = result.get("compiled_for", "this processor")
        case = first["model"], f"{first['width']:g}", compiled_for
        known = [cell(rows[name]) if name in rows else "" for name in deployed.FORMS]
        yield f"| {' | '.join([*case, str(result['threads']), *known])} |"


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, default=list(MODELS))
    add("--widths", nargs="+", type=float, default=[0.25, 1.0])
    add("--programs", nargs="+", choices=deployed.FORMS, help="all by default")
    add("--processor", choices=PROCESSORS, help="to compile for; this one by default")
    add("--rounds", type=int, default=501, help="that the programs take turns")
    add("--seconds", type=float, default=20.0, help="after which a case ends earlier")
    add("--files", type=pathlib.Path, help="folder that keeps the exported files")
    add("--prepare", action="store_true", help="write the files alone")
    add("--tables", action="store_true", help="print tables of recorded results alone")
    add("--out", type=pathlib.Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    if options.prepare and options.files is None:
        parser.error("--prepare needs --files")
    if options.programs is None:
        options.programs = [
            name
            for name, form in deployed.FORMS.items()
            if form.has_processor or not options.processor
        ]
    return options


def compile_for_another():
    """Has XLA compile for x86-64-v3; nothing may have been computed before."""
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_max_isa=AVX2"
    cpu.counts_bits_in_vectors = lambda: False


def main(arguments=None):
    options = parse(arguments)
    if options.tables:
        print(tables(options.out))
        return
    if options.processor:
        compile_for_another()
    cpu.keep_freed_memory()
    with tempfile.TemporaryDirectory() as scratch:
        for model in options.models:
            for width in options.widths:
                name = "-".join(filter(None, (model, f"{width:g}", options.processor)))
                folder = (options.files or pathlib.Path(scratch)) / name
                run_case(model, width, folder, options)


def run_case(model, width, folder, options):
    """Measures one network, unless its files alone are wanted."""
    deployed.write_files(model, width, folder, options.programs, options.processor)
    if options.prepare:
        return
    rows = measure(model, width, folder, options)
    show(rows)
    vectors = cpu.counts_bits_in_vectors()
    result = {
        "threads": deployed.threads(),
        "compiled_for": options.processor or "this processor",
        "counts_bits_in_vectors": vectors,
        "vector_bits": 512 if vectors else 256,
        "packages": timing.versions(PACKAGES),
        "rows": rows,
    }
    parts = model, f"width{width:g}", f"threads{deployed.threads()}", options.processor
    timing.write(options.out / f"{'-'.join(filter(None, parts))}.json", result)


if __name__ == "__main__":
    main()
