r"""What does BinaryNet cost in Larq Compute Engine?

The same architecture, written in Larq with weights by chance, converted to a file of
the engine, and run by its interpreter. The engine is made for Arm; on x86 its binary
convolutions have no kernels of their own, and its dense layers are real-valued
everywhere. It needs an environment of its own, without this library:

    python3.11 -m venv engine
    engine/bin/pip install larq-compute-engine larq 'tensorflow-cpu<2.17' \
        'tf_keras<2.17'
    TF_USE_LEGACY_KERAS=1 taskset -c 0 engine/bin/python -m benchmarks.larq_engine
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import time

import larq_compute_engine
import numpy as np
from larq_compute_engine.tflite.python.interpreter import Interpreter

from benchmarks import larq_nets

RESULTS = pathlib.Path(__file__).parent / "results" / "deployment"
PACKAGES = ("larq", "larq-compute-engine", "tensorflow-cpu")


def measure(width, seconds):
    """Returns file bytes and latencies of single images."""
    # The engine counts bits with pads of +1 alone.
    network = larq_nets.binary_net(width, pad_values=1.0)
    content = larq_compute_engine.convert_keras_model(network)
    threads = len(os.sched_getaffinity(0))
    begun = time.perf_counter()
    interpreter = Interpreter(content, num_threads=threads)
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    interpreter.predict(image)
    loaded = time.perf_counter() - begun
    taken, begun = [], time.perf_counter()
    while time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        interpreter.predict(image)
        taken.append(time.perf_counter() - start)
    return {
        "model": "BinaryNet",
        "width": width,
        "threads": threads,
        "program": "larq-compute-engine",
        "file_bytes": len(content),
        "load_seconds": loaded,
        "calls": len(taken),
        "latency": dict(
            zip(
                ("median", "low", "high"),
                np.percentile(taken, (50, 25, 75)),
                strict=True,
            )
        ),
        "latency_99": float(np.percentile(taken, 99)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--widths", nargs="+", type=float, default=[0.25, 1.0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each case")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    rows = [measure(width, options.seconds) for width in options.widths]
    for row in rows:
        print(row)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    file = options.out / f"larq-threads{rows[0]['threads']}.json"
    file.write_text(json.dumps({"versions": versions, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
