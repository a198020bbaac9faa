"""What does a trained network cost where it is used?

One network is exported in every format, and its files take turns: our compiled
function, StableHLO through jax, IREE by counting bits and in float32, and onnxruntime
in float32. For each: bytes of the file, seconds from the file to the first prediction,
the latency of a single image (median and 99th percentile) and images per second of a
batch; IREE's files take images one by one. All use as many threads as the process may
use processors, so one thread and two are

    taskset -c 0 python -m benchmarks.deployment --models DigitsNet
    taskset -c 0,1 python -m benchmarks.deployment --models DigitsNet

It needs Linux and the extra `export`. Weights are by chance, with averages of images
that the network has seen once.
"""

import argparse
import functools
import os
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from benchmarks import inference as networks_of
from benchmarks import timing
from sgdat_jax import cpu, inference
from sgdat_jax.inference import weight_files
from sgdat_jax.inference.export import iree, networks
from sgdat_jax.models import specs

RESULTS = pathlib.Path(__file__).parent / "results" / "deployment"
MODELS = ("DigitsNet", "BinaryNet", "BiRealResNet18")
BATCH = 64
CALLS = 5  # timed in a row
PACKAGES = ("iree-base-compiler", "iree-base-runtime", "onnxruntime")
RIVAL = "onnxruntime float32"
# From images to a program that predicts them; they lie where it takes them from.
Bind = Callable[[np.ndarray], Callable[[], np.ndarray]]


class Program(NamedTuple):
    file_bytes: int
    load_seconds: float  # from the file to the first prediction
    bind: Bind


def threads():
    return len(os.sched_getaffinity(0))


def write_weights(model, width, file):
    """Writes a file of weights as training does."""
    state = networks_of.made_weights(model, width)
    params, stats = nnx.split_state(state, nnx.Param, ...)
    shape = networks_of.SHAPES[model]
    spec = specs.Spec(model, 10, shape, width=width)
    details = {"mean": [0.5] * shape[2], "std": [0.25] * shape[2]}
    weight_files.write(file, spec, params, stats, details)


def run_iree(file):
    """Returns the function of a module, on all threads of the process."""
    from iree import runtime

    driver = "local-sync" if threads() == 1 else "local-task"
    if threads() > 1:
        runtime.flags.parse_flags(f"--task_topology_group_count={threads()}")
    context = runtime.SystemContext(config=runtime.Config(driver))
    module = runtime.VmModule.mmap(context.instance, str(file))
    context.add_vm_module(module)
    main = context.modules[module.name]["main"]

    def bind(images):
        device = context.config.device
        placed = [
            runtime.asdevicearray(device, image) for image in images[:, np.newaxis]
        ]
        return lambda: [main(image).to_host() for image in placed]

    return bind


def run_onnx(file):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    session = onnxruntime.InferenceSession(
        file, options, providers=["CPUExecutionProvider"]
    )
    return lambda images: lambda: session.run(None, {"images": images})[0]


def run_stablehlo(file):
    exported = jax.export.deserialize(bytearray(file.read_bytes()))
    return bind_jax(jax.jit(exported.call))


def run_ours(file, dtype):
    return bind_jax(inference.load(file, dtype))


def bind_jax(classify):
    def bind(images):
        placed = jax.device_put(images)
        return lambda: np.asarray(classify(placed))

    return bind


def made_programs(weights, folder):
    """Exports a network in every format; returns the programs by name."""
    readers: dict[str, tuple[pathlib.Path, Any]] = {
        "ours bits": (weights, functools.partial(run_ours, dtype="bits")),
        "ours float32": (weights, functools.partial(run_ours, dtype="float32")),
    }
    for name, kind, read in (
        ("jax StableHLO", "stablehlo", run_stablehlo),
        ("IREE bits", "iree", run_iree),
        (RIVAL, "onnx", run_onnx),
    ):
        report = inference.export(weights, kind, folder / f"net.{kind}")
        readers[name] = report.file, read
    in_floats = networks.open_network(weights, None, "uint8").with_products("float32")
    file = folder / "float32.vmfb"
    file.write_bytes(iree.content(in_floats, networks.Options()))
    readers["IREE float32"] = file, run_iree
    image = in_floats.random_inputs(1)
    programs = {}
    for name, (file, read) in readers.items():
        begun = time.perf_counter()
        bind = read(file)
        bind(image)()
        seconds = time.perf_counter() - begun
        programs[name] = Program(file.stat().st_size, seconds, bind)
    return programs, in_floats.random_inputs(BATCH)


def take_turns(turns, rounds, seconds):
    """Returns seconds of shape (rounds, programs, calls).

    Each program's first call of a round is not timed: after the others, the caches lack
    what it needs. The order of programs is by chance.
    """
    taken, chance = [], np.random.default_rng(0)
    begun = time.perf_counter()
    for _ in range(rounds):
        row = np.zeros((len(turns), CALLS))
        for place in chance.permutation(len(turns)):
            turns[place]()
            for call in range(CALLS):
                start = time.perf_counter()
                turns[place]()
                row[place, call] = time.perf_counter() - start
        taken.append(row)
        if len(taken) >= 5 and time.perf_counter() - begun > seconds:
            break
    return np.array(taken)


def measure(model, width, options):
    """Returns a row per program of one network."""
    with tempfile.TemporaryDirectory() as folder:
        weights = pathlib.Path(folder, "net.npz")
        write_weights(model, width, weights)
        shapes = specs.Spec(model, 10, networks_of.SHAPES[model], width=width).shapes()
        in_floats = 4 * sum(leaf.size for leaf in jax.tree.leaves(nnx.state(shapes)))
        programs, images = made_programs(weights, pathlib.Path(folder))
        times = {}
        for count in (1, BATCH):
            turns = [program.bind(images[:count]) for program in programs.values()]
            times[count] = take_turns(turns, options.rounds, options.seconds)
    typical = np.median(times[1], -1)
    rival = list(programs).index(RIVAL)
    ours = list(programs).index("ours bits")
    return [
        {
            "model": model,
            "width": width,
            "threads": threads(),
            "program": name,
            "file_bytes": program.file_bytes,
            "over_float32_bytes": program.file_bytes / in_floats,
            "load_seconds": program.load_seconds,
            "rounds": len(times[1]),
            "calls_a_round": CALLS,
            "latency": timing.spread(times[1][:, place])._asdict(),
            "latency_99": float(np.percentile(times[1][:, place], 99)),
            "over_onnxruntime": timing.paired_ratio(typical, place, rival)._asdict(),
            "over_ours": timing.paired_ratio(typical, place, ours)._asdict(),
            "images_per_second": BATCH / float(np.median(times[BATCH][:, place])),
        }
        for place, (name, program) in enumerate(programs.items())
    ]


def show(rows):
    cells = [
        {
            "program": row["program"],
            "file kB": f"{row['file_bytes'] / 1e3:,.0f}",
            "of float32": f"1/{1 / row['over_float32_bytes']:.1f}",
            "load s": f"{row['load_seconds']:.2f}",
            "ms": f"{1e3 * row['latency']['median']:.3f}",
            "99 %": f"{1e3 * row['latency_99']:.3f}",
            "/ onnxruntime": timing.ratio_text(row["over_onnxruntime"]),
            "images/s": f"{row['images_per_second']:,.0f}",
        }
        for row in rows
    ]
    print(f"{rows[0]['model']}, width {rows[0]['width']:g}, {threads()} threads")
    timing.show(cells, names=("program",))


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, default=list(MODELS))
    add("--widths", nargs="+", type=float, default=[0.25, 1.0])
    add("--rounds", type=int, default=501, help="that the programs take turns")
    add("--seconds", type=float, default=20.0, help="after which a case ends earlier")
    add("--out", type=pathlib.Path, default=RESULTS, help="folder of the results")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    cpu.keep_freed_memory()
    for model in options.models:
        for width in options.widths:
            rows = measure(model, width, options)
            show(rows)
            result = {
                "threads": threads(),
                "counts_bits_in_vectors": cpu.counts_bits_in_vectors(),
                "vector_bits": 512 if cpu.counts_bits_in_vectors() else 256,
                "packages": timing.versions(PACKAGES),
                "rows": rows,
            }
            name = f"{model}-width{width:g}-threads{threads()}.json"
            timing.write(options.out / name, result)


if __name__ == "__main__":
    main()
